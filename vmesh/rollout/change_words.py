"""The words of a plan: what a key of a view is called, and how its value is written.

A new key of a view gets its words in one of the tables here; `changed_keys` tells those that have
none by their names. Which part of a host a difference belongs to is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from vmesh.compile.host_spec import url_variable
from vmesh.compile.topology import EGRESS, upstream_words
from vmesh.rollout.change_report import View


def format_value(value: Any) -> str:
    """Return a value of a view as a person would write it."""
    if value is None or value in ([], {}, ""):
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key_words(key)} {format_value(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(format_value(item) for item in value)
    return str(value)


def key_words(key: str) -> str:
    """Return a key of a view as a person would write it."""
    return str(key).replace("_", " ")


def seconds(value: Any) -> str:
    """Return a number of seconds with its unit."""
    return f"{value:g} s" if isinstance(value, int | float) else format_value(value)


def _percent(value: Any) -> str:
    return f"{value:g} %" if isinstance(value, int | float) else format_value(value)


def networks(value: Any) -> str:
    """Return a view's networks as CIDRs."""
    return ", ".join(f"{each['address_prefix']}/{each['prefix_len']}" for each in value) or "none"


def _retry(value: Any) -> str:
    if not isinstance(value, Mapping):
        return format_value(value)
    each = value.get("per_try_timeout")
    limit = f", {seconds(each)} each" if each is not None else ""
    return f"{value['attempts']} on {value['on'].replace(',', ', ')}{limit}"


def _bucket(value: Any) -> str:
    if not isinstance(value, Mapping):
        return format_value(value)
    return f"{value['tokens'] / value['interval']:.4g} per second, {value['burst']} at once"


def _mirror(value: Any) -> str:
    if not isinstance(value, Mapping):
        return format_value(value)
    return f"{_percent(value['percent'])} to {value['cluster']}"


def _login(value: Any) -> str:
    """Return whose login a route wants; a new password is told as a change between the same."""
    return f"of {value['group']}" if isinstance(value, Mapping) else "not needed"


def _authorization(value: Any) -> str:
    if not isinstance(value, Mapping):
        return "not asked for"
    before = f", before the path {value['path']}" if value["path"] else ""
    return (
        f"by {value['cluster']}{before}, within {seconds(value['timeout'])},"
        f" with {format_value(value['forward'])}"
    )


def _tags(value: Any) -> str:
    return (
        ", ".join(each["name"] for each in value)
        if isinstance(value, list)
        else format_value(value)
    )


def _headers(value: Any) -> str:
    if not isinstance(value, Mapping):
        return "as the tracer writes them"
    b3 = "with B3" if value["tell_b3"] else "without B3"
    if value["removes"]:
        return f"without {format_value(value['removes'])}"
    if value["outside"]:
        return f"trace context as {format_value(value['keep'])} alone, {b3}"
    return f"request ids as they came, {b3}"


def _rewrite(value: Any) -> str:
    """Return a rewrite as the user wrote it: an expression beside a prefix is how Envoy does it."""
    if isinstance(value, Mapping) and "prefix" in value:
        return format_value({k: v for k, v in value.items() if k not in ("regex", "substitution")})
    return format_value(value)


def _https(value: Any) -> str:
    return f"TLS {value['minimum']} and newer" if isinstance(value, Mapping) else "none"


Words = Callable[[Any], str]

