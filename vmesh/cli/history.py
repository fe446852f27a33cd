"""`./mesh history`: which run did what to which host, with what result."""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vmesh.base.exits import OK, USAGE, CliError
from vmesh.base.words import shortened
from vmesh.cli.output.tables import table
from vmesh.rollout import history, record

HEADER = ("RUN", "WHEN", "WHO", "WHAT", "HOSTS")
MOST_WORDS = 3


def run(arguments: argparse.Namespace) -> int:
    """Print the last runs, the newest last."""
    place = record.folder(*arguments.inventory)
    lines = history.read(place)
    if arguments.host:
        lines = of_host(lines, arguments.host)
    if arguments.lines > 0:
        lines = lines[-arguments.lines :]
    if arguments.json:
        print(json.dumps(lines, indent=2))
    elif lines:
        table("", HEADER, [row(line) for line in lines])
    else:
        print(f"No run is written down for this inventory ({place}).")
    return OK


def of_host(lines: Sequence[history.Line], host: str) -> list[history.Line]:
    """Return the runs that concerned `host`, with what they say of it alone.

    Raises CliError with the hosts that there are when there is no such host.
    """
    known = sorted({each for line in lines for each in line["hosts"]})
    if host not in known:
        there = f"Known: {', '.join(known)}" if known else "No run is written down."
        raise CliError(f"No run concerned a host called {host}. {there}", USAGE)
    return [
        {**line, "hosts": {host: line["hosts"][host]}} for line in lines if host in line["hosts"]
    ]


def row(line: history.Line) -> tuple[str, ...]:
    """Return the cells of a run."""
    hosts: Mapping[str, Mapping[str, Any]] = line["hosts"]
    words = changed(hosts.values())
    what = ": ".join(filter(None, (str(line.get("asked", "")), words)))
    return (
        str(line["run"]),
        local(str(line.get("when", ""))),
        str(line.get("who", "")),
        what,
        became(hosts),
    )


def changed(hosts: Iterable[Mapping[str, Any]]) -> str:
    """Return what changed on the hosts, each sentence once, the first few of them."""
    words = list(dict.fromkeys(text for host in hosts for text in host.get("what", ())))
    more = len(words) - MOST_WORDS
    return "; ".join(words[:MOST_WORDS]) + (f"; and {more} more" if more > 0 else "")


def became(hosts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what became of the hosts, those with the same result and cause together."""
    groups: dict[tuple[str, str], list[str]] = {}
    for host, each in hosts.items():
        cause = (str(each.get("cause", "")).strip().splitlines() or [""])[0]
        groups.setdefault((str(each.get("result", "")), cause), []).append(host)
    return "; ".join(
        f"{shortened(names, 3)} {result}" + (f": {cause}" if cause else "")
        for (result, cause), names in groups.items()
    )


def local(when: str) -> str:
    """Return a time of the history in this machine's zone, to the minute."""
    try:
        moment = datetime.datetime.fromisoformat(when)
    except ValueError:
        return when
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")
