"""What became of the requests of a load: counted, and told."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

SHOWN_FAILURES = 50


@dataclass(slots=True)
class Outcome:
    """One request: when it was due and sent (on the monotonic clock), and what came of it."""

    target: str
    mode: str
    due: float
    sent: float = 0.0
    seconds: float = 0.0  # from `sent` to the end of the answer, or to the failure
    status: int | None = None
    error: str | None = None  # None: as expected
    trace_id: str | None = None  # the answer's x-trace-id
    opened: int = 0  # connections opened for it
    # A kept connection was closed without a byte of answer, so it was sent again on a new one.
    retried: bool = False


@dataclass(frozen=True)
class Counts:
    """How many requests, of which `ok` and `failed`; `sent` is their sum.

    Retried ones are in either as the load's option says, and in `retried_on_closed_connection`
    in any case.
    """

    sent: int
    ok: int
    failed: int
    retried_on_closed_connection: int
    connections_opened: int
    longest_gap_seconds: float  # without a good answer


@dataclass(frozen=True)
class Spread:
    """How a quantity in seconds was spread; zeros when there was nothing."""

    p50: float
    p95: float
    p99: float
    max: float


@dataclass(frozen=True)
class Failure:
    """A failed request, with its time since the beginning of what is reported."""

    at_seconds: float
    target: str
    mode: str
    what: str
    trace_id: str | None


@dataclass(frozen=True)
class Report:
    """What became of the requests that were due in one stretch of time."""

    name: str
    seconds: float
    rate: float
    total: Counts
    by_mode: dict[str, Counts]
    by_target: dict[str, Counts]
    unfinished: int  # sent, and neither answered nor failed yet; in no other number
    latency: Spread  # of the good answers
    lateness: Spread  # of the client itself: sent after it was due
    failures: tuple[Failure, ...]  # the first ones
    trace_ids: tuple[str, ...] = field(repr=False)

    @property
    def sent(self) -> int:
        """Return how many requests there were."""
        return self.total.sent

    @property
    def ok(self) -> int:
        """Return how many were answered as expected."""
        return self.total.ok

    @property
    def failed(self) -> int:
        """Return how many were not."""
        return self.total.failed

    def as_dict(self, *, trace_ids: bool = False) -> dict[str, Any]:
        """Return all of it as JSON knows it; the trace ids only when asked for."""
        found = asdict(self)
        found["failures"] = list(found["failures"])
        found["trace_ids"] = list(self.trace_ids) if trace_ids else len(self.trace_ids)
        return found

    def summary(self) -> str:
        """Return a few lines for people."""
        lines = [
            f"{self.name}: {_told(self.total)} in {self.seconds:.1f} s, {self.rate:g} a second",
            *(f"  {mode}: {_told(counts)}" for mode, counts in self.by_mode.items()),
            f"  answers after {_spread(self.latency)}",
            f"  longest time without a good answer {self.total.longest_gap_seconds:.2f} s; "
            f"the client was late by {_spread(self.lateness)}",
        ]
        if len(self.by_target) > 1:
            lines[1:1] = [f"  {target}: {_told(each)}" for target, each in self.by_target.items()]
        if self.unfinished:
            lines.append(f"  {self.unfinished} not ended yet")
        lines += [
            f"  failed at {each.at_seconds:.2f} s, {each.target}, {each.mode}: {each.what}"
            + (f" (trace {each.trace_id})" if each.trace_id else "")
            for each in self.failures
        ]
        if self.failed > len(self.failures):
            lines.append(f"  and {self.failed - len(self.failures)} more")
        return "\n".join(lines)


def _told(counts: Counts) -> str:
    retried = counts.retried_on_closed_connection
    more = f" ({retried} retried on a closed connection)" if retried else ""
    return f"{counts.sent} requests, {counts.failed} failed{more}"


def _spread(spread: Spread) -> str:
    return (
        f"{1000 * spread.p50:.0f} ms (half), {1000 * spread.p95:.0f} (95 %), "
        f"{1000 * spread.p99:.0f} (99 %), {1000 * spread.max:.0f} at most"
    )


def spread(values: Iterable[float]) -> Spread:
    """Return percentiles by nearest rank: each is a value that was there."""
    ordered = sorted(values)
    if not ordered:
        return Spread(0.0, 0.0, 0.0, 0.0)

    def rank(share: float) -> float:
        return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]

    return Spread(rank(0.50), rank(0.95), rank(0.99), ordered[-1])


def longest_gap(moments: Iterable[float], start: float, end: float) -> float:
    """Return the longest time between two neighbours of start, all moments in between, and end."""
    points = [start, *sorted(m for m in moments if start < m < end), end]
    return max(after - before for before, after in pairwise(points))


def count(outcomes: Sequence[Outcome], start: float, end: float) -> Counts:
    """Count requests that were due from `start` to `end`."""
    good = [each for each in outcomes if each.error is None]
    return Counts(
        sent=len(outcomes),
        ok=len(good),
        failed=len(outcomes) - len(good),
        retried_on_closed_connection=sum(each.retried for each in outcomes),
        connections_opened=sum(each.opened for each in outcomes),
        longest_gap_seconds=longest_gap((each.sent + each.seconds for each in good), start, end),
    )


def build(
    name: str, outcomes: Iterable[Outcome], rate: float, stretch: tuple[float, float], open_: int
) -> Report:
    """Return the report on requests that were due in `stretch`.

    outcomes: those that have ended; open_: how many have not.
    """
    start, end = stretch
    told = sorted(outcomes, key=lambda each: each.due)
    # The last answer may come after the stretch; the gap it ends belongs to it all the same.
    until = max([end, *(each.sent + each.seconds for each in told)])

    def by(attribute: str) -> dict[str, Counts]:
        keys = dict.fromkeys(getattr(each, attribute) for each in told)
        return {
            key: count([each for each in told if getattr(each, attribute) == key], start, until)
            for key in keys
        }

    bad = [each for each in told if each.error is not None]
    return Report(
        name=name,
        seconds=end - start,
        rate=rate,
        total=count(told, start, until),
        by_mode=by("mode"),
        by_target=by("target"),
        unfinished=open_,
        latency=spread(each.seconds for each in told if each.error is None),
        lateness=spread(each.sent - each.due for each in told),
        failures=tuple(
            Failure(each.due - start, each.target, each.mode, each.error or "", each.trace_id)
            for each in bad[:SHOWN_FAILURES]
        ),
        trace_ids=tuple(each.trace_id for each in told if each.trace_id),
    )
