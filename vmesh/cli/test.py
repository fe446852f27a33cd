"""`./mesh test`: the checks, then every molecule scenario on VMs of its own."""

from __future__ import annotations

import argparse
import os
import re
from collections import deque
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
    failures: list[str] = []
    if all(results):
        with _room(arguments.inventory, steps, leave=arguments.alongside):
            for scenario in scenarios:
                failure = _molecule(scenario, steps)
                results.append(not failure)
                failures += failure
    else:
        steps.note("the molecule scenarios were not begun: the checks come first")
    steps.record("test", result="ok" if all(results) else "failed")
    # Last, as a scenario that failed early is far up by now.
    for line in failures:
        print(line, flush=True)
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


def _molecule(scenario: str, steps: Steps, count: int = 80) -> list[str]:
    """Run one scenario from create to destroy.

    Returns nothing when it passed, else lines about the failure: the task that failed, and the
    last `count` lines before the VMs were destroyed.
    """
    aloud = os.environ.get("CI", "").lower() in {"true", "1"}
    output = playbook.Tail(steps.log_path, steps.log_path.stat().st_size)
    events_path = steps.log_path.with_suffix(".events")
    new_events = playbook.events(events_path)
    outcome = playbook.Outcome()
    action = scenario
    last: deque[str] = deque(maxlen=count)

    def look() -> None:
        nonlocal action
        for line in output.lines():
            if aloud:
                print(line, flush=True)
            plain = ANSI.sub("", line)
            begun = ACTION.search(plain)
            if begun:
                action = begun[2]
                steps.step(action)
            if action != "destroy":
                last.append(plain)
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
    if code == 0:
        return []
    outcome.code = code
    failed = f"molecule test: {scenario} failed; full output: {steps.log_path}"
    steps.note(failed)
    return [failed, *(f"      {line}" for line in (*last, *playbook.summary(outcome)))]
