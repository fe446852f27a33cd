"""What the commands of `./mesh certs` share: names, and playbooks whose hosts answer."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vmesh.base import paths
from vmesh.base.exits import USAGE, CliError
from vmesh.base.progress import Steps, new_log
from vmesh.cli import packages
from vmesh.compile.host_spec import HostIdentity
from vmesh.remote import answers, playbook
from vmesh.remote.answers import Answer
from vmesh.remote.mesh import Mesh

Planned = Mapping[str, HostIdentity]


def proxies_of(name: str | None, planned: Planned) -> dict[str, list[str]]:
    """Return host -> the proxies there that `name` means: a host's, or those called so; None: all.

    Raises CliError for a name that is neither a host's nor a proxy's.
    """
    found = {
        host: [proxy for proxy in each.identities if name in {None, host, proxy}]
        for host, each in planned.items()
    }
    if name is not None and name in planned:
        # A proxy may be called as a host is.
        found = {name: found[name]}
    found = {host: proxies for host, proxies in found.items() if proxies}
    if not found:
        proxies = {proxy for each in planned.values() for proxy in each.identities}
        known = ", ".join(sorted(proxies | planned.keys()))
        raise CliError(f"Nothing with an identity is called {name}. Known: {known}", USAGE)
    return found


def begin(arguments: argparse.Namespace) -> Steps:
    """Return the steps of a command, with the packages there that it needs."""
    steps = Steps(1, new_log("certs"))
    packages.install(packages.missing(packages.ANSIBLE), steps, no_install=arguments.no_install)
    return steps


def show(
    as_json: bool, table: Iterable[str], data: Iterable[Any], outcome: playbook.Outcome, log: Path
) -> None:
    """Print what hosts have told; raises CliError where the playbook has failed on some."""
    print(json.dumps(list(data), indent=2) if as_json else "\n".join(table))
    if outcome.code != 0:
        raise CliError("\n".join([*playbook.summary(outcome), f"log: {log}"]))


def ask(  # noqa: PLR0913, PLR0917 - what a playbook is run by
    mesh: Mesh,
    arguments: argparse.Namespace,
    name: str,
    hosts: Iterable[str],
    text: str,
    options: Mapping[str, Any],
) -> tuple[dict[str, Answer], playbook.Outcome, Path]:
    """Run the playbook `name`; return host -> what it told, the outcome, and the log.

    options: its variable `vmesh_<name>`, but for `answers`
    """
    steps, hosts = begin(arguments), list(hosts)
    with steps.phase(name, text), tempfile.TemporaryDirectory(prefix="vmesh-") as place:
        folder = Path(place)
        variables = {f"vmesh_{name}": {**options, "answers": str(folder)}}
        limit = folder / "hosts"
        limit.write_text("".join(f"{host}\n" for host in hosts))
        outcome = playbook.apply(
            arguments.inventory,
            steps,
            fast=mesh.has_lab,
            playbook=paths.playbook(name),
            extra=(f"--limit=@{limit}", playbook.extra_vars(folder, **variables)),
        )
        return answers.read(folder, hosts), outcome, steps.log_path
