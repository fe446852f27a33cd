"""`./mesh certs`: who each proxy can prove to be, and for how long."""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path

from vmesh.base import paths
from vmesh.base.exits import FAILED, OK, USAGE, CliError
from vmesh.base.progress import Steps, new_log
from vmesh.base.words import plural
from vmesh.cli import packages
from vmesh.cli.output import certs as output
from vmesh.compile.host_spec import JAEGER, HostIdentity
from vmesh.compile.topology import topology
from vmesh.remote import answers, playbook
from vmesh.remote.answers import Answer
from vmesh.remote.mesh import Mesh, read
from vmesh.rollout import anchors, record

PLAYBOOK = paths.playbook("certs")


def run(arguments: argparse.Namespace) -> int:
    """Ask the hosts, after renewing where that was asked; exit code 1 when one needs attention."""
    mesh = read(*arguments.inventory)
    planned = {host: spec.identity for host, spec in mesh.spec.hosts.items() if spec.identity}
    if not planned:
        print("No proxy has an identity, because mesh_security.mtls is off.")
        return OK
    wanted = chosen(arguments.name, planned)
    renewals = wanted if arguments.what == "renew" else {}
    told, outcome, log = _ask(mesh, arguments, list(wanted), renewals)
    known = anchors.load(record.folder(*arguments.inventory))
    called_by = _callers(mesh)
    found = [
        row
        for host in wanted
        for row in output.rows(
            host, planned[host], told.get(host), known.get(host), called_by, time.time()
        )
    ]
    if arguments.json:
        print(json.dumps(output.as_data(found), indent=2))
    else:
        print("\n".join(output.table(found)))
    if outcome.code != 0:
        raise CliError("\n".join([*playbook.summary(outcome), f"log: {log}"]))
    return FAILED if any(row.attention for row in found) else OK


def chosen(name: str | None, planned: dict[str, HostIdentity]) -> dict[str, list[str]]:
    """Return host -> what to tell `vmesh-certs renew` there, for all hosts or those of `name`.

    Raises CliError for a name that is neither a host's nor a proxy's.
    """
    if name is None or name in planned:
        return {host: ["--all"] for host in planned if name in (None, host)}
    found = {host: [name] for host, each in planned.items() if name in each.identities}
    if not found:
        proxies = {proxy for each in planned.values() for proxy in each.identities}
        known = ", ".join(sorted(proxies | planned.keys()))
        raise CliError(f"Nothing with an identity is called {name}. Known: {known}", USAGE)
    return found


def _callers(mesh: Mesh) -> dict[str, tuple[str, ...]]:
    """Return who calls each proxy, by the proxy's name."""
    whole = topology({host: dataclasses.asdict(spec) for host, spec in mesh.spec.hosts.items()})
    found = {service.name: tuple(sorted(service.called_by)) for service in whole.services.values()}
    found |= dict.fromkeys(mesh.spec.mesh.edges, ("clients",))
    return found | {JAEGER: ("all proxies",)}


def _ask(
    mesh: Mesh, arguments: argparse.Namespace, hosts: list[str], renewals: dict[str, list[str]]
) -> tuple[dict[str, Answer], playbook.Outcome, Path]:
    """Run the playbook; return host -> what it told of its certificates, the outcome, the log."""
    steps = Steps(1, new_log("certs"))
    packages.install(packages.missing(packages.ANSIBLE), steps, no_install=arguments.no_install)
    what = "renewing the identities of" if renewals else "asking"
    text = f"{what} {len(hosts)} {plural('host', len(hosts))}"
    with (
        steps.phase("certs", text),
        tempfile.TemporaryDirectory(prefix="vmesh-") as name,
    ):
        folder = Path(name)
        variables = playbook.extra_vars(
            folder, vmesh_certs={"renew": renewals, "answers": str(folder)}
        )
        limit = folder / "hosts"
        limit.write_text("".join(f"{host}\n" for host in hosts))
        outcome = playbook.apply(
            arguments.inventory,
            steps,
            fast=mesh.has_lab,
            playbook=PLAYBOOK,
            extra=(f"--limit=@{limit}", variables),
        )
        told = {host: each["certs"] for host, each in answers.read(folder, hosts).items()}
        return told, outcome, steps.log_path
