"""The client's side of HTTP/1.1 (RFC 9112): a request as bytes, an answer read off a wire."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from bench.load.addresses import Address
from bench.load.wire import EOF, BadAnswerError, CutError, Wire

# A client may send these again when it cannot know whether they were served (RFC 9110, 9.2.2).
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})

_STATUS_LINE = re.compile(rb"(HTTP/1\.[01]) ([1-9]\d\d)(?: .*)?")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_MOST_FIELDS = 200
_MOST_BODY = 16 * 2**20


@dataclass(frozen=True)
class Head:
    """Status line and header fields; names are lower case."""

    version: str
    status: int
    fields: tuple[tuple[str, str], ...]

    def value(self, name: str) -> str:
        """Return a field's value, several of them as one list; empty without any."""
        return ", ".join(value for key, value in self.fields if key == name)

    def tokens(self, name: str) -> set[str]:
        """Return the lower-case members of a field that is a list."""
        return {part.strip().lower() for part in self.value(name).split(",") if part.strip()}


@dataclass(frozen=True)
class Answer:
    """A whole answer, and whether its connection may take another request."""

    head: Head
    body: bytes
    reusable: bool


def request(method: str, address: Address, headers: Mapping[str, str], **own: str) -> bytes:
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
    for name, value in fields.items():
        if not _TOKEN.fullmatch(name) or any(character in value for character in "\r\n\0"):
            raise ValueError(f"{name!r}: {value!r} is not a header field")
    if not _TOKEN.fullmatch(method):
        raise ValueError(f"{method!r} is not a method")
    lines = [f"{method} {address.path} HTTP/1.1", *(f"{n}: {v}" for n, v in fields.items())]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1")


async def head(wire: Wire) -> Head:
    """Read up to the end of the header fields; interim answers (100 to 199 but 101) are skipped.

    Raises CutError or BadAnswerError.
    """
    while True:
        line = await wire.line()
        match = _STATUS_LINE.fullmatch(line)
        if match is None:
            raise BadAnswerError(f"no status line: {line[:80]!r}")
        try:
            fields = await _fields(wire)
        except CutError as error:
            raise CutError(error.how, partial=True) from error
        found = Head(match[1].decode(), int(match[2]), fields)
        if found.status == 101 or found.status >= 200:
            return found


async def _fields(wire: Wire) -> tuple[tuple[str, str], ...]:
    fields: list[tuple[str, str]] = []
    while line := await wire.line():
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon or not _TOKEN.fullmatch(name):
            raise BadAnswerError(f"no header field: {line[:80]!r}")
        fields.append((name.lower(), value.strip(" \t")))
        if len(fields) > _MOST_FIELDS:
            raise BadAnswerError(f"more than {_MOST_FIELDS} header fields")
    return tuple(fields)


def ends_with_connection(method: str, found: Head) -> bool:
    """Tell whether the body goes on until the server closes."""
    return not (
        _bodiless(method, found) or found.value("transfer-encoding") or _length(found) is not None
    )


def _bodiless(method: str, found: Head) -> bool:
    return method == "HEAD" or found.status in {101, 204, 304}


def _length(found: Head) -> int | None:
    told = found.tokens("content-length")
    if not told:
        return None
    (length,) = told if len(told) == 1 else ("differs",)
    if not (length.isascii() and length.isdecimal()):
        raise BadAnswerError(f"content-length: {found.value('content-length')}")
    return int(length)


async def pieces(wire: Wire, method: str, found: Head) -> AsyncIterator[bytes]:
    """Give the body as it comes; ends normally only when all of it is there.

    Raises CutError or BadAnswerError.
    """
    if _bodiless(method, found):
        return
    if coding := found.value("transfer-encoding"):
        if coding.lower() != "chunked":
            raise BadAnswerError(f"transfer-encoding: {coding}")
        async for piece in _chunks(wire):
            yield piece
    elif (length := _length(found)) is not None:
        while length:
            piece = await wire.some(length)
            length -= len(piece)
            yield piece
    else:
        while True:
            try:
                piece = await wire.some(_MOST_BODY)
            except CutError as error:
                if error.how == EOF:
                    return
                raise
            yield piece


async def _chunks(wire: Wire) -> AsyncIterator[bytes]:
    while True:
        line = (await wire.line()).split(b";")[0].strip()
        try:
            left = int(line, 16)
        except ValueError:
            raise BadAnswerError(f"no chunk size: {line[:80]!r}") from None
        if left == 0:
            await _fields(wire)  # trailers, up to the empty line
            return
        while left:
            piece = await wire.some(left)
            left -= len(piece)
            yield piece
        if await wire.line():
            raise BadAnswerError("a chunk is longer than its size")


async def exchange(wire: Wire, method: str, data: bytes) -> Answer:
    """Send a request and read its whole answer.

    Raises CutError, which is partial when a part of the answer had come, or BadAnswerError.
    """
    before = wire.received
    body = bytearray()
    try:
        await wire.send(data)
        found = await head(wire)
        async for piece in pieces(wire, method, found):
            body += piece
            if len(body) > _MOST_BODY:
                raise BadAnswerError(f"the body is longer than {_MOST_BODY} bytes")
    except CutError as error:
        raise CutError(error.how, partial=wire.received > before) from error
    options = found.tokens("connection")
    kept = "keep-alive" in options if found.version == "HTTP/1.0" else "close" not in options
    reusable = kept and found.status != 101 and not ends_with_connection(method, found)
    return Answer(found, bytes(body), reusable)
