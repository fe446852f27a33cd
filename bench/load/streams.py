"""Long-lived streams, held open while the mesh is changed under them."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, ClassVar

from bench.load import http1
from bench.load.addresses import allowed
from bench.load.background import Background, bounded
from bench.load.http1 import Head, HttpConnection
from bench.load.wire import EOF, RESET, BadAnswerError, CutError, Wire, reason

LEFT = "left by the client"
COMPLETE = "complete"
CHUNK_END = "chunk end"  # the server ended the body in order, with lines missing

_LINE = re.compile(rb"(\d+) of (\d+)\s*$")


class Verdict(StrEnum):
    """What became of a stream.

    SURVIVED: it went on until its own end, or until the client left it, and nothing was missing.
    CLOSED: somebody on the way ended it in order, at once after something whole: with a close
        frame, the end of the body, or the end of the connection.
        A proxy that ends a stream at the end of its drain time can do no more than end the
        connection, and a process that is killed often looks the same from here: `seconds` tells.
    BROKEN: anything else: a reset, half a line, a lost or wrong message, silence, not opened.
    """

    OPEN = "open"
    SURVIVED = "survived"
    CLOSED = "closed"
    BROKEN = "broken"


@dataclass(frozen=True)
class End:
    """How a stream ended, in a few words."""

    verdict: Verdict
    how: str


@dataclass(frozen=True)
class StreamResult:
    """What became of a stream, or how it stands."""

    kind: str
    target: str
    verdict: Verdict
    how: str
    seconds: float  # held, from the answer's head on
    messages: int  # lines that came, or messages that came back, each right and in order
    expected: int | None  # lines that were announced, or messages that were sent
    trace_id: str | None

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON knows it."""
        return asdict(self)

    def summary(self) -> str:
        """Return one line for people."""
        of = "" if self.expected is None else f" of {self.expected}"
        how = f" ({self.how})" if self.how else ""
        trace = f", trace {self.trace_id}" if self.trace_id else ""
        return (
            f"{self.kind} {self.target}: {self.verdict}{how} after {self.seconds:.1f} s, "
            f"{self.messages}{of} messages{trace}"
        )


class Stream(Background):
    """A stream in a thread of its own; entering waits until it is open, or cannot be opened.

    Leaving ends it in order if it still is open; `wait` lets it come to its own end.
    """

    kind: ClassVar[str]
    expected_status: ClassVar[int]
    own_fields: ClassVar[Mapping[str, str]] = {}  # of the request, beside the caller's

    def __init__(  # noqa: PLR0913 - options, by name
        self,
        url: str,
        *,
        seconds: float,
        headers: Mapping[str, str] | None = None,
        allow: Iterable[str] = (),
        silence: float = 30.0,
        name: str = "",
    ) -> None:
        """Prepare a stream; nothing is sent before the `with` statement.

        seconds: when the client ends it in order by itself; at most two hours.
        silence: seconds without what is due after which it counts as broken.
        allow: networks in CIDR notation that the URL may be in, beside the loopback addresses.

        Raises NotAllowedError for a URL elsewhere, ValueError for numbers that make no sense.
        """
        super().__init__(self.kind)
        if silence <= 0:
            raise ValueError("the silence must be above 0 seconds")
        self._address = allowed(url, tuple(allow))
        self._asked = http1.request("GET", self._address, headers or {}, **self.own_fields)
        self._seconds, self._silence, self._name = bounded(seconds), silence, name or url
        self._leave: asyncio.Event | None = None
        self._lock = threading.Lock()  # guards what follows
        self._opened: float | None = None
        self._closed: float | None = None
        self._end = End(Verdict.OPEN, "")
        self._messages = 0
        self._expected: int | None = None
        self._trace_id: str | None = None

    def result(self) -> StreamResult:
        """Return what became of it; its verdict is OPEN while it has not ended."""
        with self._lock:
            until = self._closed or time.monotonic()
            held = 0.0 if self._opened is None else until - self._opened
            return StreamResult(
                self.kind,
                self._name,
                self._end.verdict,
                self._end.how,
                held,
                self._messages,
                self._expected,
                self._trace_id,
            )

    @abstractmethod
    async def _open(self, wire: Wire) -> Head:
        """Send the request and return the answer; may raise CutError or BadAnswerError."""

    @abstractmethod
    async def _hold(self) -> End:
        """Hold the opened stream until its end; may raise CutError or BadAnswerError."""

    def _ask_to_end(self) -> None:
        if self._leave is not None:
            self._leave.set()

    async def _main(self) -> None:
        self._leave = asyncio.Event()
        end = End(Verdict.BROKEN, "given up by the client")
        try:
            end = await self._conversation()
        finally:
            with self._lock:
                self._closed, self._end = time.monotonic(), end

    async def _conversation(self) -> End:
        wire: Wire | None = None
        try:
            async with asyncio.timeout(self._silence):
                wire = await Wire.connect(self._address.host, self._address.port)
                head = await self._open(wire)
            with self._lock:
                self._opened, self._trace_id = time.monotonic(), head.trace_id
            self._begun.set()
            if head.status != self.expected_status:
                return End(Verdict.BROKEN, f"not opened: status {head.status}")
            return await self._hold()
        except CutError as error:
            how = f"{error.how} within a message" if error.partial else error.how
            return End(Verdict.BROKEN, how if self._opened else f"not opened: {how}")
        except BadAnswerError as error:
            return End(Verdict.BROKEN, f"bad answer: {error}")
        except TimeoutError:
            return End(Verdict.BROKEN, f"silence for {self._silence:g} s")
        except OSError as error:
            return End(Verdict.BROKEN, f"not opened: {reason(error)}")
        finally:
            if wire is not None:
                wire.close()


