"""`./mesh certs verify A B`: whether A's proxies can call B by mTLS, and if not, why."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from vmesh.base.exits import FAILED, OK, USAGE, CliError
from vmesh.base.words import plural
from vmesh.cli import certs_playbook
from vmesh.cli.certs_playbook import Planned
from vmesh.cli.output import certs_verify as output
from vmesh.cli.output.certs_verify import NO_ANSWER, Pair
from vmesh.compile import identities
from vmesh.remote.mesh import Mesh
from vmesh.rollout import anchors, record

PLAYBOOK = "verify"


def run(arguments: argparse.Namespace, mesh: Mesh, planned: Planned) -> int:
    """Have A's hosts ask each instance of B; exit code 1 when one does not answer."""
    if not (arguments.name and arguments.other):
        raise CliError("Name who calls and who is called: ./mesh certs verify A B", USAGE)
    asking = certs_playbook.proxies_of(arguments.name, planned)
    targets = list(_targets(mesh, planned, arguments.other))
    if not targets:
        raise CliError(
            f"{arguments.other} is no service: nobody calls an edge by mTLS. Name a service, or a"
            " host with one.",
            USAGE,
        )
    known = anchors.load(record.folder(*arguments.inventory))
    requests = {
        host: [
            {**each, "proxy": proxy, "anchor": known.get(each["host"], "")}
            for proxy in proxies
            for each in targets
        ]
        for host, proxies in asking.items()
    }
    count = sum(len(each) for each in requests.values())
    text = f"having {len(asking)} {plural('host', len(asking))} make {count} requests"
    told, outcome, log = certs_playbook.ask(
        mesh, arguments, PLAYBOOK, asking, text, {"requests": requests}
    )
    declared = identities.callers(mesh.spec.mesh)
    found = []
    for host, wanted in requests.items():
        said = (told.get(host) or {}).get("found") or [{"why": NO_ANSWER}] * len(wanted)
        for request, each in zip(wanted, said, strict=True):
            found.append(_pair(host, request, each, declared))
    certs_playbook.show(arguments.json, output.table(found), output.as_data(found), outcome, log)
    return FAILED if any(each.why for each in found) else OK


def _targets(mesh: Mesh, planned: Planned, name: str) -> Iterator[dict[str, Any]]:
    """Yield the instances of the services that `name` means, as the module takes them."""
    for host, proxies in certs_playbook.proxies_of(name, planned).items():
        for proxy in proxies:
            if service := mesh.spec.mesh.services.get(proxy):
                yield {
                    "service": proxy,
                    "host": host,
                    "address": mesh.spec.hosts[host].address,
                    "port": service.port,
                    "identity": planned[host].identities[proxy],
                }


def _pair(
    host: str, request: dict[str, Any], told: dict[str, Any], declared: dict[str, list[str]]
) -> Pair:
    service, proxy = request["service"], request["proxy"]
    return Pair(
        proxy=proxy,
        host=host,
        service=service,
        there=request["host"],
        address=f"{request['address']}:{request['port']}",
        declared=proxy in declared[service] or proxy == service,
        **{key: told[key] for key in ("why", "said", "tls", "identity", "status") if key in told},
    )
