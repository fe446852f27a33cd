"""A WebSocket, held open while the mesh is changed under it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Any

from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.frame_protocol import CloseReason

from bench.load.frames import WsConnection
from bench.load.http1 import Head
from bench.load.streams import LEFT, End, Stream, Verdict, first
from bench.load.wire import EOF, BadAnswerError, CutError, Wire

# What a server closes with when nothing is wrong.
_ORDERLY_CODES = frozenset(
    {
        CloseReason.NORMAL_CLOSURE,
        CloseReason.GOING_AWAY,
        CloseReason.SERVICE_RESTART,
        CloseReason.TRY_AGAIN_LATER,
        CloseReason.NO_STATUS_RCVD,
    }
)
# How long a peer has for its part of an orderly end.
_GOODBYE_SECONDS = 10.0
_MOST_MESSAGE = 2**20


class WebSocket(Stream):
    """A WebSocket whose server sends every text back; a numbered one goes out again and again.

    with WebSocket("http://127.0.0.1:8000/streams/ws", seconds=600) as socket:
        ...  # change something
    print(socket.result().summary())
    """

    kind = "websocket"
    expected_status = 101

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
        self._expected = 0

    async def _open(self, wire: Wire) -> Head:
        self._connection = WsConnection(wire)
        return await self._connection.open(self._asked)

    async def _hold(self) -> End:
        assert self._leave is not None
        reading = asyncio.create_task(self._read())
        leaving = asyncio.create_task(self._leave.wait())
        try:
            return await self._converse(reading, leaving)
        finally:
            reading.cancel()
            leaving.cancel()

    async def _converse(self, reading: asyncio.Task[End], leaving: asyncio.Task[Any]) -> End:
        start = time.monotonic()
        until = start + self._seconds
        sent = 0
        while not (reading.done() or leaving.done()) and time.monotonic() < until:
            sent += 1
            with self._lock:
                self._expected = sent
            if not await self._send(TextMessage(_text(sent))):
                return await self._heard(reading)
            await first(
                reading, leaving, seconds=min(start + sent * self._every, until) - time.monotonic()
            )
            if sent - self._messages > max(self._silence / self._every, 1):
                return self._silent()
        if reading.done():
            return await reading
        return await self._leave_in_order(reading, sent)

    async def _leave_in_order(self, reading: asyncio.Task[End], sent: int) -> End:
        deadline = time.monotonic() + self._silence
        while self._messages < sent and not reading.done():
            if time.monotonic() > deadline:
                return self._silent()
            await first(reading, seconds=0.02)
        if not reading.done():
            await self._send(CloseConnection(CloseReason.NORMAL_CLOSURE))
        return await self._heard(reading)

    async def _heard(self, reading: asyncio.Task[End]) -> End:
        """Return the end that the reading side comes to, which must be soon."""
        await first(reading, seconds=_GOODBYE_SECONDS)
        return await reading if reading.done() else End(Verdict.BROKEN, "no close frame came back")

    def _silent(self) -> End:
        return End(
            Verdict.BROKEN, f"message {self._messages + 1} not back after {self._silence:g} s"
        )

    async def _send(self, event: Event) -> bool:
        """Send something; false when it cannot arrive, of which the reading side knows more."""
        try:
            async with asyncio.timeout(self._silence):
                return await self._connection.send(event)
        except CutError:
            return False

    async def _read(self) -> End:
        """Take what the server says until the end."""
        message = ""
        while True:
            try:
                event = await self._connection.receive()
            except CutError as error:
                return self._cut(error)
            if isinstance(event, Ping):
                await self._send(event.response())
            elif isinstance(event, CloseConnection):
                return await self._closed_by(event)
            elif isinstance(event, BytesMessage):
                raise BadAnswerError("a message that is not text")
            elif isinstance(event, TextMessage):
                message += event.data
                if len(message) > _MOST_MESSAGE:
                    raise BadAnswerError(f"a message is longer than {_MOST_MESSAGE} characters")
                if event.message_finished:
                    self._check(message)
                    message = ""

    def _check(self, message: str) -> None:
        """Count a message. Raises BadAnswerError when it is not the next one."""
        due = self._messages + 1
        if due > (self._expected or 0) or message != _text(due):
            raise BadAnswerError(f"message {due} is due, not {message[:80].encode()!r}")
        with self._lock:
            self._messages = due

    async def _closed_by(self, event: CloseConnection) -> End:
        """Answer a close frame, or take it as the answer to our own."""
        code = int(event.code)
        if self._connection.answered_close:
            return End(Verdict.SURVIVED, f"{LEFT}, close frame {code} in answer")
        await self._send(event.response())
        verdict = Verdict.CLOSED if code in _ORDERLY_CODES else Verdict.BROKEN
        return End(verdict, f"close frame {code}{self._lost()}")

    def _cut(self, error: CutError) -> End:
        if error.partial:
            return End(Verdict.BROKEN, f"{error.how} within a frame")
        lost = self._lost()
        if self._connection.awaits_close:
            return End(Verdict.BROKEN, f"{error.how}, no close frame came back")
        orderly = error.how == EOF and not lost
        return End(Verdict.CLOSED if orderly else Verdict.BROKEN, f"{error.how}{lost}")

    def _lost(self) -> str:
        """Tell of messages that did not come back; empty without any."""
        lost = (self._expected or 0) - self._messages
        return f", {lost} messages not back" if lost else ""


def _text(number: int) -> str:
    return f"message {number}"
