"""Where load may go: this machine, and the networks that the caller names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

_LOOPBACK = ("127.0.0.0/8", "::1/128")


class NotAllowedError(ValueError):
    """A target is not a place that load may be sent to; the text says why and what may be."""


@dataclass(frozen=True)
class Address:
    """Where a URL leads: the address and port to connect to, its own Host, and the path."""

    host: str
    port: int
    authority: str  # what goes into the Host header unless the caller sets another
    path: str  # with the query


def allowed(url: str, networks: Iterable[str] = ()) -> Address:
    """Return where `url` leads.

    url: http, with an address instead of a name: a name could lead anywhere, and looking it up
        would be part of what is measured.
    networks: in CIDR notation, allowed beside the loopback addresses.

    Raises NotAllowedError for any other place or form.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname is None or parts.username is not None:
        raise NotAllowedError(f"{url} is not of the form http://ADDRESS[:PORT]/PATH")
    try:
        address = ip_address(parts.hostname)
        port = parts.port or 80
    except ValueError as error:
        raise NotAllowedError(f"{url}: {error}; give an IP address and a port") from error
    permitted = [ip_network(network) for network in (*_LOOPBACK, *networks)]
    if not any(address in network for network in permitted):
        listed = ", ".join(map(str, permitted))
        raise NotAllowedError(f"{url} is outside of {listed}, where load may be sent")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not path.isascii() or any(character <= " " for character in path):
        raise NotAllowedError(f"{url}: the path must be percent-encoded")
    return Address(str(address), port, parts.netloc, path)
