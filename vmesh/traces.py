"""From Jaeger's answer to a waterfall that a terminal can show. No I/O here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

FULL = "█"


@dataclass(frozen=True)
class Span:
    """One span as Jaeger stored it; times in microseconds since the epoch."""

    trace_id: str
    span_id: str
    parent_id: str | None
    service: str
    operation: str
    start: int
    duration: int
    kind: str = ""
    error: bool = False

    @property
    def end(self) -> int:
        return self.start + self.duration


@dataclass(frozen=True)
class Row:
    """A line of the waterfall: a span, its depth, and its start relative to the trace's."""

    span: Span
    depth: int
    offset: int
    shifted: bool = False


def parse(answer: dict[str, Any]) -> list[Span]:
    """Return the spans in an answer of Jaeger's `/api/traces/<id>`; [] when it holds none."""
    spans = []
    for trace in answer.get("data") or []:
        processes = trace.get("processes") or {}
        for raw in trace.get("spans") or []:
            tags = {tag["key"]: tag.get("value") for tag in raw.get("tags") or []}
            process = raw.get("process") or processes.get(raw.get("processID"), {})
            spans.append(
                Span(
                    trace_id=raw["traceID"],
                    span_id=raw["spanID"],
                    parent_id=_parent(raw),
                    service=process.get("serviceName", "?"),
                    operation=raw.get("operationName", "?"),
                    start=int(raw["startTime"]),
                    duration=int(raw["duration"]),
                    kind=str(tags.get("span.kind", "")),
                    error=tags.get("error") in (True, "true"),
                )
            )
    return spans


def _parent(raw: dict[str, Any]) -> str | None:
    for reference in raw.get("references") or []:
        if reference.get("refType") == "CHILD_OF" and reference.get("traceID") == raw["traceID"]:
            return str(reference["spanID"])
    return raw.get("parentSpanID") or None


def whole(spans: Sequence[Span]) -> bool:
    """Tell whether there is a root and every other span's parent is among `spans`."""
    known = {span.span_id for span in spans}
    roots = [span for span in spans if span.parent_id is None]
    return bool(roots) and all(s.parent_id is None or s.parent_id in known for s in spans)


def tree(spans: Iterable[Span]) -> list[Row]:
    """Return the rows of the waterfall: parents before children, children by their start.

    A span whose parent is not there is shown as a root. VMs' clocks differ: a child that lies
    outside its parent's time is moved into it, with everything below it, and marked.
    """
    unique = {span.span_id: span for span in spans}
    children: dict[str | None, list[Span]] = {}
    for span in unique.values():
        # A damaged trace may hold a cycle; its spans are then unreachable from a root.
        parent = span.parent_id if span.parent_id in unique else None
        children.setdefault(parent, []).append(span)
    rows: list[Row] = []

    def add(span: Span, depth: int, shift: int, parent: Span | None) -> None:
        moved = replace(span, start=span.start + shift)
        correction = _correction(moved, parent)
        moved = replace(moved, start=moved.start + correction)
        rows.append(Row(moved, depth, 0, correction != 0))
        for child in sorted(children.get(span.span_id, []), key=_order):
            add(child, depth + 1, shift + correction, moved)

    for root in sorted(children.get(None, []), key=_order):
        add(root, 0, 0, None)
    begin = min((row.span.start for row in rows), default=0)
    return [replace(row, offset=row.span.start - begin) for row in rows]


def _order(span: Span) -> tuple[int, str]:
    return span.start, span.span_id


def _correction(child: Span, parent: Span | None) -> int:
    """How far to move a child that began before its parent, or after the parent's end."""
    if parent is None or parent.start <= child.start <= parent.end:
        return 0
    spare = max(0, parent.duration - child.duration)
    return parent.start + spare // 2 - child.start


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


def waterfall(rows: Sequence[Row], width: int, full: str = FULL) -> list[str]:
    """Return the waterfall's lines: service, operation, bar, duration; at most `width` wide.

    The bars take what the words leave, but never fewer than 10 cells.
    """
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
        drawn = bar(row.offset, row.span.duration, length, cells, full)
        mark = "~" if row.shifted else ""
        lines.append(
            f"{name:<{columns[0]}}  {operation:<{columns[1]}}  {drawn}  {time:>{columns[2]}}{mark}"
        )
    if any(row.shifted for row in rows):
        lines.append("~ moved into its parent's time: the VMs' clocks differ")
    return lines


def _what(span: Span) -> str:
    side = {"client": " (out)", "server": " (in)"}.get(span.kind, "")
    return f"{span.operation}{side}{'  ERROR' if span.error else ''}"
