"""What `./mesh plan` prints: tables of what the inventory means, changes and drift, or JSON."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vmesh.base.problems import Problem
from vmesh.base.words import shortened
from vmesh.cli import problem_list
from vmesh.cli.output.graph import hosts_by_zone
from vmesh.cli.output.tables import table
from vmesh.compile.topology import Outside, Route, Service, Topology
from vmesh.rollout import change_report, history
from vmesh.rollout.description import Described
from vmesh.rollout.drift import Drift
from vmesh.rollout.record import HostRecord

MARKS = {
    change_report.ADD: "+",
    change_report.REMOVE: "-",
    change_report.CHANGE: "~",
    change_report.RESTART: "!",
    change_report.NOTE: "i",
}
COLORS = {"+": "green", "-": "red", "~": "yellow", "!": "magenta", "i": "cyan"}
SERVICES = ("SERVICE", "PORT", "HOSTS", "APP", "CALLS", "CALLED BY")
ROUTES = ("EDGE", "FOR", "ROUTE", "TO", "WITH")


@dataclass
class Result:
    """All that there is to tell.

    drifts: None when the hosts were not asked
    silent: host -> why it did not answer
    """

    mesh: Topology
    warnings: tuple[Problem, ...]
    recorded: dict[str, HostRecord]
    wanted: dict[str, Described]
    found: list[change_report.Change]
    drifts: list[Drift] | None = None
    silent: dict[str, str] = field(default_factory=dict)
    diffs: list[str] = field(default_factory=list)

    @property
    def pending(self) -> list[change_report.Change]:
        return change_report.pending(self.found)


def as_data(result: Result) -> dict[str, Any]:
    """Return the result as what --json prints."""
    mesh = result.mesh
    return {
        "services": [dataclasses.asdict(service) for service in mesh.services.values()],
        "edges": [dataclasses.asdict(edge) for edge in mesh.edges.values()],
        "spans": mesh.spans,
        "warnings": [dataclasses.asdict(problem) for problem in result.warnings],
        "recorded": sorted(result.recorded),
        "changes": [dataclasses.asdict(change) for change in result.found],
        "diffs": result.diffs,
        "drifts": None
        if result.drifts is None
        else [dataclasses.asdict(drift) for drift in result.drifts],
        "silent": result.silent,
    }


def show(result: Result, arguments: argparse.Namespace) -> None:
    """Print the result for people."""
    for title, header, rows in tables(result.mesh):
        table(title, header, rows)
        if not sys.stdout.isatty():
            print()
    if result.warnings:
        print(problem_list(result.warnings), file=sys.stderr)
    _lines(summary_lines(result))
    for text in result.diffs:
        print()
        _lines(text.splitlines())
    if arguments.diff and not result.diffs:
        print("No file of a recorded Envoy would change in what the inventory says.")


def tables(mesh: Topology) -> Iterator[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """Yield title, header and rows of each table of what the inventory means."""
    yield "", SERVICES, [_service_row(service) for service in mesh.services.values()]
    rows = []
    for edge in mesh.edges.values():
        address, port = edge.listens
        name = f"{edge.name} ({shortened([place.host for place in edge.places])}; {address}:{port})"
        rows += [(name, *_route_cells(route)) for route in edge.routes]
    if rows:
        yield "", ROUTES, _without_repeats(rows)


def _service_row(service: Service) -> tuple[str, ...]:
    return (
        service.name,
        str(service.port),
        "; ".join(hosts_by_zone(service.places)),
        service.app,
        ", ".join(map(_called, service.calls)) or "-",
        ", ".join(service.called_by) or "-",
    )


def _called(call: str | Outside) -> str:
    return call if isinstance(call, str) else f"{call.name} ({call.address}:{call.port})"


def _route_cells(route: Route) -> tuple[str, ...]:
    targets = [
        _called(target.to) + ("" if target.share is None else f" {target.share:.3g} %")
        for target in route.targets
    ]
    domains = "*" if route.domains == ("*",) else shortened(route.domains, 2)
    return (domains, route.match, ", ".join(targets) or route.answer, ", ".join(route.more))


def _without_repeats(rows: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Blank the first cells of a row where they say the same as those above."""
    found: list[tuple[str, ...]] = []
    above: tuple[str, ...] = ()
    for row in rows:
        same = 0
        if row[:1] == above[:1]:
            same = 2 if row[:2] == above[:2] else 1
        found.append(("",) * same + row[same:])
        above = row
    return found


