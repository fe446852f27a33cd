"""An open-loop load: requests at a constant rate, however the answers are."""

from __future__ import annotations

import asyncio
import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import h11

from bench.load import http1, report
from bench.load.addresses import Address, allowed
from bench.load.background import Background, bounded
from bench.load.http1 import Answer, HttpConnection
from bench.load.report import Outcome, Report
from bench.load.wire import BadAnswerError, CutError, Wire, reason

KEPT = "kept-alive"
NEW = "new connection"
MODES = (KEPT, NEW)

START, END = "start", "end"  # marks that every load has
_SHOWN_BODY = 120


@dataclass(frozen=True)
class Target:
    """What is asked for, and which answer is the expected one.

    headers: a Host among them replaces the URL's own.
    body: a regular expression that is found in the expected body, or a function that tells; None:
        any body will do.
    name: shown in reports; the URL without one.
    """

    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200
    body: str | Callable[[bytes], bool] | None = None
    name: str = ""

    def fault(self, status: int, body: bytes) -> str | None:
        """Return what is wrong with an answer; None when it is the expected one."""
        shown = body[:_SHOWN_BODY].decode(errors="replace").strip()
        if status != self.status:
            return f"status {status}: {shown}" if shown else f"status {status}"
        if self.body is None:
            return None
        if callable(self.body):
            right = self.body(body)
        else:
            right = re.search(self.body, body.decode(errors="replace")) is not None
        return None if right else f"status {status} with another body: {shown or '(empty)'}"


@dataclass(eq=False)
class Pool:
    """The kept connections to one address: used in turn, so that none of them lies idle long."""

    size: int
    idle: deque[HttpConnection] = field(default_factory=deque)
    open: int = 0

    def take(self) -> HttpConnection | None:
        """Return the one unused longest; None while there is room for another, or all are busy."""
        while self.open >= self.size and self.idle:
            connection = self.idle.popleft()
            if not connection.stale():
                return connection
            self.drop(connection)
        return None

    def give_back(self, connection: HttpConnection) -> None:
        """Take a connection back after its answer; one more than there is room for is closed."""
        if self.open > self.size:
            self.drop(connection)
        else:
            self.idle.append(connection)

    def drop(self, connection: HttpConnection) -> None:
        """Close a connection."""
        connection.close()
        self.open -= 1


@dataclass(frozen=True)
class _Plan:
    """A target in one mode, ready to be sent."""

    target: Target
    mode: str
    address: Address
    request: h11.Request
    pool: Pool | None

    @property
    def name(self) -> str:
        return self.target.name or self.target.url


