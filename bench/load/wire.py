"""One TCP connection of which everything is known: what came, and how it ended.

On bare sockets: nothing reads ahead in the background, so whether the peer has closed an idle
connection can be asked of the kernel in the very moment before it is used again.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Final, Self

EOF: Final = "end of file"
RESET: Final = "reset"
_MOST_LINE = 65536
_PIECE = 65536


class CutError(Exception):
    """The peer ended the connection while more was needed.

    how: EOF, or RESET for anything rougher.
    partial: whether a part of what was waited for had come.
    """

    def __init__(self, how: str, *, partial: bool = False) -> None:
        super().__init__(how)
        self.how, self.partial = how, partial


class BadAnswerError(Exception):
    """The peer's bytes are not what the protocol allows."""


def reason(error: Exception) -> str:
    """Return the system's own words for what it reported; asyncio puts others in their place."""
    number = error.errno if isinstance(error, OSError) else None
    return str(error) if number is None else os.strerror(number)


class Wire:
    """A connection. Close it, or use it as a context manager."""

    def __init__(self, connected: socket.socket) -> None:
        """Take a connected, non-blocking socket."""
        self._socket = connected
        self._buffer = bytearray()
        self.received = 0  # bytes, ever

    @classmethod
    async def connect(cls, host: str, port: int) -> Self:
        """Connect to an IP address. Raises OSError when that fails."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        new = socket.socket(family, socket.SOCK_STREAM)
        try:
            new.setblocking(False)
            new.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().sock_connect(new, (host, port))
        except BaseException:
            new.close()
            raise
        return cls(new)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; again does nothing."""
        self._socket.close()

    def stale(self) -> bool:
        """Tell whether an idle connection cannot take a request.

        So it is when the peer has closed it, or has sent something that nobody asked for.
        """
        if self._buffer:
            return True
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    async def send(self, data: bytes) -> None:
        """Send all of `data`. Raises CutError when the peer has gone."""
        try:
            await asyncio.get_running_loop().sock_sendall(self._socket, data)
        except ConnectionError as error:
            raise CutError(RESET) from error

    async def _more(self) -> None:
        try:
            came = await asyncio.get_running_loop().sock_recv(self._socket, _PIECE)
        except ConnectionError as error:
            raise CutError(RESET, partial=bool(self._buffer)) from error
        if not came:
            raise CutError(EOF, partial=bool(self._buffer))
        self.received += len(came)
        self._buffer += came

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    async def line(self) -> bytes:
        """Return the next line without its end. Raises CutError or BadAnswerError."""
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > _MOST_LINE:
                raise BadAnswerError(f"a line is longer than {_MOST_LINE} bytes")
            await self._more()
        return self._take(end + 1).rstrip(b"\r\n")

    async def exactly(self, count: int) -> bytes:
        """Return the next `count` bytes. Raises CutError."""
        while len(self._buffer) < count:
            await self._more()
        return self._take(count)

    async def some(self, most: int) -> bytes:
        """Return what is there, at least one byte and at most `most`. Raises CutError."""
        if not self._buffer:
            await self._more()
        return self._take(most)