def summary_lines(result: Result) -> list[str]:
    """Return the lines that tell what would change and what has drifted."""
    lines = [f"Traced: {result.mesh.spans}." if result.mesh.spans else "Nothing is traced.", ""]
    fresh = sorted(result.wanted.keys() - result.recorded.keys())
    notes = [change for change in result.found if change.kind == change_report.NOTE]
    if not result.recorded:
        lines.append("Never applied from this controller: everything is new.")
    elif fresh:
        lines.append(f"Never applied from this controller: {shortened(fresh, 8)}.")
    if result.pending:
        hosts = len({change.host for change in result.pending})
        lines.append(f"Would change on {hosts} {'host' if hosts == 1 else 'hosts'}:")
        lines += grouped(result.pending)
    else:
        lines.append("Nothing would change.")
    if notes:
        lines += ["", "Left behind:", *grouped(notes)]
        lines.append("  (its record stays until you delete it from applied/)") if any(
            note.host not in result.wanted for note in notes
        ) else None
    lines += unrecorded(result.recorded)
    if result.drifts is not None:
        lines += ["", *drifted(result)]
    return lines


def unrecorded(recorded: Mapping[str, HostRecord]) -> list[str]:
    """Return the lines that tell what was rolled back to a state that is not recorded here."""
    marked = {
        host: state[history.UNRECORDED]
        for host, state in recorded.items()
        if state.get(history.UNRECORDED)
    }
    if not marked:
        return []
    lines = ["", "Rolled back, not recorded: what differs from what is there now is not known."]
    lines += [f"  i {host}: {', '.join(parts)}" for host, parts in marked.items()]
    return [*lines, "  (the next site.yml brings what the inventory says, and records it)"]


def grouped(found: Iterable[change_report.Change]) -> list[str]:
    """Return the changes below the hosts they are for; what many hosts share, once."""
    blocks: dict[tuple[str, ...], list[str]] = {}
    for each in change_report.group(found):
        line = f"  {MARKS[each.kind]} {each.part}: {each.text}"
        blocks.setdefault(each.hosts, []).append(line)
    lines = []
    for hosts, block in blocks.items():
        lines += [f"{shortened(hosts, 2)}:", *block]
    return lines


def drifted(result: Result) -> list[str]:
    """Return the lines of what was found on the hosts."""
    lines = []
    drifts = [
        change_report.Change(each.host, each.part, change_report.RESTART, each.text)
        for each in result.drifts or ()
    ]
    if drifts:
        lines += ["Other than applied:", *grouped(drifts)]
    elif not result.silent:
        lines.append("No drift: every host is as it was applied.")
    if result.silent:
        lines.append("Not known, as these did not answer:")
        lines += [f"  {host}: {reason}" for host, reason in result.silent.items()]
    return lines


def _lines(lines: Iterable[str]) -> None:
    """Print lines, in colour on a terminal."""
    if not sys.stdout.isatty():
        for line in lines:
            print(line)
        return
    from rich.console import Console  # noqa: PLC0415 - only for a terminal
    from rich.text import Text  # noqa: PLC0415

    console = Console(highlight=False)
    for line in lines:
        console.print(Text(line, style=_style(line)), soft_wrap=True)


def _style(line: str) -> str:
    """Return the colour of a change, or of a line of a diff."""
    if line.startswith("  ") and line[3:4] == " ":
        return COLORS.get(line[2], "")
    return COLORS.get(line[:1], "") if line[:1] in {"+", "-"} else ""
