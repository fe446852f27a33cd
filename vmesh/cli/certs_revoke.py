"""`./mesh certs revoke HOST`: all who trust a host refuse it, at once."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vmesh.base.exits import FAILED, OK, USAGE, CliError
from vmesh.base.words import plural, shortened
from vmesh.cli import certs_playbook
from vmesh.cli.certs_playbook import Planned
from vmesh.compile import identities
from vmesh.model.access_types import STRICT
from vmesh.remote import playbook
from vmesh.remote.mesh import Mesh
from vmesh.render.renderer import Renderer
from vmesh.render.target_folder import TargetFolder
from vmesh.rollout import record, revocation
from vmesh.rollout.revocation import Change

PLAYBOOK = "revoke"


def run(arguments: argparse.Namespace, mesh: Mesh, planned: Planned) -> int:
    """Revoke a host that the inventory says is revoked, or with --now any; else say what to add.

    The exit code is 1 where somebody still trusts it.
    """
    host, recorded = arguments.name, record.read(record.folder(*arguments.inventory))
    security = mesh.spec.mesh.security
    said = host in security.revoked
    known = {*recorded, *planned}
    if host is None or (host not in known and not said):
        raise CliError(
            f"Name one host to revoke. Known: {', '.join(sorted(known))}",
            USAGE,
        )
    if not said:
        print("\n".join(_lines(mesh, host)))
        if not arguments.now:
            print(
                f"Nothing was changed: {host} is trusted. --now revokes it without the inventory."
            )
            return FAILED
    domain = identities.trust_domain(security, mesh.inventory.source)
    prefix = identities.identity(host, domain, "")
    found = revocation.changes(recorded, host, prefix, Renderer())
    if unknown := _unknown(found):
        raise CliError(
            f"Nothing was changed: what {shortened(unknown)} has is not known here to the letter."
            f" Run site.yml with {host} in mesh_security.revoked, which revokes it too."
        )
    if not found:
        print(f"Nobody trusts {host}.")
        return OK
    failed = _apply(arguments, mesh, host, found)
    if done := sorted(found.keys() - failed):
        print(f"{shortened(done)} refuse{'s' if len(done) == 1 else ''} {host} now.")
    if failed:
        print(f"{shortened(sorted(failed))} may still trust {host}. Run this again.")
    if security.mtls != STRICT:
        print(f"In plaintext {host} is still heard, because mesh_security.mtls is {security.mtls}.")
    if not said:
        print(f"Until the inventory has the lines above, the next run of site.yml trusts {host}.")
    return FAILED if failed else OK


def _lines(mesh: Mesh, host: str) -> Iterator[str]:
    """Yield what the inventory must have for a host to stay revoked."""
    names = sorted({*mesh.spec.mesh.security.revoked, host})
    yield f"To revoke {host} for good, let the inventory have:"
    yield "  mesh_security:"
    yield f"    revoked: [{', '.join(names)}]"
    whole = mesh.spec.mesh
    used = {each.group for each in whole.services.values()}
    used |= {each.group for each in whole.edges.values()}
    found = mesh.inventory.groups.items()
    if groups := sorted(name for name, hosts in found if host in hosts and name in used):
        yield f"and take {host} out of {plural('group', len(groups))} {', '.join(groups)}."


def _unknown(found: Mapping[str, list[Change]]) -> list[str]:
    return sorted(host for host, each in found.items() if any(change.unknown for change in each))


def _apply(
    arguments: argparse.Namespace, mesh: Mesh, revoked: str, found: Mapping[str, list[Change]]
) -> set[str]:
    """Have hosts get what changes there; return those that may not have it."""
    with tempfile.TemporaryDirectory(prefix="vmesh-") as name:
        proxies = {host: list(_written(Path(name), host, each)) for host, each in found.items()}
        text = f"having {len(found)} {plural('host', len(found))} refuse {revoked}"
        _, outcome, log = certs_playbook.ask(
            mesh, arguments, PLAYBOOK, found, text, {"proxies": proxies}
        )
    failed = {each.host for each in outcome.failures} | outcome.unreachable.keys()
    if outcome.code != 0:
        print("\n".join([*playbook.summary(outcome), f"log: {log}"]))
    return failed & found.keys() or (set(found) if outcome.code != 0 else set())


def _written(folder: Path, host: str, changes: list[Change]) -> Iterator[dict[str, Any]]:
    """Write the files of proxies below a folder; yield each proxy as the playbook takes it."""
    target = TargetFolder(folder / "files")
    for change in changes:
        place = f"{host}/{change.proxy}"
        for path, text in change.files.items():
            target.write(f"{place}/{path}", text)
        yield {
            "name": change.proxy,
            "folder": str(folder / "files" / place),
            "only": list(change.changed),
        }
