"""The formats that the schema names: what texts must look like, where a pattern cannot say it."""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Callable
from typing import Any

import re2

from vmesh.base import wsgi

# How large a regular expression may be once it is compiled, in RE2's steps: a class of all
# letters of all alphabets has about 1200. files/envoy/bootstrap.yaml.j2 gives Envoy, which
# refuses more than 100 by itself, a bound with room for another version's counting.
MAX_EXPRESSION_SIZE = 5000
# https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/route/v3/route.proto
MAX_BODY_BYTES = 4096

_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
# Linux takes 107 characters for the path of a socket.
_LISTENING = re.compile(r"unix:/[!-~]{1,106}|(?P<address>[0-9.]+):(?P<port>[1-9][0-9]{0,4})")
_ORIGIN = re.compile(r"(?P<scheme>https?)://(?P<name>[^:/]+)(:(?P<port>[1-9][0-9]{0,4}))?")
_HTTPS_URL = re.compile(
    r"https://(?P<host>[A-Za-z0-9._-]+)(:(?P<port>[1-9][0-9]{0,4}))?(/[!-\"$-~]*)?"
)
# These never lead anywhere: https://www.rfc-editor.org/rfc/rfc6761#section-6.4
_NEVER_RESOLVES = (".invalid",)


def is_ipv4(value: Any) -> bool:
    """Tell whether `value` is the text of an IPv4 address."""
    try:
        ipaddress.IPv4Address(value if isinstance(value, str) else "")
    except ValueError:
        return False
    return True


def is_dns_name(value: str) -> bool:
    """Tell whether a name server could know `value`; an address of digits is no name."""
    return (
        _has_labels(value)
        and not value.removesuffix(".").rpartition(".")[2].isdigit()
        and not never_resolves(value)
    )


def _has_labels(value: str) -> bool:
    """Tell whether `value` is made of labels as a DNS name is, with or without a final dot."""
    name = value.removesuffix(".")
    return len(name) <= 253 and all(_LABEL.fullmatch(label) for label in name.split("."))


def without_dot(name: str) -> str:
    """Return a DNS name as HTTP, TLS, certificates and /etc/hosts have it: without its final dot.

    https://www.rfc-editor.org/rfc/rfc6066#section-3
    """
    return name.removesuffix(".")


def is_domain(value: str) -> bool:
    """Tell whether a Host header in lower case can match `value`: a name, *.name, or *."""
    name = value.removeprefix("*.")
    return value == "*" or (_has_labels(name) and name == name.lower())


def is_public_name(value: str) -> bool:
    """Tell whether an authority could sign a certificate for `value`, in the form it writes it."""
    sound = is_domain(value) and is_dns_name(value) and not set("_*") & set(value)
    return sound and "." in value and not value.endswith(".")


def is_origin(value: str) -> bool:
    """Tell whether `value` is the origin of a page as browsers send it, or * for all."""
    found = _ORIGIN.fullmatch(value)
    if found is None:
        return value == "*"
    return _has_labels(found["name"]) and int(found["port"] or 1) <= 65535


def origin(value: str) -> str:
    """Return an origin in the one form that browsers send: lower case, no port that is usual."""
    found = _ORIGIN.fullmatch(value.lower())
    if found is None:
        return value
    usual = {"http": "80", "https": "443"}[found["scheme"]]
    port = f":{found['port']}" if found["port"] and found["port"] != usual else ""
    return f"{found['scheme']}://{without_dot(found['name'])}{port}"


def _is_host(value: str) -> bool:
    return is_ipv4(value) or is_dns_name(value)


def _is_https_url(value: str) -> bool:
    found = _HTTPS_URL.fullmatch(value)
    return found is not None and _is_host(found["host"]) and int(found["port"] or 443) <= 65535


def never_resolves(value: str) -> bool:
    """Tell whether no name server ever knows `value`."""
    return value.removesuffix(".").lower().endswith(_NEVER_RESOLVES)


def _is_any_network(value: str) -> bool:
    """Tell whether `value` is a network of IPv4 or IPv6, without bits of a host or an interface."""
    try:
        ipaddress.ip_network(value if "/" in value and "%" not in value else "")
    except ValueError:
        return False
    return True


def _is_network(value: str) -> bool:
    try:
        ipaddress.IPv4Network(value)
    except ValueError:
        return False
    return True


def _is_control(character: str) -> bool:
    return unicodedata.category(character) == "Cc"


def re2_fault(value: str) -> str | None:
    """Return what Envoy, which uses RE2, has against the regular expression `value`."""
    if any(map(_is_control, value)):
        return r"has a control character, which RE2 writes as \n or \x07"
    options = re2.Options()
    options.log_errors = False
    try:
        size = re2.compile(value, options).programsize
    except re2.error as error:
        told = error.args[0]
        return f"is refused by RE2: {told.decode() if isinstance(told, bytes) else told}"
    except UnicodeEncodeError:
        return "is refused by RE2: it is no UTF-8"
    if size > MAX_EXPRESSION_SIZE:
        return f"is too large: RE2 makes {size} steps of it, and {MAX_EXPRESSION_SIZE} may be"
    return None


def _is_listening(value: str) -> bool:
    match = _LISTENING.fullmatch(value)
    if match is None:
        return False
    return match["address"] is None or (is_ipv4(match["address"]) and int(match["port"]) <= 65535)


def _is_body(value: str) -> bool:
    """Tell whether Envoy answers `value` itself: up to 4096 bytes, whatever the alphabet."""
    if any(_is_control(each) and each not in "\t\r\n" for each in value):
        return False
    try:
        return len(value.encode()) <= MAX_BODY_BYTES
    except UnicodeEncodeError:
        return False


FORMATS: dict[str, Callable[[Any], bool]] = {
    "body": _is_body,
    "ipv4": is_ipv4,
    "ipv4-network": _is_network,
    "network": _is_any_network,
    "dns-name": is_dns_name,
    "domain": is_domain,
    "public-name": is_public_name,
    "origin": is_origin,
    "host": _is_host,
    "https-url": _is_https_url,
    "listening": _is_listening,
    "wsgi": lambda value: wsgi.parse(value) is not None,
    "re2": lambda value: re2_fault(value) is None,
}
