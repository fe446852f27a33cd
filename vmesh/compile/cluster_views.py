"""The views of clusters: endpoints, protocol, health checks, TLS, and the headers of requests."""

from __future__ import annotations

from collections.abc import Sequence

from vmesh.compile.host_spec import View, app_socket
from vmesh.model.types import (
    GRPC,
    HTTP1,
    ZIPKIN,
    Address,
    ExternalApp,
    Mesh,
    Policies,
    Service,
    Tls,
)

# Names that no service can have: a DNS label holds no underscore.
COLLECTOR = "tracing_collector"
LOCAL_APP = "local_app"
ADMIN = "envoy_admin"
_KEYS = "jwks_"

# Health checks of callers carry it; such requests make no spans, and clients cannot send it.
HEALTH_CHECK_HEADER = "x-vmesh-health-check"

UPSTREAM_IDLE = 300.0
# Envoy must let go of an idle connection to an app before the app does, else a request is lost
# now and then. gunicorn's gthread keeps one for 2 seconds when it makes room for a new release
# (STOP_KEEPALIVE_LINGER), few other apps let go sooner, and opening a connection on the same host
# costs next to nothing.
APP_IDLE = 1.0

# An Envoy is pinged in HTTP/2's own way. A gRPC server is not: it takes pings that come more often
# than every five minutes for an attack, and ends the connection with all its streams. There the
# kernel asks. (A request that times out does not close a connection of HTTP/2, as it does one of
# HTTP/1.1.)
KEEPALIVE_PING, KEEPALIVE_TCP = "ping", "tcp"

# What Envoy adds to requests that it makes itself.
_ENVOYS_OWN = ("x-envoy-internal", "x-forwarded-for", "x-envoy-expected-rq-timeout-ms")


def cluster(  # noqa: PLR0913 - each is a fact of its own
    name: str,
    endpoints: list[View],
    *,
    kind: str = "eds",
    protocol: str = HTTP1,
    keepalive: str | None = None,
    idle_timeout: float | None = None,
    call: Policies | None = None,
    tls: Tls | None = None,
    headers: View | None = None,
) -> View:
    """Return a cluster; without `call` it is one inside the host or of vmesh's own.

    `keepalive` is how a connection of HTTP/2, which outlives its requests, is found to be dead.
    `headers` tells what its requests carry beside the tracer's own: `app_headers`,
    `inside_headers` or `outside_headers`.
    """
    http2 = protocol != HTTP1
    view: View = {
        "name": name,
        "type": kind,
        "endpoints": endpoints,
        "http2": http2,
        "grpc": protocol == GRPC,
        "keepalive": keepalive if http2 else None,
        "idle_timeout": idle_timeout,
        "connect_timeout": 1.0,
        "load_balancing": "least_request",
        "circuit_breaker": None,
        "outlier_detection": None,
        "health_check": None,
        "tls": tls and {"sni": tls.sni, "verify": tls.verify, "ca_file": tls.ca_file},
        "headers": headers,
    }
    if call is None:
        return view
    outliers = dict(call.outlier_detection)
    return {
        **view,
        "connect_timeout": call.connect_timeout,
        "load_balancing": call.load_balancing,
        "circuit_breaker": {
            **call.circuit_breaker,
            "budget_percent": call.retries.budget_percent,
            "min_retries": call.retries.min_concurrent,
        },
        "outlier_detection": outliers if outliers.pop("enabled") else None,
        "health_check": call.health_check,
    }


def endpoint(address: str, port: int, zone: str | None = None, priority: int = 0) -> View:
    """Return an endpoint; those of the lowest priority get the requests while they are healthy."""
    return {"address": address, "port": port, "zone": zone, "priority": priority}


def _headers(
    *,
    outside: bool = False,
    keep: Sequence[str] = (),
    tell_b3: bool = False,
    removes: Sequence[str] = (),
) -> View:
    """Return what requests carry beside what the tracer writes; request ids are always put back.

    outside: the mesh's own headers stay behind, trace context too but for the forms in `keep`
    tell_b3: B3 is derived from the traceparent
    removes: names of further headers that stay behind
    """
    return {"outside": outside, "keep": list(keep), "tell_b3": tell_b3, "removes": list(removes)}


def app_headers(mesh: Mesh) -> View:
    """Return what requests to an app carry: trace context in each of its forms.

    Envoy's Zipkin tracer writes B3 itself.
    """
    return _headers(tell_b3=mesh.tracing.export != ZIPKIN)


def inside_headers(mesh: Mesh, *, edge: bool = False) -> View | None:
    """Return what requests to another Envoy of the mesh carry, None for what they have anyway.

    That Envoy tells its app B3. Where the caller's Envoy may have set request ids aside, it puts
    them back.
    """
    return _headers() if edge or mesh.tracing.export == ZIPKIN else None


def collector_headers() -> View:
    """Return what spans carry to a collector outside: nothing that Envoy adds to its own requests.

    What the user names as the collector's headers goes along, whatever it is called.
    """
    return _headers(removes=_ENVOYS_OWN)


def keys_of(issuer: str) -> str:
    """Return the name of the cluster from which the keys of an edge's `issuer` are fetched."""
    return f"{_KEYS}{issuer}"


def issuer_of(cluster: str) -> str | None:
    """Return the issuer whose keys are fetched from `cluster`, None where that is another's."""
    return cluster.removeprefix(_KEYS) if cluster.startswith(_KEYS) else None


def keys_headers() -> View:
    """Return what a question for an issuer's keys carries: nothing of the request that needs them.

    A request that comes before the keys are there asks for them itself, within its trace.
    """
    return _headers(outside=True, removes=_ENVOYS_OWN)


def outside_headers(mesh: Mesh, address: Address) -> View:
    """Return what requests to an address outside carry: the forms that the user lets go along."""
    keep = address.propagate_trace
    tell_b3 = mesh.tracing.export != ZIPKIN and "b3" in keep
    return _headers(outside=True, keep=keep, tell_b3=tell_b3)


def outside(
    name: str, address: Address, call: Policies | None, headers: View | None = None
) -> View:
    """Return the cluster of an address outside the mesh."""
    tls = address.tls and Tls(
        address.tls.sni or address.host, address.tls.verify, address.tls.ca_file
    )
    return cluster(
        name,
        [endpoint(address.host, address.port)],
        kind="dns",
        protocol=address.protocol,
        keepalive=KEEPALIVE_TCP,
        idle_timeout=UPSTREAM_IDLE,
        call=call,
        tls=tls,
        headers=headers,
    )


def host_header(address: Address) -> str:
    """Return the Host header that an address outside the mesh expects."""
    usual = 443 if address.tls else 80
    return address.host if address.port == usual else f"{address.host}:{address.port}"


def local_app(mesh: Mesh, service: Service) -> View:
    """Return the cluster of the app behind its own Envoy."""
    where: View = {"pipe": app_socket(service.name)}
    if isinstance(service.app, ExternalApp):
        listening = service.app.listening
        if listening.startswith("unix:"):
            where = {"pipe": listening.removeprefix("unix:")}
        else:
            address, port = listening.rsplit(":", 1)
            where = endpoint(address, int(port))
    return cluster(
        LOCAL_APP,
        [where],
        protocol=service.protocol,
        idle_timeout=APP_IDLE,
        headers=app_headers(mesh),
    )
