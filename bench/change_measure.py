"""Load around a change, and what came of it."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from bench.change_report import Row, counted, ends, executions, lost
from bench.change_world import HELLO, TIME_LIMIT_SECONDS, Change, World
from bench.load import (
    KEPT,
    NEW,
    Download,
    Load,
    Stream,
    StreamResult,
    Target,
    Verdict,
    WebSocket,
)

BACK_HELLO = "/back/hello"
# front-proxy, streams, streams' call, streams-back; and the edge's and streams-back's alone.
SPANS = {HELLO: 4, BACK_HELLO: 2}
# Before and after a change, so that what is measured has a beginning and an end without it.
AROUND_SECONDS = 3.0
LONGEST_ROW_SECONDS = 3600.0
# The route of the example gives them 120 seconds.
DOWNLOAD_SECONDS = 110
SPANS_WITHIN_SECONDS = 20.0


@dataclass
class Measure:
    """A change under load, and what came of it.

    allowed: requests that may fail by what is promised
    streams: of each kind that are open meanwhile; None: as many as the world has
    paths: what is asked for, with its rate; None: as the world's rates say
    long: seconds of long requests to both services, of which some are under way all the while; 0
        for none
    spans: whether to look for the requests' spans
    """

    world: World
    name: str
    allowed: int = 0
    streams: int | None = None
    paths: Mapping[str, float] | None = None
    long: float = 0.0
    spans: bool = True
    change: Change | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    _loads: dict[str, list[Load]] = field(default_factory=dict)
    _streams: list[Stream] = field(default_factory=list)
    _began: float = 0.0
    _clock: float = 0.0
    _seconds: float | None = None
    _waits: list[tuple[threading.Thread, list[float]]] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def load(self) -> Iterator[None]:
        """Ask, hold streams, and go on a little before and after what is done inside."""
        self._began = time.time()
        with ExitStack() as stack:
            for path, load in self._prepared():
                self._loads.setdefault(path, []).append(stack.enter_context(load))
            for stream in self._held():
                self._streams.append(stack.enter_context(stream))
            time.sleep(AROUND_SECONDS)
            self._clock = time.monotonic()
            yield
            if self._seconds is None:
                self._seconds = time.monotonic() - self._clock
            time.sleep(AROUND_SECONDS)

    def _prepared(self) -> Iterator[tuple[str, Load]]:
        rates = self.world.rates
        if self.paths is not None:
            for path, rate in self.paths.items():
                yield path, self._load(path, rate, KEPT, NEW)
        else:
            yield HELLO, self._load(HELLO, rates.kept, KEPT)
            yield HELLO, self._load(HELLO, rates.new, NEW)
            yield BACK_HELLO, self._load(BACK_HELLO, rates.back, KEPT, NEW)
        if self.long:
            for prefix in ("/streams", "/back"):
                path = f"{prefix}/wait?seconds={self.long:g}"
                yield path, self._load(path, 2 / self.long, NEW)

    def _load(self, path: str, rate: float, *modes: str) -> Load:
        body = {HELLO: says("streams"), BACK_HELLO: says("streams-back")}.get(path, r"^waited ")
        return Load(
            [Target(f"{self.world.url}{path}", body=body, name=path)],
            rate=rate,
            seconds=LONGEST_ROW_SECONDS,
            modes=modes,
            time_limit=TIME_LIMIT_SECONDS,
        )

    def _held(self) -> Iterator[Stream]:
        url, longest = self.world.url, LONGEST_ROW_SECONDS
        for _ in range(self.world.streams if self.streams is None else self.streams):
            yield WebSocket(f"{url}/streams/ws", seconds=longest, name="WebSocket")
            slow = f"{url}/streams/slow?seconds={DOWNLOAD_SECONDS}&every=1"
            yield Download(slow, seconds=longest, name="download")

    # --- while it is measured

    def took(self, change: Change, *, code: int | None = 0) -> Change:
        """Note what was done; `code` is how it has to end, None for any failure."""
        self.change, self._seconds = change, change.seconds
        self.expect(
            change.code != 0 if code is None else change.code == code, f"it {change.reason}"
        )
        self.expect(not change.unreachable, f"on {change.unreachable} something was out of reach")
        return change

    def expect(self, holds: object, otherwise: str) -> None:
        """Note a problem unless something holds."""
        if not holds:
            self.problems.append(otherwise)

    def served(self, path: str, status: int = http.client.OK) -> None:
        """Find out when `path` is first answered so, from now on."""
        found: list[float] = []
        began = time.monotonic()

        def ask() -> None:
            while time.monotonic() - began < LONGEST_ROW_SECONDS and not self._over.is_set():
                try:
                    if self.world.get(path).status == status:
                        found.append(time.monotonic() - began)
                        return
                except (OSError, http.client.HTTPException):
                    pass  # not yet
                time.sleep(0.1)

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        self._waits.append((thread, found))

    def rate_of(self, path: str) -> float:
        """Return at which rate `path` is asked for."""
        return sum(load.report(wait=False).rate for load in self._loads.get(path, []))

    def slowest(self) -> float:
        """Return the seconds that the slowest good answer took so far."""
        told = [load.report(wait=False) for loads in self._loads.values() for load in loads]
        return max((report.latency.max for report in told), default=0.0)

    # --- afterwards

    def failed(self, path: str) -> int:
        """Return how many requests for `path` failed."""
        reports = [load.report() for load in self._loads.get(path, [])]
        return int(counted(reports)["failed"])

    def ended(self) -> list[StreamResult]:
        """Return what became of the streams."""
        return [stream.result() for stream in self._streams]

    def row(self) -> Row:
        """Return all of it."""
        self._over.set()
        reports = {path: [load.report() for load in loads] for path, loads in self._loads.items()}
        for thread, _ in self._waits:
            thread.join(5)
        waited = [found[0] for _, found in self._waits if found]
        if len(waited) < len(self._waits):
            self.problems.append("what was waited for was never served")
        streams = [
            each for each in self.ended() if each.verdict in (Verdict.CLOSED, Verdict.BROKEN)
        ]
        row = Row(
            name=self.name,
            seconds=self._seconds or 0.0,
            allowed=self.allowed,
            served=max(waited) if waited else None,
            executions=executions(self.change.events) if self.change else {},
            streams=ends(self.ended()),
            facts=self.facts | ({"ended": [each.summary() for each in streams]} if streams else {}),
            problems=tuple(self.problems),
            **counted(report for told in reports.values() for report in told),
        )
        if self.spans:
            row = self._with_spans(row, reports)
        self.world.say(row.told())
        return row

    def _with_spans(self, row: Row, reports: Mapping[str, Any]) -> Row:
        expected = {
            trace.zfill(32): SPANS[path]
            for path, told in reports.items()
            for report in told
            for trace in report.trace_ids
            if path in SPANS
        }
        if not expected:
            return row
        # The window also has traces of the streams, of whoever waited, and of the row before.
        most = 4 * row.requests + 2000
        deadline = time.monotonic() + SPANS_WITHIN_SECONDS
        missing = sum(expected.values())
        while missing and time.monotonic() < deadline:
            time.sleep(2.0)
            try:
                missing = lost(expected, self.world.stored(self._began, most))
            except (AssertionError, OSError, http.client.HTTPException):
                continue  # Jaeger may just be starting
        return replace(row, spans=sum(expected.values()), spans_lost=missing)


def says(service: str) -> Callable[[bytes], bool]:
    """Return a function that tells whether an answer is `service`'s word of who it is."""

    def right(body: bytes) -> bool:
        try:
            told = json.loads(body)
        except ValueError:
            return False
        if not isinstance(told, dict) or told.get("service") != service:
            return False
        upstream = told.get("upstream")
        return service != "streams" or (
            isinstance(upstream, dict) and upstream.get("service") == "streams-back"
        )

    return right


@contextmanager
def measured(world: World, name: str, **options: Any) -> Iterator[Measure]:
    """Put load on the mesh around what is done inside; the options are Measure's."""
    world.say(f"{name} ...")
    measure = Measure(world, name, **options)
    with measure.load():
        yield measure
