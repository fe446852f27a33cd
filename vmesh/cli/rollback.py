"""`./mesh rollback`: bring a service, a host or the whole mesh back to what an earlier run left."""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vmesh.base import paths
from vmesh.base.exits import FAILED, OK, USAGE, CliError
from vmesh.base.progress import Steps, new_log
from vmesh.base.words import shortened
from vmesh.cli import packages
from vmesh.model.inventory import Inventory, load
from vmesh.remote import playbook
from vmesh.render.renderer import Renderer
from vmesh.rollout import changes, desired_state, history, record
from vmesh.rollout.record import HostRecord

PLAYBOOK = paths.playbook("rollback")
HOST = "host:"


@dataclass(frozen=True)
class Target:
    """What goes back: hosts, and the parts of them; all of a host when there are none."""

    words: str
    hosts: tuple[str, ...]
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class RollbackStep:
    """Where a host is and where it goes: numbers of runs, and what that changes, in words.

    after: None when the controller has no record of how the host was; the host may know
    """

    host: str
    before: int
    after: int | None
    words: tuple[str, ...] = ()


def run(arguments: argparse.Namespace) -> int:
    """Say what will happen, then do it, or only try it with --check."""
    inventory = load(*arguments.inventory)
    place = record.folder(*arguments.inventory)
    recorded = {
        host: state for host, state in record.read(place).items() if host in inventory.hosts
    }
    if not recorded:
        raise CliError(
            f"Nothing that was applied to this inventory is recorded here ({place}), so it is not"
            " known what to go back to. Take the records from where it was applied.",
            USAGE,
        )
    goal = target(arguments.name, recorded)
    number = chosen(arguments.to, goal, recorded, place)
    going_back = list(plan(goal, number, recorded, place))
    fresh = [step.host for step in going_back if is_younger(step, number, history.read(place))]
    going_back = [step for step in going_back if step.host not in fresh]
    if fresh:
        hosts = shortened(fresh, 4)
        print(f"Left alone, as nothing was applied there before run {number + 1}: {hosts}.")
    if not going_back:
        print(f"Nothing to do: {goal.words} is as run {number} left it.")
        return OK
    print("\n".join(summary_lines(goal, number, going_back)))
    steps = Steps(1, new_log("rollback"))
    packages.install(packages.missing(packages.ANSIBLE), steps, no_install=arguments.no_install)
    outcome = bring_back(
        inventory, arguments, goal, number, [step.host for step in going_back], steps
    )
    for line in playbook.summary(outcome):
        steps.note(f"      {line}")
    if outcome.code != 0:
        steps.note(f"{PLAYBOOK} failed (exit code {outcome.code}); log: {steps.log_path}")
        return FAILED
    if not arguments.check:
        print("\n".join(to_make_it_stay(goal)))
    return OK


def target(name: str | None, recorded: Mapping[str, HostRecord]) -> Target:
    """Return what `name` means: a service or edge, jaeger, a part of a host, or a host.

    A host may be called as a service is; then the service is meant, and host:NAME means the host.
    Raises CliError with the names that there are.
    """
    if name is None:
        return Target("the whole mesh", tuple(recorded))
    parts = {host: parts_of(state) for host, state in recorded.items()}
    wanted = name.removesuffix(".service")
    chosen_parts = {
        part for each in parts.values() for part in each if wanted in {part, part.partition("@")[2]}
    }
    if chosen_parts and not name.startswith(HOST):
        hosts = tuple(host for host, each in parts.items() if chosen_parts & set(each))
        return Target(name, hosts, tuple(sorted(chosen_parts)))
    host = name.removeprefix(HOST)
    if host in recorded:
        return Target(f"the host {host}", (host,))
    known = sorted({part.partition("@")[2] or part for each in parts.values() for part in each})
    raise CliError(
        f"There is no service, edge or host called {name} among what was applied."
        f" Services and edges: {', '.join(known)}. Hosts: {', '.join(sorted(recorded))}",
        USAGE,
    )


def parts_of(state: HostRecord) -> list[str]:
    """Return the parts of a host, those of apps that something else runs too."""
    apps = state["host"].get("external_apps") or ()
    return [*record.parts_of(state), *(f"env@{app['name']}" for app in apps)]


