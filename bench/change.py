"""What does each change cost the users, on the VMs of inventory/example-change?

    ./mesh bench change [--times 5] [--only ROW ...] [--kills 30] [-o FILE [--continue]]
    ./mesh bench change --scale

Makes every change of the table in bench/README.md, and every change that must not get through, so
many times each, with load on the mesh, and writes what came of each as JSON. That takes hours, so
it can be done in parts: --continue goes on from what is in the file. Exit code 1 when a request
failed that should not have, or anything else was not as it must be. The tests in tests/live_change
make the same changes once.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bench import change_layers as layers
from bench import change_scale
from bench.change_accidents import interrupted, still_different
from bench.change_edits import OLD_ENVOY
from bench.change_faults import FAULTS
from bench.change_report import Row, summaries, table
from bench.change_rows import CHANGES
from bench.change_upgrade import upgrade
from bench.change_world import Rates, World
from vmesh.base.exits import USAGE, CliError

KILLED, UPGRADE = "killed", "upgrade"
TIMES = 5
# The upgrade makes the VMs anew, so it comes last.
NAMES = (*CHANGES, *FAULTS, KILLED, UPGRADE)
# Of rows that take back what the row before has made, and are nothing without it.
TAKES_BACK = {
    "replica-added": "replica-removed",
    "envoy-rollback": "envoy-upgrade",
    "release-rollback": "release",
}


@dataclass(frozen=True)
class Made:
    """A row that was made: which, in which turn, and when (the day)."""

    key: str
    turn: int
    when: str
    row: Row

    def as_dict(self) -> dict[str, Any]:
        """Return it as it is written down."""
        return {"key": self.key, "turn": self.turn, "when": self.when, **self.row.as_dict()}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Made:
        """Return what was written down."""
        rest = {name: value for name, value in told.items() if name not in {"key", "turn", "when"}}
        return cls(told["key"], told["turn"], told["when"], Row.of(rest))


def chosen(only: Sequence[str] | None) -> list[str]:
    """Return the rows to make, in their order. Raises CliError for an unknown name."""
    unknown = [name for name in only or () if name not in NAMES]
    if unknown:
        raise CliError(f"There is no row {', '.join(unknown)}. Known: {', '.join(NAMES)}", USAGE)
    return [name for name in NAMES if not only or name in only]


def turns(names: Sequence[str], times: int) -> Iterator[tuple[str, int]]:
    """Yield each row with the number of its turn: all of them in their order, again and again.

    So all meet the same machine.
    """
    return ((name, turn) for turn in range(1, times + 1) for name in names)


def share(kills: int, times: int, turn: int) -> int:
    """Return how many of all killed runs belong to a turn: as many as to others, at least 1."""
    return max(kills * turn // times - kills * (turn - 1) // times, 1)


def earlier(path: Path, names: Sequence[str]) -> list[Made]:
    """Return the rows that a file has, but those that `names` need once more.

    That is, in a turn that was interrupted, a row whose successor is yet to take it back.
    """
    told = json.loads(path.read_text())["changes"]["rows"] if path.exists() else []
    found = [Made.of(each) for each in told]
    there = {(each.key, each.turn) for each in found}
    successors = {made: back for back, made in TAKES_BACK.items() if back in names}
    return [
        each
        for each in found
        if each.key not in successors or (successors[each.key], each.turn) in there
    ]


def made(world: World, name: str, kills: int, seed: int | None) -> Row:
    """Make one row; one that cannot be made is a row with a problem, told with its traceback.

    kills, seed: how many runs the row of killed runs kills, and by which chance
    """
    rows: Mapping[str, Callable[[World], Row]] = {
        **CHANGES,
        **FAULTS,
        KILLED: partial(interrupted, kills=kills, seed=seed),
        UPGRADE: upgrade,
    }
    try:
        row = rows[name](world)
    except Exception as error:  # the other rows are worth having
        told = traceback.format_exc()
        world.say(told)
        return Row(name, 0, 0, 0, 0.0, problems=(f"{type(error).__name__}: {error}",))
    if name in FAULTS or name == KILLED:
        row = replace(row, problems=(*row.problems, *still_different(world)))
    return row


def bring_up(world: World) -> None:
    """Start the VMs and apply the inventory. Raises CliError when that fails."""
    change = world.mesh("up", timeout=3600.0)
    if change.code != 0:
        raise CliError(f"The mesh that is to be changed is not there: ./mesh up {change.reason}")


def measure(arguments: argparse.Namespace) -> list[Made]:
    """Make all the rows that are not there yet; after each, write what there is so far."""
    names = chosen(arguments.only)
    rates = Rates(arguments.kept, arguments.new, arguments.back)
    rows = earlier(arguments.output, names) if arguments.go_on else []
    there = {(each.key, each.turn) for each in rows}
    with tempfile.TemporaryDirectory(prefix="vmesh-change-") as folder:
        world = World(
            arguments.inventory,
            Path(folder),
            rates=rates,
            streams=arguments.streams,
            start=layers.envoy(OLD_ENVOY),
            say=partial(print, flush=True),
        )
        bring_up(world)
        times = arguments.times or TIMES
        for name, turn in turns(names, times):
            if (name, turn) in there:
                continue
            print(f"\n[{turn} of {times}] ", end="")
            seed = None if arguments.seed is None else arguments.seed + turn
            row = made(world, name, share(arguments.kills, times, turn), seed)
            rows.append(Made(name, turn, time.strftime("%Y-%m-%d"), row))
            if arguments.output:
                write(arguments.output, "changes", record(rows, rates))
    return rows


def record(rows: Sequence[Made], rates: Rates) -> dict[str, Any]:
    """Return what is written down of a measurement, turn by turn."""
    rows = sorted(rows, key=lambda each: (each.turn, NAMES.index(each.key)))
    return {
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "requests_a_second": {"kept": rates.kept, "new": rates.new, "back": rates.back},
        "summary": summaries([each.row for each in rows]),
        "rows": [each.as_dict() for each in rows],
    }


def write(path: Path, key: str, value: Any) -> None:
    """Put `value` under `key` of a JSON file, and leave its other keys as they are."""
    there = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**there, key: value}, indent=1, ensure_ascii=False) + "\n")


def run(arguments: argparse.Namespace) -> bool:
    """Measure, print the table, and tell whether all went as it must."""
    if arguments.scale:
        found = change_scale.measure(arguments.inventory, arguments.times or 1)
        print(change_scale.table(found))
        if arguments.output:
            write(arguments.output, "scale", found)
        return all(each["code"] == 0 for each in found)
    if arguments.go_on and not arguments.output:
        raise CliError("--continue goes on from a file: name it with -o", USAGE)
    rows = [each.row for each in measure(arguments)]
    print(f"\n{table(summaries(rows))}\n")
    bad = [row for row in rows if not row.passed]
    for row in bad:
        print(row.told(), file=sys.stderr)
    print(f"{len(rows) - len(bad)} passed, {len(bad)} failed")
    return not bad
