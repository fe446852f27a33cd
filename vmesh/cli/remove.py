"""`./mesh remove`: take everything of vmesh off the hosts."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from vmesh.base import paths
from vmesh.base.exits import FAILED, OK, USAGE, CliError
from vmesh.base.progress import Steps, new_log
from vmesh.base.words import shortened
from vmesh.cli import named, packages
from vmesh.model.inventory import Inventory, load
from vmesh.remote import playbook
from vmesh.rollout import record

PLAYBOOK = paths.playbook("uninstall")
REMOVED = (
    "its units, configuration, releases below /opt, users, snapshots, and the record of what was"
    " applied"
)


def run(arguments: argparse.Namespace) -> int:
    """Say what will be removed, ask, then remove it, or only try it with --check."""
    inventory, place = load(*arguments.inventory), record.folder(*arguments.inventory)
    hosts = chosen(arguments.host, inventory, named(arguments.inventory))
    print(f"From {shortened(hosts, 6)}: vmesh is removed, with {REMOVED}.")
    print("Jaeger's traces go too." if arguments.traces else "Jaeger's traces stay.")
    if not (arguments.check or arguments.yes or _agreed()):
        raise CliError("Nothing was removed. --yes removes without a question", USAGE)
    steps = Steps(1, new_log("remove"))
    packages.install(packages.missing(packages.ANSIBLE), steps, no_install=arguments.no_install)
    edges = [host for host in hosts if host in edge_hosts(inventory)]
    wanted = {
        "edges": edges,
        "hosts": [host for host in hosts if host not in edges],
        "traces": arguments.traces,
        "drain_seconds": arguments.drain,
    }
    outcome = _play(inventory, arguments, wanted, steps)
    for line in playbook.summary(outcome):
        steps.note(f"      {line}")
    if outcome.code != 0:
        steps.note(f"{PLAYBOOK} failed (exit code {outcome.code}); log: {steps.log_path}")
        return FAILED
    if not arguments.check:
        record.forget(place, hosts)
    return OK


def chosen(wanted: Sequence[str] | None, inventory: Inventory, name: str) -> list[str]:
    """Return the hosts to remove vmesh from: `wanted`, or all of the inventory.

    Raises CliError for a host that the inventory does not have.
    """
    known = list(inventory.hosts)
    unknown = [host for host in wanted or () if host not in known]
    if unknown:
        raise CliError(
            f"--host: {name} has no host {', '.join(unknown)}. It has: {', '.join(known)}", USAGE
        )
    return [host for host in known if not wanted or host in wanted]


def edge_hosts(inventory: Inventory) -> set[str]:
    """Return the hosts of edges; the mesh may be wrong, so nothing is compiled."""
    edges = inventory.mesh.get("mesh_edges")
    groups = [
        edge.get("group", name) if isinstance(edge, dict) else name
        for name, edge in (edges.items() if isinstance(edges, dict) else ())
    ]
    return {host for group in groups for host in inventory.groups.get(str(group), ())}


def _agreed() -> bool:
    if not sys.stdin.isatty():
        return False
    return input("Remove it? [y/N] ").strip().lower() in {"y", "yes"}


def _play(
    inventory: Inventory, arguments: argparse.Namespace, wanted: dict[str, object], steps: Steps
) -> playbook.Outcome:
    with (
        steps.phase("remove", "trying to remove vmesh" if arguments.check else "removing vmesh"),
        tempfile.TemporaryDirectory(prefix="vmesh-") as folder,
    ):
        variables = Path(folder, "variables.json")
        variables.write_text(json.dumps({"vmesh_uninstall": wanted}))
        return playbook.apply(
            arguments.inventory,
            steps,
            fast=bool(inventory.lab),
            playbook=PLAYBOOK,
            extra=(f"--extra-vars=@{variables}", *(["--check"] if arguments.check else [])),
        )
