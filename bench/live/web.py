"""One HTTP request, sent exactly as written and answered exactly as received."""

from __future__ import annotations

import http.client
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Reply:
    """What came back. `headers` keeps the server's own order and spelling."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: str

    def header(self, name: str) -> str | None:
        """Return the value of the header `name`, written in lower case."""
        return dict(self.headers).get(name)


def request(
    base: str,
    path: str,
    headers: Iterable[tuple[str, str]] = (),
    *,
    method: str = "GET",
    timeout: float = 60.0,
) -> Reply:
    """Send one request on a connection of its own. `path` goes out untouched.

    A `host` among the headers stands for the usual one.
    Raises OSError or http.client.HTTPException when nobody answers.
    """
    parts = urlsplit(base)
    connection = http.client.HTTPConnection(
        str(parts.hostname), parts.port or http.client.HTTP_PORT, timeout=timeout
    )
    try:
        sent = list(headers)
        own_host = any(name == "host" for name, _ in sent)
        connection.putrequest(method, path, skip_host=own_host, skip_accept_encoding=True)
        for name, value in sent:
            connection.putheader(name, value)
        if method == "POST":
            connection.putheader("content-length", "0")
        connection.endheaders()
        response = connection.getresponse()
        body = response.read().decode(errors="replace")
        return Reply(response.status, response.reason, tuple(response.getheaders()), body)
    finally:
        connection.close()
