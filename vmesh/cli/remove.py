"""`./mesh remove`: take everything of vmesh off the hosts."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from vmesh.base import paths
from vmesh.base.exits import FAILED, OK, USAGE, CliError
from vmesh.base.progress import Steps, new_log
from vmesh.base.words import plural, shortened
from vmesh.cli import named, packages
from vmesh.model.inventory import Inventory, load
from vmesh.remote import answers, playbook
from vmesh.remote.answers import Answer
from vmesh.rollout import anchors, desired_state, history, record, run_lock

PLAYBOOK = paths.playbook("uninstall")


def run(arguments: argparse.Namespace) -> int:
    """Ask the hosts what there is, say it, ask the user, then remove it; --check ends before."""
    inventory, place = load(*arguments.inventory), record.folder(*arguments.inventory)
    hosts = chosen(arguments.host, inventory, named(arguments.inventory))
    steps = Steps(1 if arguments.check else 2, new_log("remove"))
    packages.install(packages.missing(packages.ANSIBLE), steps, no_install=arguments.no_install)
    found, outcome = _play(inventory, arguments, hosts, steps, check=True)
    silent = [host for host in hosts if host not in found]
    _tell(outcome, silent, steps)
    if not found:
        return FAILED
    if refusal := run_lock.held_on_hosts(found, run_lock.current_user()):
        raise CliError(refusal)
    print("\n".join(words(found)))
    there = [host for host, answer in found.items() if answer["removed"]]
    if there and not arguments.check:
        if not (arguments.yes or _agreed()):
            raise CliError("Nothing was removed. --yes removes without a question", USAGE)
        if refusal := run_lock.held_locally(desired_state.lock(arguments.inventory), os.getpid()):
            raise CliError(refusal)
        done, outcome = _play(inventory, arguments, there, steps, check=False)
        silent += [host for host in there if host not in done]
        _tell(outcome, silent, steps)
    if not arguments.check:
        gone = [host for host in found if host not in silent]
        record.forget(place, gone)
        history.forget(place, gone)
        anchors.forget(place, gone)
    return FAILED if silent else OK


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


def words(found: Mapping[str, Answer]) -> list[str]:
    """Return the lines that tell what is removed from which host, and what stays."""
    lines = []
    for host, answer in found.items():
        if answer["removed"]:
            lines += [f"{host}: removed:", *(f"  - {each}" for each in answer["removed"])]
        if answer["kept"]:
            lines.append(f"{host}: {', '.join(answer['kept'])} stays (--traces removes it)")
    bare = [host for host, answer in found.items() if not answer["removed"]]
    if bare:
        lines.append(f"Nothing of vmesh is on {shortened(bare, 6)}.")
    return lines


def _agreed() -> bool:
    if not sys.stdin.isatty():
        return False
    return input("Remove it? [y/N] ").strip().lower() in {"y", "yes"}


def _tell(outcome: playbook.Outcome, silent: Sequence[str], steps: Steps) -> None:
    """Say which hosts did not do what they were asked."""
    if silent or outcome.code != 0:
        for line in playbook.summary(outcome):
            steps.note(f"      {line}")
        steps.note(f"{PLAYBOOK} failed (exit code {outcome.code}); log: {steps.log_path}")


def _play(
    inventory: Inventory,
    arguments: argparse.Namespace,
    hosts: Sequence[str],
    steps: Steps,
    *,
    check: bool,
) -> tuple[dict[str, Answer], playbook.Outcome]:
    """Remove vmesh from `hosts`, or only look (`check`); return what each had, and the outcome."""
    edges = edge_hosts(inventory)
    wanted = {
        "edges": [host for host in hosts if host in edges],
        "hosts": [host for host in hosts if host not in edges],
        "traces": arguments.traces,
        "drain_seconds": arguments.drain,
    }
    count = f"{len(hosts)} {plural('host', len(hosts))}"
    text = f"asking {count} what is there" if check else f"removing vmesh from {count}"
    with (
        steps.phase("look" if check else "remove", text),
        tempfile.TemporaryDirectory(prefix="vmesh-") as name,
    ):
        folder = Path(name)
        variables = playbook.extra_vars(folder, vmesh_uninstall={**wanted, "answers": name})
        outcome = playbook.apply(
            arguments.inventory,
            steps,
            fast=bool(inventory.lab),
            playbook=PLAYBOOK,
            extra=(variables, *(["--check"] if check else [])),
        )
        return answers.read(folder, hosts), outcome
