"""What a change under load came to: counted, judged, and told as a table. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.load import Counts, Report, StreamResult, Verdict

Event = Mapping[str, Any]

DONE = ("ok", "changed", "failed")  # what the callback says of a task that was not skipped
SHOWN = 8


@dataclass(frozen=True)
class Streams:
    """How many streams there were of each end."""

    survived: int = 0
    closed: int = 0
    broken: int = 0

    @property
    def all(self) -> int:
        return self.survived + self.closed + self.broken


@dataclass(frozen=True)
class Row:
    """One change under load.

    allowed: how many requests may fail by what is promised of such a change, 0 for most
    seconds: of the change itself; served: from its beginning until users had it
    executions: host -> tasks that were executed there
    spans_lost: of the spans that the requests made; None where nobody counted
    problems: what was not as it must be, failed requests not among them
    """

    name: str
    requests: int
    failed: int
    retried: int
    seconds: float
    allowed: int = 0
    served: float | None = None
    executions: Mapping[str, int] = field(default_factory=dict)
    streams: Streams = field(default_factory=Streams)
    spans: int | None = None
    spans_lost: int | None = None
    longest_gap: float = 0.0
    failures: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Tell whether it went as promised."""
        return not self.problems and self.failed <= self.allowed and self.requests > 0

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON knows it."""
        told = asdict(self)
        for key in ("seconds", "served", "longest_gap"):
            told[key] = None if told[key] is None else round(told[key], 2)
        return told

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Row:
        """Return the row that as_dict() told of."""
        lists = {name: tuple(told[name]) for name in ("failures", "problems")}
        return cls(**{**told, **lists, "streams": Streams(**told["streams"])})

    def told(self) -> str:
        """Return what to show of it, failures and all."""
        lines = [
            f"{self.name}: {self.requests} requests, {self.failed} failed"
            + (f" (at most {self.allowed} may)" if self.allowed else "")
            + f", {self.retried} sent again; the change took {self.seconds:.1f} s"
            + (f", served after {self.served:.1f} s" if self.served is not None else ""),
            f"  streams: {self.streams.survived} survived, {self.streams.closed} closed,"
            f" {self.streams.broken} broken; longest gap {self.longest_gap:.2f} s",
        ]
        if self.executions:
            listed = ", ".join(f"{host} {count}" for host, count in sorted(self.executions.items()))
            lines.append(f"  task executions: {listed}")
        if self.spans_lost is not None:
            lines.append(f"  spans: {self.spans_lost} lost of {self.spans}")
        lines += [f"  {name}: {value}" for name, value in self.facts.items()]
        lines += [f"  failed: {each}" for each in self.failures]
        lines += [f"  NOT AS IT MUST BE: {each}" for each in self.problems]
        return "\n".join(lines)


def counted(reports: Iterable[Report]) -> dict[str, Any]:
    """Return the fields of a Row that come from what the clients saw."""
    told = list(reports)
    totals: list[Counts] = [report.total for report in told]
    unfinished = sum(report.unfinished for report in told)
    listed = [
        f"{each.at_seconds:.1f} s, {each.target}, {each.mode}: {each.what}"
        for report in told
        for each in report.failures
    ]
    return {
        "requests": sum(each.sent for each in totals) + unfinished,
        # Neither answered nor given up, long after its time: nobody got anything.
        "failed": sum(each.failed for each in totals) + unfinished,
        "retried": sum(each.retried_on_closed_connection for each in totals),
        "longest_gap": max((each.longest_gap_seconds for each in totals), default=0.0),
        "failures": tuple(listed[:SHOWN]),
    }


def ends(results: Iterable[StreamResult]) -> Streams:
    """Return how streams ended; one that is still open has survived."""
    verdicts = [result.verdict for result in results]
    return Streams(
        survived=sum(each in (Verdict.SURVIVED, Verdict.OPEN) for each in verdicts),
        closed=verdicts.count(Verdict.CLOSED),
        broken=verdicts.count(Verdict.BROKEN),
    )


def executions(events: Iterable[Event]) -> dict[str, int]:
    """Return host -> how many tasks were executed there, skipped ones not counted."""
    found: dict[str, int] = {}
    for event in events:
        if event["event"] in DONE:
            found[event["host"]] = found.get(event["host"], 0) + 1
    return found


def windows(events: Iterable[Event], first: str, last: str) -> dict[str, tuple[float, float]]:
    """Return host -> when the task `first` was begun there and `last` was done, on one clock.

    Names may have a role in front. A host that did not come to `last` has no window.
    """
    begun: dict[str, float] = {}
    found: dict[str, tuple[float, float]] = {}
    started = 0.0
    for event in events:
        if event["event"] == "task":
            started = event["at"]
        elif event["event"] in DONE:
            host, task = event["host"], str(event["task"])
            if task.endswith(first):
                begun.setdefault(host, started)
            elif task.endswith(last) and host in begun:
                found[host] = (begun[host], event["at"])
    return found


def overlapping(spans: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return the pairs of hosts whose windows overlap."""
    ordered = sorted(spans.items(), key=lambda item: item[1])
    return [
        f"{one} and {other}"
        for index, (one, (_, end)) in enumerate(ordered)
        for other, (start, _) in ordered[index + 1 :]
        if start < end
    ]


