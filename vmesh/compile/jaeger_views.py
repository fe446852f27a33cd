"""Jaeger and its guard: where each of them listens.

Where proxies speak mTLS, an Envoy has the ports on which Jaeger takes spans elsewhere. It hands on
to Jaeger, which then listens on loopback alone.
"""

from __future__ import annotations

from vmesh.compile import cluster_views, listener_views
from vmesh.compile.host_spec import JaegerSpec, Port, View
from vmesh.model.types import OTLP_GRPC_PORT, OTLP_HTTP_PORT, ZIPKIN_PORT

UI_PORT = 16686
GRPC_QUERY_PORT = 16685
METRICS_PORT = 16687  # where Jaeger 1 had those of its query service
LOOPBACK = "127.0.0.1"
# Each worker of each proxy has a connection of its own; Envoy's usual limit is 1024.
_CONNECTIONS = 10_000
# Where spans are taken: name in Jaeger's configuration -> port, and what comes there.
RECEIVERS = {
    "otlp_grpc": (OTLP_GRPC_PORT, "OTLP over gRPC"),
    "otlp_http": (OTLP_HTTP_PORT, "OTLP over HTTP"),
    "zipkin": (ZIPKIN_PORT, "Zipkin"),
}


def jaeger(address: str, pages: str | None, *, guarded: bool) -> JaegerSpec:
    """Return the Jaeger of a host.

    address: of the host; pages: where its pages are shown, None where the user names no address
    guarded: whether an Envoy has the host's ports
    """
    reached = LOOPBACK if guarded else address
    ports = {
        "ui": Port(pages or reached, UI_PORT, "web pages"),
        "query_grpc": Port(LOOPBACK, GRPC_QUERY_PORT, "query API over gRPC"),
        **{name: Port(reached, port, what) for name, (port, what) in RECEIVERS.items()},
        "metrics": Port(LOOPBACK, METRICS_PORT, "its own metrics"),
    }
    return JaegerSpec(
        endpoints={name: f"{port.address}:{port.port}" for name, port in ports.items()},
        unit="jaeger.service",
        ports=tuple(ports.values()),
    )


def guard_listeners(address: str) -> list[View]:
    """Return the listeners of the guard on a host with this address.

    It hands bytes on and reads no request: that costs 40 us a span, and to read them 100 (natively,
    500 spans a second).
    """
    return [
        listener_views.listener(
            name,
            "INBOUND",
            address,
            port,
            tracing=None,
            websocket="never",
            http10_host=None,
        )
        | {"hands_on_to": _cluster_of(name)}
        for name, (port, _) in RECEIVERS.items()
    ]


def guard_clusters() -> list[View]:
    """Return the clusters of the guard: Jaeger's ports on loopback."""
    limits = {
        "max_connections": _CONNECTIONS,
        "max_pending_requests": _CONNECTIONS,
        "max_requests": _CONNECTIONS,
        "budget_percent": 20,
        "min_retries": 3,
    }
    return [
        cluster_views.cluster(_cluster_of(name), [cluster_views.endpoint(LOOPBACK, port)])
        | {"circuit_breaker": limits}
        for name, (port, _) in RECEIVERS.items()
    ]


def _cluster_of(receiver: str) -> str:
    # No service has such a name: a DNS label holds no underscore.
    return f"jaeger_{receiver}"
