"""`./mesh test`: the checks, then every molecule scenario on VMs of its own."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vmesh.base import paths
from vmesh.base.exits import FAILED, OK, USAGE, CliError
from vmesh.base.progress import Steps, new_log
from vmesh.cli import check as check_command
from vmesh.cli import packages, supplies
from vmesh.remote import playbook

ANSI = re.compile(r"\x1b\[[0-9;]*m")
# Molecule says `INFO  default ➜ converge: Executing` as each action begins.
ACTION = re.compile(r"(\S+) (?:➜|>) (\w+): Executing")


def run(arguments: argparse.Namespace) -> int:
    """Run everything; the last line counts what passed and what failed."""
    scenarios = chosen(paths.PROJECT / "molecule", arguments.scenario)
    steps = Steps(len(scenarios) + 1, new_log("test"))
    print(f"log: {steps.log_path}", flush=True)
    with steps.phase("prepare", "seeing to what the tests need"):
        packages.install(_missing_packages(), steps, no_install=arguments.no_install)
        supplies.provide(steps)
    verdicts = check_command.check(steps.log_path, every=True, coverage=True)
    results = [verdict.code == 0 for verdict in verdicts]
    if all(results):
        with _room(arguments.inventory, steps, leave=arguments.alongside):
            for scenario in scenarios:
                results.append(_molecule(scenario, steps))
    else:
        steps.note("the molecule scenarios were not begun: the checks come first")
    steps.record("test", result="ok" if all(results) else "failed")
    print(tally(results), flush=True)
    return OK if all(results) else FAILED


def tally(results: list[bool]) -> str:
    """Return the last line, which scripts read: `N passed, N failed`."""
    return f"{results.count(True)} passed, {results.count(False)} failed"


def chosen(folder: Path, wanted: list[str] | None) -> list[str]:
    """Return the scenarios to run: those asked for, else all, `default` first.

    Raises CliError when one that was asked for does not exist, or there is none at all.
    """
    there = sorted(path.parent.name for path in folder.glob("*/molecule.yml"))
    there.sort(key=lambda name: name != "default")
    unknown = [name for name in wanted or [] if name not in there]
    if not there:
        raise CliError(f"there is no molecule scenario in {folder}", USAGE)
    if unknown:
        raise CliError(f"no such scenario: {', '.join(unknown)} (there: {', '.join(there)})", USAGE)
    return wanted or there


def _missing_packages() -> list[str]:
    from vmesh.lab import missing_requirements  # noqa: PLC0415 - not for --help

    return [
        *packages.missing((*packages.ANSIBLE, *packages.CHECK, *packages.BROWSER)),
        *(requirement.package for requirement in missing_requirements()),
        *supplies.packages_for_making(),
    ]


@contextmanager
def _room(inventory: Sequence[Path], steps: Steps, *, leave: bool) -> Iterator[None]:
    """Pause the user's lab, whose VMs would want the same processors, and resume it after."""
    from vmesh.lab import Lab  # noqa: PLC0415
    from vmesh.model.inventory import load  # noqa: PLC0415 - Ansible takes long to import

    loaded = load(*inventory)
    if leave or not loaded.lab:
        yield
        return
    lab = Lab.from_inventory(loaded)
    lab.pause(steps)
    try:
        yield
    finally:
        lab.resume(steps)


def _molecule(scenario: str, steps: Steps) -> bool:
    """Run one scenario from create to destroy; tell whether it passed."""
    aloud = os.environ.get("CI", "").lower() in {"true", "1"}
    output = playbook.Tail(steps.log_path, steps.log_path.stat().st_size)
    events_path = steps.log_path.with_suffix(".events")
    new_events = playbook.events(events_path)
    outcome = playbook.Outcome()
    action = scenario

    def look() -> None:
        nonlocal action
        for line in output.lines():
            if aloud:
                print(line, flush=True)
            begun = ACTION.search(ANSI.sub("", line))
            if begun:
                action = begun[2]
                steps.step(action)
        for event in new_events():
            outcome.take(event)
            steps.status(f"{action}: {outcome.now()}")

    env = playbook.environment(os.environ, events_path, fast=False)
    with steps.phase(scenario, f"molecule test: {scenario}"):
        try:
            code = playbook.follow(["molecule", "test", "-s", scenario], env, steps.log_path, look)
        except KeyboardInterrupt:
            steps.step("interrupted: destroying the scenario's VMs")
            destroy = ["molecule", "destroy", "-s", scenario]
            playbook.follow(destroy, env, steps.log_path, lambda: None)
            raise
    if code != 0:
        for line in playbook.summary(outcome):
            steps.note(f"      {line}")
        if not aloud:
            _last_lines(steps.log_path)
        steps.note(f"molecule test: {scenario} failed; full output: {steps.log_path}")
    return code == 0


def _last_lines(log: Path, count: int = 60) -> None:
    for line in log.read_text(errors="replace").splitlines()[-count:]:
        print(line, file=sys.stderr)
