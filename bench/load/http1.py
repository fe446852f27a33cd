"""The client's side of HTTP/1.1 on a connection: h11 speaks it, Wire carries the bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import h11

from bench.load.addresses import Address
from bench.load.wire import EOF, BadAnswerError, CutError, Wire

# A client may send these again when it cannot know whether they were served (RFC 9110, 9.2.2).
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})

_MOST_HEAD = 65536
_MOST_BODY = 16 * 2**20


@dataclass(frozen=True)
class Head:
    """What the header of an answer says."""

    status: int
    trace_id: str | None  # its x-trace-id


@dataclass(frozen=True)
class Answer:
    """A whole answer, and whether its connection may take another request."""

    head: Head
    body: bytes
    reusable: bool


def request(method: str, address: Address, headers: Mapping[str, str], **own: str) -> h11.Request:
    """Return a request without a body.

    headers: the caller's; a Host among them replaces the URL's own.
    own: fields of the client itself, e.g. connection="close"; the caller's go before them.

    Raises ValueError when method or headers would be another request than they seem to be.
    """
    given = {name.lower() for name in headers}
    defaults = {"host": address.authority, "user-agent": "vmesh-load", "accept": "*/*"}
    if method not in {"GET", "HEAD", "OPTIONS", "TRACE"}:
        defaults["content-length"] = "0"
    fields = {n: v for n, v in (defaults | own).items() if n not in given} | dict(headers)
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields.items()]
    try:
        return h11.Request(method=method, target=address.path, headers=encoded)
    except h11.LocalProtocolError as error:
        raise ValueError(
            f"{method!r} is not a method, or one of {fields} is not a header field: {error}"
        ) from error


def head_of(status: int, fields: Iterable[tuple[bytes, bytes]]) -> Head:
    """Return what is of interest in a header; the names of its fields are lower case."""
    traces = [value.decode("latin-1") for name, value in fields if name == b"x-trace-id"]
    return Head(status, ", ".join(traces) or None)


class HttpConnection:
    """A connection on which requests are sent and answered one after the other."""

    def __init__(self, wire: Wire) -> None:
        """Take a connection on which nothing was sent yet."""
        self._wire = wire
        self._protocol = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MOST_HEAD)
        self._answering = False  # a byte of the answer has come
        self.ended = False  # the server has closed its side

    def close(self) -> None:
        """Close the connection; again does nothing."""
        self._wire.close()

    def stale(self) -> bool:
        """Tell whether an idle connection cannot take a request.

        So it is when the server has closed it, or has sent something that nobody asked for.
        """
        return bool(self._protocol.trailing_data[0]) or self._wire.stale()

    async def send(self, asked: h11.Request) -> None:
        """Send a request. Raises CutError."""
        self._answering = False
        data = self._protocol.send(asked) + self._protocol.send(h11.EndOfMessage())
        await self._wire.send(data)

    async def head(self) -> Head:
        """Read up to the end of the header; interim answers are skipped.

        Raises CutError or BadAnswerError.
        """
        while True:
            event = await self._next()
            if isinstance(event, h11.Response):
                return head_of(event.status_code, event.headers)

    async def piece(self) -> bytes | None:
        """Return the next piece of the body; None when all of it was there.

        Raises CutError or BadAnswerError.
        """
        event = await self._next()
        return bytes(event.data) if isinstance(event, h11.Data) else None

    async def _next(self) -> h11.Event:
        """Return what the server says next."""
        while True:
            try:
                event = self._protocol.next_event()
            except h11.RemoteProtocolError as error:
                if self.ended:
                    raise CutError(EOF, partial=self._answering) from error
                raise BadAnswerError(str(error)) from error
            if isinstance(event, h11.Event):
                return event
            if event is h11.PAUSED:
                raise BadAnswerError("the server has switched to another protocol")
            came = await self._wire.receive(partial=self._answering)
            self._protocol.receive_data(came)
            if came:
                self._answering = True
            else:
                self.ended = True

    async def exchange(self, asked: h11.Request) -> Answer:
        """Send a request and read its whole answer.

        Raises CutError, which is partial when a part of the answer had come, or BadAnswerError.
        """
        await self.send(asked)
        head = await self.head()
        body = bytearray()
        while (piece := await self.piece()) is not None:
            body += piece
            if len(body) > _MOST_BODY:
                raise BadAnswerError(f"the body is longer than {_MOST_BODY} bytes")
        reusable = not self.ended and self._protocol.states == _BOTH_DONE
        if reusable:
            self._protocol.start_next_cycle()
        return Answer(head, bytes(body), reusable)


_BOTH_DONE = {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}
