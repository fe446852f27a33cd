"""The client of a request as the Envoys tell it: its address, and the URL that it asked for.

An app behind a proxy sees the proxy. This wrapper puts the client's view into the WSGI environment,
so `request.remote_addr`, `request.scheme`, `request.host` and URLs made by `url_for` are right
without a line in the app. It needs no framework.

It believes these headers without a look at the peer: the socket of the app is open to its own Envoy
alone, and the edge removes or overwrites what clients send.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from typing import Any

Environ = dict[str, Any]
App = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

# The first Envoy that a request meets in the mesh writes it: the edge for a client, the service's
# own Envoy for a caller inside the mesh.
ADDRESS = "HTTP_X_ENVOY_EXTERNAL_ADDRESS"
SCHEME = "HTTP_X_FORWARDED_PROTO"
HOST = "HTTP_X_FORWARDED_HOST"
PORT = "HTTP_X_FORWARDED_PORT"

# A name, an IPv4 address or an IPv6 address in brackets, each with a port or without.
_HOST = re.compile(r"(?P<name>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{1,5}))?")


class Forwarded:
    """A WSGI app whose requests look to it as the client sent them."""

    def __init__(self, app: App) -> None:
        """Take the app that is to be called."""
        self.app = app

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Call the app with what the headers say; a header that makes no sense says nothing."""
        environ.update(_seen_by_client(environ))
        return self.app(environ, start_response)


def _seen_by_client(environ: Environ) -> Environ:
    """Return what changes in the environment of a request."""
    found: Environ = {}
    if (address := _nearest(environ, ADDRESS)) and _is_address(address):
        found["REMOTE_ADDR"] = address
    if (scheme := _nearest(environ, SCHEME).lower()) in {"http", "https"}:
        found["wsgi.url_scheme"] = scheme
    host = _HOST.fullmatch(_nearest(environ, HOST))
    if host:
        found |= {"HTTP_HOST": host[0], "SERVER_NAME": host["name"]}
    if port := _port(_nearest(environ, PORT)):
        host = host or _HOST.fullmatch(environ.get("HTTP_HOST", ""))
        if host:
            found["HTTP_HOST"] = f"{host['name']}:{port}"
        found["SERVER_PORT"] = port
    elif host:
        usual = "443" if found.get("wsgi.url_scheme") == "https" else "80"
        found["SERVER_PORT"] = host["port"] or usual
    return found


def _nearest(environ: Environ, name: str) -> str:
    """Return the last value of a header, "" without one.

    Each proxy appends to a list, so the last value is the one that the nearest proxy wrote; what
    stands before it may be a client's own invention.
    """
    value: str = environ.get(name, "")
    return value.rpartition(",")[2].strip()


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _port(text: str) -> str:
    """Return a port as it is, "" for what is none."""
    return text if re.fullmatch("[0-9]{1,5}", text) and 0 < int(text) < 65536 else ""
