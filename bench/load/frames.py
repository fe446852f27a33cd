"""The client's side of WebSocket on a connection: wsproto speaks it, Wire carries the bytes."""

from __future__ import annotations

import asyncio
from collections import deque

import h11
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Event,
    Message,
    RejectConnection,
    Request,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from bench.load.http1 import Head, head_of
from bench.load.wire import EOF, BadAnswerError, CutError, Wire


class WsConnection:
    """A connection that becomes a WebSocket; no extensions."""

    def __init__(self, wire: Wire) -> None:
        """Take a connection on which nothing was sent yet."""
        self._wire = wire
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._events = deque[Event]()
        self._whole = True  # the last byte that came ends a frame, or an answer's header
        self._sending = asyncio.Lock()  # frames must not mix

    @property
    def answered_close(self) -> bool:
        """Tell whether each side has sent a close frame."""
        return self._protocol.state is ConnectionState.CLOSED

    @property
    def awaits_close(self) -> bool:
        """Tell whether only the client has sent a close frame."""
        return self._protocol.state is ConnectionState.LOCAL_CLOSING

    async def open(self, asked: h11.Request) -> Head:
        """Ask for the WebSocket as a GET request would; return the answer, of status 101 if open.

        Raises CutError, or BadAnswerError for an answer that does not fit the question.
        """
        fields = dict(asked.headers)
        await self.send(
            Request(
                host=fields.pop(b"host").decode("latin-1"),
                target=asked.target.decode("ascii"),
                extra_headers=list(fields.items()),
            )
        )
        event = await self.receive()
        if isinstance(event, RejectConnection):
            return head_of(event.status_code, event.headers)
        assert isinstance(event, AcceptConnection), event
        return head_of(101, event.extra_headers)

    async def send(self, event: Event) -> bool:
        """Send something; false when it no longer may be sent, as a close frame was.

        Raises CutError when the server has gone.
        """
        async with self._sending:
            try:
                data = self._protocol.send(event)
            except LocalProtocolError:
                return False
            await self._wire.send(data)
        return True

    async def receive(self) -> Event:
        """Return what the server says next; a long message comes in parts.

        Raises CutError, which is partial unless the connection ended between two frames, and
        BadAnswerError for what a server must not send.
        """
        while not self._events:
            came = await self._wire.receive(partial=not self._whole)
            if not came:
                raise CutError(EOF, partial=not self._whole)
            # wsproto does not tell whether it holds a part of a frame. The last byte alone does:
            # it makes wsproto tell of the frame's end, or there is none.
            for part in (came[:-1], came[-1:]):
                self._take(part)
        event = self._events.popleft()
        if isinstance(event, CloseConnection) and self._protocol.state in _NOT_CLOSED_BY_SERVER:
            raise BadAnswerError(event.reason)  # wsproto's proposal of what to close with
        return event

    def _take(self, data: bytes) -> None:
        """Have wsproto read some bytes, if it still wants any."""
        if not data or self.answered_close:
            return
        try:
            self._protocol.receive_data(data)
        except RemoteProtocolError as error:
            raise BadAnswerError(str(error)) from error
        before = len(self._events)
        self._events.extend(self._protocol.events())
        new = self._events[-1] if len(self._events) > before else None
        self._whole = new.frame_finished if isinstance(new, Message) else new is not None


_NOT_CLOSED_BY_SERVER = (ConnectionState.OPEN, ConnectionState.LOCAL_CLOSING)
