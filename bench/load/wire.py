"""One TCP connection: its bytes, and how it ended.

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
    """A connection. Close it when it is no longer needed."""

    def __init__(self, connected: socket.socket) -> None:
        """Take a connected, non-blocking socket."""
        self._socket = connected

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

    def close(self) -> None:
        """Close the connection; again does nothing."""
        self._socket.close()

    def stale(self) -> bool:
        """Tell whether the peer has closed an idle connection, or has sent something on it."""
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

    async def receive(self, *, partial: bool) -> bytes:
        """Return what comes next, at most 64 KiB; nothing at the end of file.

        partial: whether a part of what is waited for has come, for the CutError that a reset
            raises.
        """
        try:
            return await asyncio.get_running_loop().sock_recv(self._socket, _PIECE)
        except ConnectionError as error:
            raise CutError(RESET, partial=partial) from error
