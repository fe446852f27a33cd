"""By whose clock a span was timed, and how far the clocks of a trace are apart. No I/O here.

All spans of one host are timed by one clock, so they keep their distances whatever is done. Two
hosts' clocks differ, and a trace tells by how much at least: a request reaches the called host
after the caller began, and before a caller that waits for the answer has ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from vmesh.traces.span import Span

CALLING = frozenset({"client", "producer"})
CALLED = frozenset({"server", "consumer"})

# A span and the one that it is a child of.
Pair = tuple[Span, Span]


@dataclass(frozen=True)
class Correction:
    """What to add to the times of a trace's spans, in microseconds.

    offsets: span id -> what to add
    apart: each host that was moved (a service where no host is known), and what was added to all
      of its spans
    contradicting: the ids of spans whose times and whose parent's times no offset brings together
    """

    offsets: Mapping[str, int]
    apart: tuple[tuple[str, int], ...]
    contradicting: frozenset[str]


def correct(pairs: Sequence[Pair], roots: Sequence[Span]) -> Correction:
    """Return the least offsets with which every child fits its parent.

    pairs: (parent, child), each parent before its children
    roots: the spans without a parent; the clock of the first one is the one that is right

    Where no offset is enough for all, the earlier pair counts, and that a child cannot begin before
    its parent counts more than that it begins before its parent's end.
    """
    groups = _Groups(pairs, roots)
    apart = [(above, below) for above, below in pairs if groups.differ(above, below)]
    known = _Known(len(groups.names))
    contradicting = set()
    for above, below in apart:
        if not known.at_least(groups.of(above), groups.of(below), above.start - below.start):
            contradicting.add(below.span_id)
    for above, below in apart:
        if _is_awaited(above) and not known.at_most(
            groups.of(above), groups.of(below), above.end - below.start
        ):
            contradicting.add(below.span_id)
    found = known.copy().least()
    if any(found):
        # What fits stays; what has to be moved goes where it also ends in time, if there is room.
        for clock, offset in enumerate(found):
            if not offset:
                known.fix(clock, 0)
        for above, below in apart:
            if _is_awaited(above) and below.duration <= above.duration:
                known.at_most(groups.of(above), groups.of(below), above.end - below.end)
        found = known.least()
    spans = [*roots, *(below for _, below in pairs)]
    return Correction(
        {span.span_id: found[groups.of(span)] for span in spans},
        tuple((groups.names[clock], offset) for clock, offset in enumerate(found) if offset),
        frozenset(contradicting),
    )


def _is_awaited(parent: Span) -> bool:
    """Tell whether `parent` lasts until what it called has answered.

    Envoy waits for what it passes a request to. What the app behind an Envoy calls, it may call
    long after its own answer.
    """
    if parent.host is not None:
        return not parent.to_own_app
    return parent.kind == "client"


class _Groups:
    """Which spans have the same clock; clocks are numbered in the order of the trace."""

    def __init__(self, pairs: Sequence[Pair], roots: Sequence[Span]) -> None:
        spans = [*roots, *(below for _, below in pairs)]
        self._leader = {span.span_id: span.span_id for span in spans}
        self._host = {span.span_id: span.host for span in spans}
        self._join_all(spans, lambda span: span.host)
        for above, below in pairs:
            if _share_a_host(above, below):
                self._join(above, below)
        # Hosts may be called alike, as copies of one image are: what Envoy says goes first.
        self._join_all(spans, lambda span: span.machine)
        numbers: dict[str, int] = {}
        self.names: list[str] = []
        for span in spans:
            leader = self._find(span.span_id)
            if leader not in numbers:
                numbers[leader] = len(numbers)
                self.names.append(self._host[leader] or span.machine or span.service)
        self._number = {span.span_id: numbers[self._find(span.span_id)] for span in spans}

    def of(self, span: Span) -> int:
        return self._number[span.span_id]

    def differ(self, one: Span, other: Span) -> bool:
        return self.of(one) != self.of(other)

    def _find(self, span_id: str) -> str:
        while self._leader[span_id] != span_id:
            self._leader[span_id] = self._leader[self._leader[span_id]]
            span_id = self._leader[span_id]
        return span_id

    def _join(self, one: Span, other: Span) -> None:
        first, second = self._find(one.span_id), self._find(other.span_id)
        hosts = {self._host[first], self._host[second]} - {None}
        if len(hosts) < 2:
            self._leader[second] = first
            self._host[first] = next(iter(hosts), None)

    def _join_all(self, spans: Iterable[Span], key: Callable[[Span], str | None]) -> None:
        first: dict[str, Span] = {}
        for span in spans:
            name = key(span)
            if name is not None:
                self._join(first.setdefault(name, span), span)


def _share_a_host(above: Span, below: Span) -> bool:
    """Tell of an app's span, in which no host need be named, whether its neighbour has its host."""
    if below.host is None and above.host is not None:
        return above.to_own_app
    if above.host is None and below.host is not None:
        # An app calls others through the Envoy beside it.
        return below.kind in CALLING
    same_process = above.host is None and above.process == below.process
    return same_process and below.kind not in CALLED


class _Known:
    """What is known of the clocks' offsets: how much greater than another each is at most.

    A simple temporal network: as every consequence of what is known is written down at once, a
    contradiction shows when it is added, and offsets can be chosen one after the other.
    """

    def __init__(self, clocks: int) -> None:
        self._most = [
            [0.0 if one == other else math.inf for other in range(clocks)] for one in range(clocks)
        ]

    def copy(self) -> _Known:
        found = _Known(0)
        found._most = [list(row) for row in self._most]
        return found

    def at_most(self, one: int, other: int, difference: float) -> bool:
        """Add that offset `other` - offset `one` <= `difference`; False if it contradicts."""
        most = self._most
        if most[other][one] + difference < 0:
            return False
        if difference >= most[one][other]:
            return True
        reached = [(clock, most[other][clock]) for clock in range(len(most))]
        reached = [(clock, more) for clock, more in reached if more < math.inf]
        for row in most:
            begin = row[one] + difference
            if begin < math.inf:
                for clock, more in reached:
                    row[clock] = min(row[clock], begin + more)
        return True

    def at_least(self, one: int, other: int, difference: float) -> bool:
        """Add that offset `other` - offset `one` >= `difference`; False if it contradicts."""
        return self.at_most(other, one, -difference)

    def fix(self, clock: int, offset: float) -> None:
        """Add that a clock has this offset from the first one."""
        self.at_most(0, clock, offset)
        self.at_least(0, clock, offset)

    def least(self) -> list[int]:
        """Return each clock's offset; the first has 0.

        As few as possible differ from 0, those nearest to the first one have it before others;
        what differs, differs by as little as possible.
        """
        clocks = range(len(self._most))
        for clock in clocks:
            low, high = self._between(clock)
            if low <= 0 <= high:
                self.fix(clock, 0)
        found = []
        for clock in clocks:
            low, high = self._between(clock)
            offset = min(max(0.0, low), high)
            self.fix(clock, offset)
            found.append(int(offset))
        return found

    def _between(self, clock: int) -> tuple[float, float]:
        return -self._most[clock][0], self._most[0][clock]