async def first(*tasks: asyncio.Task[Any], seconds: float) -> None:
    """Wait for the first of some tasks, at most so long; none is cancelled."""
    await asyncio.wait(tasks, timeout=max(seconds, 0), return_when=asyncio.FIRST_COMPLETED)


class Download(Stream):
    """A body of numbered lines, each ending with `K of N`, that the server sends slowly.

    with Download("http://127.0.0.1:8000/streams/slow?seconds=60", seconds=90) as download:
        ...  # change something
        download.wait(90)
    print(download.result().summary())
    """

    kind = "download"
    expected_status = 200
    own_fields: ClassVar[Mapping[str, str]] = {"connection": "close"}

    async def _open(self, wire: Wire) -> Head:
        self._connection = HttpConnection(wire)
        await self._connection.send(self._asked)
        return await self._connection.head()

    async def _hold(self) -> End:
        assert self._leave is not None
        reading = asyncio.create_task(self._read())
        leaving = asyncio.create_task(self._leave.wait())
        try:
            await first(reading, leaving, seconds=self._seconds)
            return await reading if reading.done() else End(Verdict.SURVIVED, LEFT)
        finally:
            reading.cancel()
            leaving.cancel()

    async def _read(self) -> End:
        rest = b""
        try:
            while True:
                async with asyncio.timeout(self._silence):
                    piece = await self._connection.piece()
                if piece is None:
                    break
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    self._check(line)
        except CutError as error:
            return self._cut(error.how, rest)
        if self._messages == self._expected and not rest:
            return End(Verdict.SURVIVED, COMPLETE)
        return self._cut(EOF if self._connection.ended else CHUNK_END, rest)

    def _cut(self, how: str, rest: bytes) -> End:
        """Tell how a body that is not complete ended, with `rest` of a line."""
        if rest:
            return End(Verdict.BROKEN, f"{how} within a line")
        if self._messages == self._expected and how != RESET:
            # All lines are there, but the body's end is not.
            return End(Verdict.CLOSED, f"{how} after the last line")
        return End(Verdict.BROKEN if how == RESET else Verdict.CLOSED, how)

    def _check(self, line: bytes) -> None:
        """Count a line. Raises BadAnswerError when it is not the next one."""
        match = _LINE.search(line)
        if match is None:
            raise BadAnswerError(f"no numbered line: {line[:80]!r}")
        number, of = int(match[1]), int(match[2])
        if number != self._messages + 1 or of < number or self._expected not in {None, of}:
            raise BadAnswerError(f"line {self._messages + 1} is due, not {line[:80]!r}")
        with self._lock:
            self._messages, self._expected = number, of
