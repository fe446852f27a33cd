"""`./mesh certs`: who each proxy can prove to be, and for how long; and what changes that."""

from __future__ import annotations

import argparse
import dataclasses
import time

from vmesh.base.exits import FAILED, OK, USAGE, CliError
from vmesh.base.words import plural
from vmesh.cli import certs_playbook, certs_revoke, certs_rollover, certs_verify
from vmesh.cli.certs_playbook import Planned
from vmesh.cli.output import certs as output
from vmesh.compile.host_spec import JAEGER
from vmesh.compile.topology import topology
from vmesh.remote.mesh import Mesh, read
from vmesh.rollout import anchors, record

PLAYBOOK = "certs"
_OTHERS = {
    "verify": certs_verify.run,
    "rollover": certs_rollover.run,
    "revoke": certs_revoke.run,
}


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked; without a word, show the identities."""
    mesh = read(*arguments.inventory)
    planned = {host: spec.identity for host, spec in mesh.spec.hosts.items() if spec.identity}
    other = _OTHERS.get(arguments.what)
    if not planned:
        text = "No proxy has an identity, because mesh_security.mtls is off."
        if other:
            raise CliError(f"{text} There is nothing to {arguments.what}.", USAGE)
        print(text)
        return OK
    for option, given, takers in (
        ("a second name", arguments.other, {"verify"}),
        ("--now", arguments.now, {"revoke"}),
        ("--json", arguments.json, {None, "renew", "verify"}),
    ):
        if given and arguments.what not in takers:
            raise CliError(f"certs {arguments.what or ''} does not take {option}.", USAGE)
    return (other or _show)(arguments, mesh, planned)


def _show(arguments: argparse.Namespace, mesh: Mesh, planned: Planned) -> int:
    """Ask the hosts, after renewing where that was asked; exit code 1 when one needs attention."""
    wanted = chosen(arguments.name, planned)
    renewals = wanted if arguments.what == "renew" else {}
    what = "renewing the identities of" if renewals else "asking"
    text = f"{what} {len(wanted)} {plural('host', len(wanted))}"
    told, outcome, log = certs_playbook.ask(
        mesh, arguments, PLAYBOOK, wanted, text, {"renew": renewals}
    )
    known = anchors.load(record.folder(*arguments.inventory))
    called_by = _callers(mesh)
    found = [
        row
        for host in wanted
        for row in output.rows(
            host,
            planned[host],
            told[host]["certs"] if host in told else None,
            known.get(host),
            called_by,
            time.time(),
        )
    ]
    certs_playbook.show(arguments.json, output.table(found), output.as_data(found), outcome, log)
    return FAILED if any(row.attention for row in found) else OK


def chosen(name: str | None, planned: Planned) -> dict[str, list[str]]:
    """Return host -> what to tell `vmesh-certs renew` there, for all hosts or those of `name`.

    Raises CliError for a name that is neither a host's nor a proxy's.
    """
    found = certs_playbook.proxies_of(name, planned)
    if name is None or name in planned:
        return {host: ["--all"] for host in found}
    return found


def _callers(mesh: Mesh) -> dict[str, tuple[str, ...]]:
    """Return who calls each proxy, by the proxy's name."""
    whole = topology({host: dataclasses.asdict(spec) for host, spec in mesh.spec.hosts.items()})
    found = {service.name: tuple(sorted(service.called_by)) for service in whole.services.values()}
    found |= dict.fromkeys(mesh.spec.mesh.edges, ("clients",))
    return found | {JAEGER: ("all proxies",)}
