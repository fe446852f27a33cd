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
from typing import Any

from bench.load import frames, http1
from bench.load.addresses import allowed
from bench.load.background import Background, bounded
from bench.load.frames import Opcode
from bench.load.http1 import Head
from bench.load.wire import EOF, RESET, BadAnswerError, CutError, Wire, reason

LEFT = "left by the client"
COMPLETE = "complete"
CHUNK_END = "chunk end"  # the server ended the body in order, with lines missing

_LINE = re.compile(rb"(\d+) of (\d+)\s*$")
# What a server closes with when nothing is wrong: done, going away, restarting, try again later.
_ORDERLY_CODES = frozenset({1000, 1001, 1012, 1013, frames.NO_CODE})
# How long a peer has for its part of an orderly end.
_GOODBYE_SECONDS = 10.0


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

    kind = "stream"

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
        self._address, self._headers = allowed(url, tuple(allow)), dict(headers or {})
        self._seconds, self._silence, self._name = bounded(seconds), silence, name or url
        self._request("")  # raises for headers that cannot be sent
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
    def _request(self, key: str) -> bytes:
        """Return the request that opens it."""

    @abstractmethod
    async def _hold(self, wire: Wire, head: Head, key: str) -> End:
        """Hold an answered stream until its end; may raise CutError or BadAnswerError."""

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
        key = frames.new_key()
        wire: Wire | None = None
        try:
            async with asyncio.timeout(self._silence):
                wire = await Wire.connect(self._address.host, self._address.port)
                await wire.send(self._request(key))
                head = await http1.head(wire)
            with self._lock:
                self._opened, self._trace_id = time.monotonic(), head.value("x-trace-id") or None
            self._begun.set()
            return await self._hold(wire, head, key)
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


async def _first(*tasks: asyncio.Task[Any], seconds: float) -> None:
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

    def _request(self, key: str) -> bytes:
        return http1.request("GET", self._address, self._headers, connection="close")

    async def _hold(self, wire: Wire, head: Head, key: str) -> End:
        if head.status != 200:
            return End(Verdict.BROKEN, f"not opened: status {head.status}")
        assert self._leave is not None
        reading = asyncio.create_task(self._read(wire, head))
        leaving = asyncio.create_task(self._leave.wait())
        try:
            await _first(reading, leaving, seconds=self._seconds)
            return await reading if reading.done() else End(Verdict.SURVIVED, LEFT)
        finally:
            reading.cancel()
            leaving.cancel()

    async def _read(self, wire: Wire, head: Head) -> End:
        body = http1.pieces(wire, "GET", head)
        rest = b""
        try:
            while True:
                async with asyncio.timeout(self._silence):
                    piece = await anext(body, None)
                if piece is None:
                    break
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    self._check(line)
        except CutError as error:
            return self._cut(error.how, rest)
        if self._messages == self._expected and not rest:
            return End(Verdict.SURVIVED, COMPLETE)
        unmarked = http1.ends_with_connection("GET", head)
        return self._cut(EOF if unmarked else CHUNK_END, rest)

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


