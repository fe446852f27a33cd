# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""HTTP over a unix socket, by the standard library."""

from __future__ import annotations

import contextlib
import http.client
import socket
from collections.abc import Mapping

# What a request can raise: nobody listens, no answer in time, no HTTP.
FAULTS = (OSError, http.client.HTTPException)


class UnixConnection(http.client.HTTPConnection):
    """A connection to the unix socket at `path`. `seconds` is the longest wait for each step."""

    def __init__(self, path: str, seconds: float = 30) -> None:
        super().__init__("localhost", timeout=seconds)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def ask(path: str, url: str, method: str = "GET", seconds: float = 30) -> tuple[int, str]:
    """Return status and body of a request to the server at a unix socket; raises FAULTS."""
    with contextlib.closing(UnixConnection(path, seconds)) as connection:
        connection.request(method, url)
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")


def status_of(
    connection: http.client.HTTPConnection, url: str, headers: Mapping[str, str] | None = None
) -> int:
    """Return the status of a GET and close the connection; raises FAULTS.

    The body is not read: it may have no end.
    """
    with contextlib.closing(connection):
        connection.request("GET", url, headers=dict(headers or {}))
        return connection.getresponse().status