def lost(expected: Mapping[str, int], stored: Mapping[str, int]) -> int:
    """Return how many spans are missing. Traces by id, with how many spans each has."""
    return sum(max(count - stored.get(trace, 0), 0) for trace, count in expected.items())


def in_flight(rate: float, slowest: float, *, share: float = 1.0) -> int:
    """Return how many requests may be on their way at one moment at the places of a process.

    rate: requests a second in all, of which it gets `share`; slowest: seconds of an answer
    """
    return math.ceil(rate * share * slowest) + 1


def before_ejection(rate: float, connect_timeout: float, failures: int, interval: float) -> int:
    """Return how many requests may be sent to an instance that says nothing before it is left out.

    It takes so many failures to connect in a row, and then the next look of the caller's at whom
    to leave out.
    """
    return math.ceil(rate * (connect_timeout * failures + interval))


# --- many of them


def summaries(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return one mapping for each name of a row, in order: sums, medians, the worst."""
    names = list(dict.fromkeys(row.name for row in rows))
    return [_summary(name, [row for row in rows if row.name == name]) for name in names]


def _summary(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    def middle(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return round(statistics.median(known), 1) if known else None

    hosts = sorted({host for row in rows for host in row.executions})
    lost_spans = [row.spans_lost for row in rows if row.spans_lost is not None]
    return {
        "row": name,
        "times": len(rows),
        "passed": sum(row.passed for row in rows),
        "requests": sum(row.requests for row in rows),
        "failed": sum(row.failed for row in rows),
        "failed_at_most": max(row.failed for row in rows),
        "allowed": max(row.allowed for row in rows),
        "retried": sum(row.retried for row in rows),
        "seconds": middle([row.seconds for row in rows]),
        "served": middle([row.served for row in rows]),
        "executions": {
            host: round(statistics.median(row.executions.get(host, 0) for row in rows))
            for host in hosts
        },
        "streams": {
            end: sum(getattr(row.streams, end) for row in rows)
            for end in ("survived", "closed", "broken")
        },
        "spans": sum(row.spans or 0 for row in rows) if lost_spans else None,
        "spans_lost": sum(lost_spans) if lost_spans else None,
    }


def table(summed: Iterable[Mapping[str, Any]]) -> str:
    """Return the summaries as a table in Markdown."""
    head = (
        "change",
        "times",
        "requests",
        "failed",
        "seconds",
        "served after",
        "streams survived / closed / broken",
        "task executions",
        "spans lost",
    )
    lines = [_line(head), _line(["---", *["---:"] * 5, "---", "---", "---:"])]
    for each in summed:
        failed = str(each["failed"])
        if each["allowed"]:
            failed += f" (at most {each['failed_at_most']} at once, {each['allowed']} allowed)"
        spans = each["spans_lost"]
        lines.append(
            _line(
                (
                    each["row"],
                    each["times"],
                    f"{each['requests']:,}",
                    failed,
                    _seconds(each["seconds"]),
                    _seconds(each["served"]),
                    " / ".join(str(each["streams"][end]) for end in each["streams"]),
                    ", ".join(f"{host} {n}" for host, n in each["executions"].items()),
                    "" if spans is None else f"{spans:,} of {each['spans']:,}",
                )
            )
        )
    return "\n".join(lines)


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.0f} s" if value >= 10 else f"{value:.1f} s"


def _line(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"