class WebSocket(Stream):
    """A WebSocket whose server sends every text back; a numbered one goes out again and again.

    with WebSocket("http://127.0.0.1:8000/streams/ws", seconds=600) as socket:
        ...  # change something
    print(socket.result().summary())
    """

    kind = "websocket"

    def __init__(  # noqa: PLR0913 - options, by name
        self,
        url: str,
        *,
        seconds: float,
        every: float = 1.0,
        headers: Mapping[str, str] | None = None,
        allow: Iterable[str] = (),
        silence: float = 30.0,
        name: str = "",
    ) -> None:
        """As Stream; `every` so many seconds a message is sent."""
        super().__init__(
            url, seconds=seconds, headers=headers, allow=allow, silence=silence, name=name
        )
        if every <= 0:
            raise ValueError("a message can be sent every so many seconds above 0")
        self._every = every
        self._sending = asyncio.Lock()  # frames must not mix
        self._closing = False  # a close frame has been sent
        self._expected = 0

    def _request(self, key: str) -> bytes:
        return http1.request("GET", self._address, self._headers, **frames.upgrade(key))

    async def _hold(self, wire: Wire, head: Head, key: str) -> End:
        if not frames.accepted(head, key):
            return End(Verdict.BROKEN, f"not opened: status {head.status}")
        assert self._leave is not None
        reading = asyncio.create_task(self._read(wire))
        leaving = asyncio.create_task(self._leave.wait())
        try:
            return await self._converse(wire, reading, leaving)
        finally:
            reading.cancel()
            leaving.cancel()

    async def _converse(
        self, wire: Wire, reading: asyncio.Task[End], leaving: asyncio.Task[Any]
    ) -> End:
        start = time.monotonic()
        until = start + self._seconds
        sent = 0
        while not (reading.done() or leaving.done()) and time.monotonic() < until:
            sent += 1
            with self._lock:
                self._expected = sent
            if not await self._send(wire, Opcode.TEXT, _text(sent)):
                return await self._heard(reading)
            await _first(
                reading, leaving, seconds=min(start + sent * self._every, until) - time.monotonic()
            )
            if sent - self._messages > max(self._silence / self._every, 1):
                return self._silent()
        if reading.done():
            return await reading
        return await self._leave_in_order(wire, reading, sent)

    async def _leave_in_order(self, wire: Wire, reading: asyncio.Task[End], sent: int) -> End:
        deadline = time.monotonic() + self._silence
        while self._messages < sent and not reading.done():
            if time.monotonic() > deadline:
                return self._silent()
            await _first(reading, seconds=0.02)
        if not reading.done():
            self._closing = True
            await self._send(wire, Opcode.CLOSE, frames.close_payload(1000))
        return await self._heard(reading)

    async def _heard(self, reading: asyncio.Task[End]) -> End:
        """Return the end that the reading side comes to, which must be soon."""
        await _first(reading, seconds=_GOODBYE_SECONDS)
        return await reading if reading.done() else End(Verdict.BROKEN, "no close frame came back")

    def _silent(self) -> End:
        return End(
            Verdict.BROKEN, f"message {self._messages + 1} not back after {self._silence:g} s"
        )

    async def _send(self, wire: Wire, opcode: Opcode, payload: bytes) -> bool:
        """Send a frame; false when the peer has gone, of which the reading side knows more."""
        try:
            async with self._sending, asyncio.timeout(self._silence):
                await wire.send(frames.masked(opcode, payload))
        except CutError:
            return False
        return True

    async def _read(self, wire: Wire) -> End:
        """Take frames until the end."""
        message, of_text = b"", False
        while True:
            try:
                frame = await frames.frame(wire)
            except CutError as error:
                return self._cut(error)
            if frame.opcode is Opcode.PING:
                await self._send(wire, Opcode.PONG, frame.payload)
            elif frame.opcode is Opcode.CLOSE:
                return await self._closed_by(wire, frame.payload)
            elif frame.opcode is not Opcode.PONG:
                if (frame.opcode is Opcode.CONTINUATION) != of_text:
                    raise BadAnswerError("a continuation of nothing, or a message in a message")
                message += frame.payload
                of_text = not frame.final
                if frame.final:
                    self._check(message)
                    message = b""

    def _check(self, message: bytes) -> None:
        """Count a message. Raises BadAnswerError when it is not the next one."""
        due = self._messages + 1
        if due > (self._expected or 0) or message != _text(due):
            raise BadAnswerError(f"message {due} is due, not {message[:80]!r}")
        with self._lock:
            self._messages = due

    async def _closed_by(self, wire: Wire, payload: bytes) -> End:
        """Answer a close frame, or take it as the answer to our own."""
        code = frames.close_code(payload)
        if self._closing:
            return End(Verdict.SURVIVED, f"{LEFT}, close frame {code} in answer")
        self._closing = True
        await self._send(wire, Opcode.CLOSE, payload)
        verdict = Verdict.CLOSED if code in _ORDERLY_CODES else Verdict.BROKEN
        return End(verdict, f"close frame {code}{self._lost()}")

    def _cut(self, error: CutError) -> End:
        if error.partial:
            return End(Verdict.BROKEN, f"{error.how} within a frame")
        lost = self._lost()
        if self._closing:
            return End(Verdict.BROKEN, f"{error.how}, no close frame came back")
        orderly = error.how == EOF and not lost
        return End(Verdict.CLOSED if orderly else Verdict.BROKEN, f"{error.how}{lost}")

    def _lost(self) -> str:
        """Tell of messages that did not come back; empty without any."""
        lost = (self._expected or 0) - self._messages
        return f", {lost} messages not back" if lost else ""


def _text(number: int) -> bytes:
    return f"message {number}".encode()