class Load(Background):
    """Requests at a constant rate from a thread of their own.

        with Load([Target("http://127.0.0.1:8000/trace/1")], rate=20, seconds=600) as load:
            load.mark("routes")
            ...  # change something
            load.mark("routes done")
        print(load.report("routes", "routes done").summary())

    Each request is due at its own time and sent then, answered or not be the earlier ones; how late
    the client itself was is in the report. The rate is that of all together: requests take the
    targets, and of each the modes, in turn.
    """

    def __init__(  # noqa: PLR0913 - options, by name
        self,
        targets: Sequence[Target],
        *,
        rate: float,
        seconds: float,
        modes: Sequence[str] = MODES,
        connections: int = 8,
        time_limit: float = 30.0,
        allow: Iterable[str] = (),
        closed_connection_fails: bool = True,
        most_in_flight: int = 500,
    ) -> None:
        """Prepare a load; nothing is sent before the `with` statement.

        rate: requests a second, in all.
        seconds: when it stops by itself; at most two hours.
        connections: kept to each address; when all are busy others are opened for the moment.
        time_limit: seconds from sending to the end of the answer.
        allow: networks in CIDR notation that targets may be in, beside the loopback addresses.
        closed_connection_fails: a kept connection may be closed by the server in the moment in
            which a request is sent on it. Without one byte of answer clients may send an idempotent
            request again on a new connection (RFC 9110, 9.2.2), which this one does, and counts.
            True: it has failed all the same; False: what counts is the second answer.
        most_in_flight: a request that is due when so many are unanswered fails unsent; what bounds
            the open files when a target swallows everything.

        Raises NotAllowedError for a target elsewhere, ValueError for numbers that make no sense.
        """
        super().__init__("load")
        if not targets or not modes or not set(modes) <= set(MODES):
            raise ValueError(f"a load needs targets, and modes of {', '.join(MODES)}")
        if not (0 < rate <= 10_000 and time_limit > 0 and connections > 0 and most_in_flight > 0):
            raise ValueError("rate, time limit, connections and requests in flight must be above 0")
        self._rate, self._seconds, self._time_limit = rate, bounded(seconds), time_limit
        self._closed_fails, self._most = closed_connection_fails, most_in_flight
        pools: dict[tuple[str, int], Pool] = {}
        networks = tuple(allow)
        self._plans: list[_Plan] = []
        for target in targets:
            place = allowed(target.url, networks)
            pool = pools.setdefault((place.host, place.port), Pool(connections))
            for mode in modes:
                own = {"connection": "close"} if mode == NEW else {}
                asked = http1.request(target.method, place, target.headers, **own)
                shared = pool if mode == KEPT else None
                self._plans.append(_Plan(target, mode, place, asked, shared))
        self._pools = tuple(pools.values())
        self._lock = threading.Lock()  # guards what the caller's thread reads
        self._marks: dict[str, float] = {}
        self._outcomes: list[Outcome] = []
        self._in_flight: set[float] = set()  # when they were due; no two at one time
        self._upcoming = math.inf  # when the next one is due
        self._scheduler: asyncio.Task[None] | None = None

    def mark(self, name: str) -> None:
        """Name this moment, for `report`. Raises ValueError when the name is taken."""
        with self._lock:
            if name in self._marks or name in {START, END}:
                raise ValueError(f"there is a mark {name} already")
            self._marks[name] = time.monotonic()

    def report(
        self, since: str = START, until: str = END, *, name: str = "", wait: bool = True
    ) -> Report:
        """Return what became of the requests that were due between two marks.

        wait: first wait for those of them that are unanswered; that takes the time limit at most.
            Without it they are counted as `unfinished`.

        Raises KeyError for a mark that is not there.
        """
        with self._lock:
            start = self._marks[since]
            end = self._marks.get(END, time.monotonic()) if until == END else self._marks[until]
        while wait and self._open(start, end):
            time.sleep(0.01)
        with self._lock:
            told = [each for each in self._outcomes if start <= each.due < end]
            unfinished = self._count_open(start, end)
        label = name or (since if since != START else "load")
        return report.build(label, told, self._rate, (start, end), unfinished)

    def _open(self, start: float, end: float) -> int:
        with self._lock:
            return self._count_open(start, end)

    def _count_open(self, start: float, end: float) -> int:
        return sum(start <= due < end for due in (*self._in_flight, self._upcoming))

    async def _main(self) -> None:
        try:
            async with asyncio.TaskGroup() as requests:
                self._scheduler = requests.create_task(self._schedule(requests))
        finally:
            for pool in self._pools:
                for connection in pool.idle:
                    connection.close()
            with self._lock:
                self._in_flight.clear()
                self._marks.setdefault(END, time.monotonic())

    def _ask_to_end(self) -> None:
        if self._scheduler is not None:
            self._scheduler.cancel()

    async def _schedule(self, requests: asyncio.TaskGroup) -> None:
        """Send every request at its time; cancelled, it sends no more."""
        start = time.monotonic()
        with self._lock:
            self._marks[START] = start
        self._begun.set()
        try:
            for number in range(math.ceil(self._rate * self._seconds)):
                due = self._upcoming = start + number / self._rate
                await asyncio.sleep(due - time.monotonic())
                self._send(requests, self._plans[number % len(self._plans)], due)
            self._upcoming = math.inf
            await asyncio.sleep(start + self._seconds - time.monotonic())
        finally:
            self._upcoming = math.inf
            with self._lock:
                self._marks[END] = time.monotonic()

    def _send(self, requests: asyncio.TaskGroup, plan: _Plan, due: float) -> None:
        outcome = Outcome(plan.name, plan.mode, due, sent=time.monotonic())
        with self._lock:
            if len(self._in_flight) >= self._most:
                outcome.error = f"not sent: {len(self._in_flight)} requests are unanswered"
                self._outcomes.append(outcome)
                return
            self._in_flight.add(due)
        requests.create_task(self._ask(plan, outcome))

    async def _ask(self, plan: _Plan, outcome: Outcome) -> None:
        """Send one request and note what comes of it; raises nothing but its own mistakes."""
        outcome.sent = time.monotonic()
        answer: Answer | None = None
        limit = asyncio.timeout(self._time_limit)
        try:
            async with limit:
                answer = await _answered(plan, outcome)
        except (CutError, BadAnswerError, OSError) as error:
            late = limit.expired()
            outcome.error = f"no answer within {self._time_limit:g} s" if late else _what(error)
        outcome.seconds = time.monotonic() - outcome.sent
        if answer is not None:
            outcome.status = answer.head.status
            outcome.trace_id = answer.head.trace_id
            outcome.error = plan.target.fault(answer.head.status, answer.body)
        if outcome.retried and self._closed_fails:
            then = outcome.error or f"status {outcome.status}"
            outcome.error = f"kept connection closed without an answer; sent again: {then}"
        with self._lock:
            self._outcomes.append(outcome)
            self._in_flight.discard(outcome.due)


async def _answered(plan: _Plan, outcome: Outcome) -> Answer:
    """Return the answer to a request, which may be sent twice: see Load.

    Raises CutError, BadAnswerError or OSError.
    """
    if plan.pool is not None and (kept := plan.pool.take()) is not None:
        try:
            return await _exchange(plan, kept)
        except CutError as error:
            if error.partial or plan.target.method not in http1.IDEMPOTENT:
                raise
            outcome.retried = True
    outcome.opened += 1
    if plan.pool is not None:
        plan.pool.open += 1
    try:
        wire = await Wire.connect(plan.address.host, plan.address.port)
    except BaseException:
        if plan.pool is not None:
            plan.pool.open -= 1
        raise
    return await _exchange(plan, HttpConnection(wire))


async def _exchange(plan: _Plan, connection: HttpConnection) -> Answer:
    """Send the request on a connection, which is then kept or closed, whatever happens."""
    reusable = False
    try:
        answer = await connection.exchange(plan.request)
        reusable = answer.reusable
    finally:
        if plan.pool is None:
            connection.close()
        elif reusable:
            plan.pool.give_back(connection)
        else:
            plan.pool.drop(connection)
    return answer


def _what(error: Exception) -> str:
    if isinstance(error, CutError):
        return f"{error.how} within the answer" if error.partial else f"{error.how}, no answer"
    if isinstance(error, BadAnswerError):
        return f"bad answer: {error}"
    return f"not connected: {reason(error)}"
