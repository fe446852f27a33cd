"""From Jaeger's answer to a waterfall that a terminal can show. No I/O here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from vmesh.traces.clocks import Correction, correct
from vmesh.traces.span import Span

FULL = "█"
MOVED, CONTRADICTING = "~", "?"


@dataclass(frozen=True)
class Row:
    """A line of the waterfall: a span, its depth, and its start relative to the trace's.

    mark: MOVED, CONTRADICTING, both or neither
    """

    span: Span
    depth: int
    offset: int
    mark: str = ""


@dataclass(frozen=True)
class Tree:
    """The rows of a waterfall, and how much the clocks of hosts (or services) were corrected."""

    rows: list[Row]
    apart: tuple[tuple[str, int], ...]


def tree(spans: Iterable[Span]) -> Tree:
    """Return the rows of the waterfall: parents before children, children by their start.

    A span whose parent is not there is shown as a root. VMs' clocks differ: where a child cannot
    have the times that it tells, all spans of its host are moved by the same time, and marked. What
    a host does after its answer stays where it is.
    """
    unique = {span.span_id: span for span in spans}
    children: dict[str | None, list[Span]] = {}
    for span in unique.values():
        # A damaged trace may hold a cycle; its spans are then unreachable from a root.
        parent = span.parent_id if span.parent_id in unique else None
        children.setdefault(parent, []).append(span)
    # A span without a parent is by the clock that a user saw, before one whose parent is missing.
    roots = sorted(
        children.get(None, []), key=lambda span: (span.parent_id is not None, *_order(span))
    )
    found = correct(_pairs(roots, children), roots)
    rows: list[Row] = []

    def add(siblings: Iterable[Span], depth: int) -> None:
        moved = [replace(s, start=s.start + found.offsets[s.span_id]) for s in siblings]
        for span in sorted(moved, key=_order):
            rows.append(Row(span, depth, 0, _mark(span, found)))
            add(children.get(span.span_id, []), depth + 1)

    add(roots, 0)
    begin = min((row.span.start for row in rows), default=0)
    return Tree([replace(row, offset=row.span.start - begin) for row in rows], found.apart)


def _pairs(
    roots: Sequence[Span], children: Mapping[str | None, Sequence[Span]]
) -> list[tuple[Span, Span]]:
    """Return each parent with each of its children, the pairs nearest to the roots first."""
    pairs: list[tuple[Span, Span]] = []
    level = roots
    while level:
        found = [
            (above, below)
            for above in level
            for below in sorted(children.get(above.span_id, []), key=_order)
        ]
        pairs += found
        level = [below for _, below in found]
    return pairs


def _order(span: Span) -> tuple[int, str]:
    return span.start, span.span_id


def _mark(span: Span, found: Correction) -> str:
    moved = MOVED if found.offsets[span.span_id] else ""
    return moved + (CONTRADICTING if span.span_id in found.contradicting else "")


def total(rows: Sequence[Row]) -> int:
    """The microseconds from the first start to the last end."""
    return max((row.offset + row.span.duration for row in rows), default=0)


def bar(offset: int, length: int, whole_length: int, width: int, full: str = FULL) -> str:
    """Draw one span as a bar in `width` cells; at least one cell is always filled."""
    if whole_length <= 0:
        return full + " " * (width - 1)
    first = min(width - 1, offset * width // whole_length)
    last = min(width, max(first + 1, -(-(offset + length) * width // whole_length)))
    return " " * first + full * (last - first) + " " * (width - last)


def milliseconds(microseconds: int) -> str:
    """Say a duration: `812 µs`, `9.41 ms`, `1.20 s`."""
    if microseconds < 1000:
        return f"{microseconds} µs"
    if microseconds < 1_000_000:
        return f"{microseconds / 1000:.2f} ms"
    return f"{microseconds / 1_000_000:.2f} s"


def lines(drawn: Tree, width: int, full: str = FULL) -> list[str]:
    """Return the waterfall's lines: service, operation, bar, duration; at most `width` wide.

    The bars take what the words leave, but never fewer than 10 cells. What the marks mean is told
    below, in lines of any width.
    """
    rows = drawn.rows
    if not rows:
        return []
    names = ["  " * row.depth + row.span.service for row in rows]
    operations = [_what(row.span) for row in rows]
    times = [milliseconds(row.span.duration) for row in rows]
    columns = [
        max(len("SERVICE"), *map(len, names)),
        max(len("OPERATION"), *map(len, operations)),
        max(len("DURATION"), *map(len, times)),
    ]
    cells = max(10, width - sum(columns) - 2 * 4)
    lines = [
        f"{'SERVICE':<{columns[0]}}  {'OPERATION':<{columns[1]}}  {'':<{cells}}  "
        f"{'DURATION':>{columns[2]}}"
    ]
    length = total(rows)
    for row, name, operation, time in zip(rows, names, operations, times, strict=True):
        drawn_bar = bar(row.offset, row.span.duration, length, cells, full)
        lines.append(
            f"{name:<{columns[0]}}  {operation:<{columns[1]}}  {drawn_bar}  "
            f"{time:>{columns[2]}}{row.mark}"
        )
    lines += [
        f"{MOVED} moved by {milliseconds(abs(offset))}: the clock of {name} is"
        f" {'behind' if offset > 0 else 'ahead'} by that or more"
        for name, offset in drawn.apart
    ]
    if any(CONTRADICTING in row.mark for row in rows):
        lines.append(
            f"{CONTRADICTING} fits its parent's time with no offset of the clock: that clock was"
            " set meanwhile, or the parent did not wait"
        )
    return lines


def _what(span: Span) -> str:
    side = {"client": " (out)", "server": " (in)"}.get(span.kind, "")
    return f"{span.operation}{side}{'  ERROR' if span.error else ''}"
