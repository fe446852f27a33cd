"""Views, as compile makes them, with every default of the model: tests name what matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vmesh.compile.host_spec import ProxySpec, View

NOBODY = {"address_prefix": "0.0.0.0", "prefix_len": 32}
LOOPBACK = {"address_prefix": "127.0.0.0", "prefix_len": 8}

BREAKER = {
    "max_connections": 1024,
    "max_pending_requests": 1024,
    "max_requests": 1024,
    "budget_percent": 20,
    "min_retries": 3,
}
OUTLIER = {
    "consecutive_gateway_failures": 5,
    "consecutive_local_failures": 5,
    "consecutive_5xx": 0,
    "interval": 10,
    "ejection_time": 30,
    "max_ejected_percent": 50,
}
APP: View = {"outside": False, "keep": [], "tell_b3": True, "removes": []}
RETRY = {
    "on": "connect-failure,refused-stream,reset-before-request",
    "attempts": 2,
    "per_try_timeout": None,
}


def tracing(**given: Any) -> View:
    """Return how a listener traces."""
    return {
        "export": "otlp",
        "service": "front",
        "follows": False,
        "sampling": 100.0,
        "collector": "tracing_collector",
        "collector_host": "127.0.0.1:9411",
        "collector_path": "/api/v2/spans",
        "headers": {},
        "tags": [],
        **given,
    }


def tag(name: str, **given: Any) -> View:
    return {"name": name, "default": None, **given}


def listener(name: str, **given: Any) -> View:
    """Return a listener inside the mesh; ports are given out by `on_loopback`."""
    return {
        "name": name,
        "direction": "INBOUND",
        "address": "127.0.0.1",
        "port": 0,
        "edge": False,
        "trusted_networks": [],
        "control_networks": [],
        "trusted_hops": 1,
        "proxy_protocol": None,
        "headers_with_underscores": "allow",
        "escaped_slashes": "keep",
        "merge_slashes": False,
        "http10_host": "front",
        "to_outside": False,
        "internal_networks": [NOBODY],
        "tracing": tracing(),
        "websocket": "always",
        "proxy_100_continue": True,
        **given,
    }


def public(**given: Any) -> View:
    """Return the listener of an edge."""
    safe: View = {
        "headers_with_underscores": "reject",
        "escaped_slashes": "redirect",
        "merge_slashes": True,
        "http10_host": None,
    }
    return listener("public", **{"edge": True, "websocket": "routes", **safe, **given})


def match(path: str, **given: Any) -> View:
    return {"prefix": path, "headers": [], **given}


def route(path: str, cluster: str | None = None, **given: Any) -> View:
    """Return a route from the prefix `path` to `cluster`, or to `weights` that are given."""
    target = {} if cluster is None else {"cluster": cluster}
    return {
        "match": match(path),
        **target,
        "operation": None,
        "timeout": 10.0,
        "idle_timeout": None,
        "retry": RETRY,
        "request_body_buffer_limit": 1048576,
        "rewrite": None,
        "mirror": None,
        "hash_on": [],
        "websocket": False,
        "tracing": None,
        "filters": {},
        **given,
    }


def answer(path: str, **given: Any) -> View:
    """Return a route that the proxy answers itself, with `answer` or `redirect`."""
    return {"match": match(path), "operation": None, "tracing": None, "filters": {}, **given}


def host(name: str, routes: Sequence[View], **given: Any) -> View:
    return {"name": name, "domains": ["*"], "filters": {}, "routes": list(routes), **given}


def table(*hosts: View, tell_trace: bool = False, tell_client: str | None = None) -> View:
    return {
        "tell_trace": tell_trace,
        "tell_client": tell_client or ("always" if tell_trace else None),
        "virtual_hosts": list(hosts),
    }


def cluster(name: str, *ports: int, **given: Any) -> View:
    """Return a cluster of instances at those ports of 127.0.0.1."""
    endpoints = [endpoint(port) for port in ports]
    return {
        "name": name,
        "type": "eds",
        "endpoints": endpoints,
        "http2": False,
        "grpc": False,
        "keepalive": None,
        "idle_timeout": 300.0,
        "connect_timeout": 1.0,
        "load_balancing": "least_request",
        "circuit_breaker": BREAKER,
        "outlier_detection": OUTLIER,
        "health_check": None,
        "tls": None,
        "headers": APP,
        **given,
    }


def endpoint(port: int, zone: str | None = None, priority: int = 0) -> View:
    return {"address": "127.0.0.1", "port": port, "zone": zone, "priority": priority}


def collector(port: int) -> View:
    """Return the cluster that spans go to."""
    plain: View = {"circuit_breaker": None, "outlier_detection": None, "idle_timeout": None}
    plain["headers"] = None
    return cluster("tracing_collector", port, http2=True, **plain)


def proxy(
    listeners: Sequence[View],
    routes: Mapping[str, View],
    clusters: Sequence[View],
    name: str = "front",
) -> ProxySpec:
    """Return the plan of one proxy."""
    return ProxySpec(
        name=name,
        kind="edge",
        user=f"envoy-{name}",
        unit=f"envoy@{name}.service",
        ports=(),
        view={
            "name": name,
            "node": {"id": f"{name}@here", "cluster": name, "zone": None},
            "listeners": list(listeners),
            "routes": dict(routes),
            "clusters": list(clusters),
            **({"jwt": {}} if any(each["edge"] for each in listeners) else {}),
        },
    )