ROUTE_WORDS: Mapping[str, tuple[str, Words]] = {
    "timeout": ("timeout", seconds),
    "idle_timeout": ("idle timeout", seconds),
    "retry": ("retries", _retry),
    "operation": ("name of its spans", format_value),
    "rewrite": ("rewrite", _rewrite),
    "request_body_buffer_limit": ("bytes of a body kept for a retry", format_value),
    "mirror": ("mirror", _mirror),
    "hash_on": ("instance chosen by", format_value),
    "websocket": ("WebSocket", format_value),
}
_TRACING_WORDS: Mapping[str, tuple[str, Words]] = {
    "sampling": ("sampling", _percent),
    "follows": ("follows the decision of the edge", format_value),
    "export": ("spans sent as", format_value),
    "service": ("service name of its spans", format_value),
    "collector": ("collector of spans", upstream_words),
    "collector_host": ("collector's host", format_value),
    "collector_path": ("collector's path", format_value),
    "headers": ("headers to the collector", format_value),
    "tags": ("tags of spans", _tags),
}
LISTENER_WORDS: Mapping[str, tuple[str, Words]] = {
    "websocket": ("WebSocket", format_value),
    "to_outside": ("requests may leave the mesh", format_value),
    "proxy_100_continue": ("Expect: 100-continue passed on to the app", format_value),
    "control_networks": ("networks that may control Envoy", networks),
    "trusted_hops": ("trusted hops", format_value),
    "proxy_protocol": ("PROXY protocol", format_value),
    "headers_with_underscores": ("header names with underscores", format_value),
    "escaped_slashes": ("escaped slashes", format_value),
    "merge_slashes": ("merged slashes", format_value),
    "tls": ("HTTPS", _https),
    "challenges": ("proofs by tls-alpn-01", format_value),
    "http10_host": ("HTTP/1.0", lambda host: f"taken, as for {host}" if host else "refused"),
}
TABLE_WORDS = {
    "tell_client": "client's address in x-envoy-external-address",
    "hsts": "seconds for which browsers use HTTPS only",
}
# What a record by an earlier release, which does not say it, stands for.
EARLIER_LISTENER: View = {
    "control_networks": [],
    "trusted_hops": 1,
    "proxy_protocol": None,
    "http10_host": None,
    "headers_with_underscores": "allow",
    "escaped_slashes": "keep",
    "merge_slashes": False,
}
EARLIER_EDGE: View = {
    **EARLIER_LISTENER,
    "headers_with_underscores": "reject",
    "escaped_slashes": "redirect",
    "merge_slashes": True,
}
FILTER_WORDS: Mapping[str, tuple[str, Words]] = {
    "jwt": ("token", lambda value: f"of {value['issuer']}" if value else "not needed"),
    "login": ("login", _login),
    "authorization": ("authorization", _authorization),
    "identity_headers": ("headers taken from no client", format_value),
    "rate_limit": ("rate limit", _bucket),
    "max_request_bytes": ("largest request body in bytes", format_value),
    "cors": ("CORS", format_value),
    "compression": ("compression", format_value),
    "fault": ("fault", format_value),
}
CLUSTER_WORDS: Mapping[str, tuple[str, Words]] = {
    "connect_timeout": ("connect timeout", seconds),
    "idle_timeout": ("idle timeout", seconds),
    "load_balancing": ("load balancing", format_value),
    "http2": ("HTTP/2", format_value),
    "headers": ("headers of its requests", _headers),
    "grpc": ("gRPC", format_value),
    "keepalive": ("dead connections found by", format_value),
    "type": (
        "found by",
        lambda kind: {"eds": "its file", "dns": "DNS"}.get(kind, format_value(kind)),
    ),
}
NESTED_CLUSTER_WORDS = {
    "circuit_breaker": "circuit breaker",
    "outlier_detection": "outlier detection",
    "health_check": "health check",
    "tls": "TLS",
}
_SECONDS_INSIDE = frozenset({"interval", "timeout", "ejection_time"})


def differing(old: View, new: View, but: Collection[str] = ()) -> Iterator[tuple[str, Any, Any]]:
    """Yield the keys with other values, in the order of `new`; a missing one counts as None.

    A key that the record of an earlier release lacks, and that is switched off, is no change.
    """
    for key in dict.fromkeys([*new, *old]):
        if key not in old and not new[key]:
            continue
        if key not in but and old.get(key) != new.get(key):
            yield key, old.get(key), new.get(key)


def arrow(label: str, before: str, after: str) -> str:
    """Say a change. Two values that look the same, as hidden ones do, are told to differ."""
    return f"{label} changes" if before == after else f"{label} {before} -> {after}"


def changed_inside(label: str, old: Any, new: Any) -> Iterator[str]:
    """Yield what changes in a mapping that may be there or not."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key, before, after in differing(old, new):
            words = seconds if key in _SECONDS_INSIDE else format_value
            yield arrow(f"{label}: {key_words(key)}", words(before), words(after))
    elif isinstance(new, Mapping):
        yield f"{label} on: {format_value(new)}" if new else f"{label} on"
    else:
        yield f"{label} off"


def changed_keys(
    old: View, new: View, words: Mapping[str, tuple[str, Words]], but: Collection[str] = ()
) -> Iterator[str]:
    """Yield what changes by a table of words; keys it lacks are told by their name."""
    for key, before, after in differing(old, new, but):
        label, word = words.get(key, (key_words(key), format_value))
        yield arrow(label, word(before), word(after))


def tracing_changes(old: View | None, new: View | None) -> Iterator[str]:
    """Yield what changes in the tracing of a listener or route."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        yield from changed_keys(old, new, _TRACING_WORDS)
    elif isinstance(new, Mapping):
        yield f"tracing: {', '.join(_tracing_said(new))}"
    else:
        yield arrow("tracing", "on" if old else "none", format_value(new))


def _tracing_said(tracing: View) -> Iterator[str]:
    for key in ("sampling", "tags"):
        if tracing.get(key) not in (None, []):
            label, word = _TRACING_WORDS[key]
            yield f"{label} {word(tracing[key])}"


def by_name(items: Iterable[View]) -> dict[str, View]:
    """Return the parts of a view by their names."""
    return {item["name"]: item for item in items}


def listens_on(listener: View) -> str:
    """Return the address at which a listener takes connections."""
    return f"{listener['address']}:{listener['port']}"


def url_of(listener: str) -> str:
    """Return the variable that tells an app the URL of this listener for calls."""
    return url_variable(listener.removeprefix(EGRESS))