def chosen(to: int | None, goal: Target, recorded: Mapping[str, HostRecord], place: Path) -> int:
    """Return the number of the run to go back to: `to`, or the one before the last change.

    Raises CliError when there is no such run.
    """
    lines = history.read(place)
    last = max((int(line["run"]) for line in lines), default=0)
    if to is not None:
        if not 0 <= to < last:
            runs = f"The last one is {last}" if last else "None is written down"
            raise CliError(f"--to {to}: there is no run after that to take back. {runs}.", USAGE)
        return to
    if goal.parts:
        number = _before_last_change(goal, place)
    else:
        number = history.before_last(lines, goal.hosts)
    if number is None:
        raise CliError(
            f"No run that changed {goal.words} is written down ({place}), or it was the first."
            f" `{paths.COMMAND} history` shows the runs; name one with --to.",
            USAGE,
        )
    return number


def _before_last_change(goal: Target, place: Path) -> int | None:
    """Return the number before the last kept run that changed any of the parts on any host."""
    found = []
    for host in goal.hosts:
        numbers = history.numbers(place, host)
        for earlier, later in itertools.pairwise(numbers):
            old, new = (history.state(place, host, each) for each in (earlier, later))
            if old and new and history.rolled_back(new, old, goal.parts) != new:
                found.append(later)
    return max(found) - 1 if found else None


def plan(
    goal: Target, number: int, recorded: Mapping[str, HostRecord], place: Path
) -> Iterator[RollbackStep]:
    """Yield the step of each host that has an earlier state to go to."""
    now, then = dict(recorded), dict(recorded)
    numbers: dict[str, tuple[int, int | None]] = {}
    for host in goal.hosts:
        kept = history.numbers(place, host)
        before = kept[-1] if kept else 0
        after = max((each for each in kept if each <= number), default=None)
        if after == before and not now[host].get(history.UNRECORDED):
            continue
        numbers[host] = (before, after)
        earlier = history.state(place, host, after) if after is not None else None
        if earlier is not None:
            then[host] = history.rolled_back(now[host], earlier, goal.parts)
        if earlier is not None and then[host] == now[host]:
            del numbers[host]  # others changed since, not what goes back

    words = changes.sentences(now, then, desired_state.rerender(Renderer()))
    for host, (before, after) in numbers.items():
        yield RollbackStep(host, before, after, tuple(words.get(host, ())))


def is_younger(step: RollbackStep, number: int, lines: Sequence[history.Line]) -> bool:
    """Tell whether all that was ever applied to a host came after run `number`."""
    if step.after is not None:
        return False
    runs = [
        line["run"]
        for line in lines
        if line["hosts"].get(step.host, {}).get("result") == history.APPLIED
    ]
    before = [line["hosts"][step.host].get("from") for line in lines if step.host in line["hosts"]]
    return bool(runs) and min(runs) > number and before[0] == 0


def summary_lines(goal: Target, number: int, going_back: Sequence[RollbackStep]) -> list[str]:
    """Return the lines that tell what will happen."""
    lines = [f"Rolling back {goal.words} to run {number}:"]
    for step in going_back:
        where = (
            f"as run {step.after} left it"
            if step.after is not None
            else (f"to the state it had after run {number}, of which nothing is recorded here")
        )
        now = f", now as run {step.before} left it" if step.before else ""
        lines.append(f"{step.host}: {where}{now}")
        lines += [f"  ~ {text}" for text in step.words]
    return lines


def to_make_it_stay(goal: Target) -> list[str]:
    """Return what to do in the inventory, which still says the new."""
    return [
        "",
        f"The inventory still says what was rolled back: the next site.yml brings {goal.words}",
        "there again. Take the change back in the inventory too (if it is committed: git revert),",
        f"until `{paths.COMMAND} plan` says that nothing would change.",
    ]


def bring_back(  # noqa: PLR0913, PLR0917 - a run of Ansible
    inventory: Inventory,
    arguments: argparse.Namespace,
    goal: Target,
    number: int,
    hosts: Sequence[str],
    steps: Steps,
) -> playbook.Outcome:
    """Run the playbook for `hosts`."""
    wanted = {"to": number, "parts": list(goal.parts), "hosts": list(hosts)}
    trying = "trying it on" if arguments.check else "rolling back"
    with (
        steps.phase("rollback", f"{trying} {shortened(hosts, 4)}"),
        tempfile.TemporaryDirectory(prefix="vmesh-") as folder,
    ):
        variables = playbook.extra_vars(Path(folder), vmesh_rollback=wanted)
        return playbook.apply(
            arguments.inventory,
            steps,
            fast=bool(inventory.lab),
            playbook=PLAYBOOK,
            extra=(variables, *(["--check"] if arguments.check else [])),
        )
