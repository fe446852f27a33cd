"""The pieces of a proxy's view: listeners, route tables, clusters, as plain data.

A view is what the templates in files/envoy/ are rendered from; they add Envoy's language and
nothing of the mesh. Times are seconds, percentages 0 to 100.
"""

from __future__ import annotations

import functools
import ipaddress
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from vmesh.base.formats import origin
from vmesh.compile.host_spec import View, app_socket
from vmesh.model.parse import policies, seconds
from vmesh.model.types import (
    GRPC,
    HTTP1,
    ZIPKIN,
    Address,
    Call,
    Edge,
    ExternalApp,
    Match,
    Mesh,
    Policies,
    Route,
    Service,
    Tls,
    Tracing,
    VirtualHost,
)

# Names that no service can have: a DNS label holds no underscore.
COLLECTOR = "tracing_collector"
LOCAL_APP = "local_app"
ADMIN = "envoy_admin"

# Health checks of callers carry it; such requests make no spans, and clients cannot send it.
HEALTH_CHECK_HEADER = "x-vmesh-health-check"

# The admin pages that only tell and never change anything, nor show the configuration:
# https://www.envoyproxy.io/docs/envoy/latest/operations/admin
ADMIN_PAGES = (
    "/",
    "/ready",
    "/server_info",
    "/stats",
    "/stats/prometheus",
    "/clusters",
    "/listeners",
    "/memory",
    "/hot_restart_version",
)

# Envoy takes an empty internal_address_config for the default, all private networks, and
# lets those bring their own request ids. No peer has this address.
NOBODY = "0.0.0.0/32"

EDGE_TIMEOUT = 15.0
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

# In these cases an upstream has not begun to process a request.
_NOTHING_BEGUN = ("connect-failure", "refused-stream", "reset-before-request")
_SECONDS = {"second": 1, "minute": 60, "hour": 3600}
# Envoy refuses to fill a bucket more often than this:
# https://www.envoyproxy.io/docs/envoy/latest/api-v3/type/v3/token_bucket.proto
_LEAST_FILL_INTERVAL = 0.05
_KINDS = {"path": 0, "regex": 1, "path_prefix": 2, "prefix": 2}

Tags = Mapping[str, Mapping[str, str | None]]


@functools.cache
def network(cidr: str) -> View:
    """Return an IPv4 network as Envoy writes it."""
    parsed = ipaddress.IPv4Network(cidr)
    return {"address_prefix": str(parsed.network_address), "prefix_len": parsed.prefixlen}


def tags(*layers: Tags) -> list[View]:
    """Return the tags of all `layers`, a later one over an earlier one of the same name."""
    merged = {name: tag for layer in layers for name, tag in layer.items()}
    return [
        {"name": name, **{k: v for k, v in tag.items() if v is not None or k == "default"}}
        for name, tag in sorted(merged.items())
    ]


# Clusters


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


def app_headers(mesh: Mesh) -> View:
    """Return what requests to an app carry: trace context in each of its forms.

    Envoy's Zipkin tracer writes B3 itself.
    """
    tell_b3 = mesh.tracing.export != ZIPKIN
    return {"outside": False, "keep": [], "tell_b3": tell_b3, "removes": []}


def inside_headers(mesh: Mesh, *, edge: bool = False) -> View | None:
    """Return what requests to another Envoy of the mesh carry, None for what they have anyway.

    That Envoy tells its app B3. Where the caller's Envoy may have set request ids aside, it puts
    them back.
    """
    if edge or mesh.tracing.export == ZIPKIN:
        return {"outside": False, "keep": [], "tell_b3": False, "removes": []}
    return None


def collector_headers() -> View:
    """Return what spans carry to a collector outside: nothing that Envoy adds to its own requests.

    What the user names as the collector's headers goes along, whatever it is called.
    """
    return {"outside": False, "keep": [], "tell_b3": False, "removes": list(_ENVOYS_OWN)}


def outside_headers(mesh: Mesh, address: Address) -> View:
    """Return what requests to an address outside carry: the forms that the user lets go along."""
    keep = list(address.propagate_trace)
    tell_b3 = mesh.tracing.export != ZIPKIN and "b3" in keep
    return {"outside": True, "keep": keep, "tell_b3": tell_b3, "removes": []}


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


# Listeners


def listener(  # noqa: PLR0913 - each is a fact of its own
    name: str,
    direction: str,
    address: str,
    port: int,
    *,
    tracing: View | None,
    websocket: str,
    http10_host: str | None,
    edge: Edge | None = None,
    proxy_100_continue: bool = True,
) -> View:
    """Return a listener; `edge` is the one whose clients it serves, None inside the mesh.

    `http10_host` is the Host of an HTTP/1.0 request that names none; None refuses HTTP/1.0.
    """
    return {
        "name": name,
        "direction": direction,
        "address": address,
        "port": port,
        "edge": edge is not None,
        **_peers(edge),
        # Inside the mesh a path and headers stay as the edge or the calling app wrote them.
        "headers_with_underscores": edge.headers_with_underscores if edge else "allow",
        "escaped_slashes": edge.escaped_slashes if edge else "keep",
        "merge_slashes": edge.merge_slashes if edge else False,
        "http10_host": http10_host,
        "tracing": tracing,
        "websocket": websocket,
        "proxy_100_continue": proxy_100_continue,
    }


def holds_back(edge: Edge) -> bool:
    """Tell whether some route of `edge` holds bodies back.

    An app behind it could not ask for a body, as it gets no header before all of it is there.
    """
    return any(
        "max_request_bytes" in {**host.filters, **route.filters}
        for host in edge.virtual_hosts
        for route in host.routes
    )


def _peers(edge: Edge | None) -> View:
    """Return whom a listener of `edge` believes what: see files/envoy/filter_chains.yaml.j2."""
    control = _distinct(edge.control_cidrs if edge else ())
    # Envoy takes the longest network that a peer is in: a part of one with more rights would
    # lose them, and the same network twice is refused.
    trusted = [
        each
        for each in _distinct(edge.trusted_cidrs if edge else ())
        if not any(each.subnet_of(other) for other in control)
    ]
    protocol = edge.proxy_protocol if edge else None
    return {
        "trusted_networks": [network(str(each)) for each in trusted],
        "control_networks": [network(str(each)) for each in control],
        # Envoy obeys the control headers of these peers alone, when they speak for themselves.
        "internal_networks": [network(str(each)) for each in control] or [network(NOBODY)],
        "trusted_hops": (edge and edge.trusted_hops) or (0 if protocol else 1),
        "proxy_protocol": protocol,
    }


def _distinct(cidrs: Iterable[str]) -> list[ipaddress.IPv4Network]:
    """Return the networks of `cidrs` without those that are part of another.

    The network of all addresses becomes two halves: Envoy has no more regard for it than for none.
    """
    found = ipaddress.collapse_addresses(map(ipaddress.IPv4Network, cidrs))
    return [half for each in found for half in (each.subnets() if not each.prefixlen else [each])]


def http10_host(edge: Edge) -> str | None:
    """Return the Host of requests of HTTP/1.0 that name none: a visitor of the first site."""
    if not edge.http10:
        return None
    return edge.virtual_hosts[0].domains[0].replace("*", edge.name)


def tracing(mesh: Mesh, proxy: str, own: Tracing | None = None) -> View:
    """Return how a listener of `proxy` traces.

    `own` is what an edge says. An edge decides what is traced; the other listeners follow what
    their requests' trace context says, and decide for requests without any.
    """
    collector = mesh.tracing.collector
    sampling = own.sampling if own else None
    return {
        "follows": own is None,
        "export": mesh.tracing.export,
        "service": proxy,
        "sampling": mesh.tracing.sampling if sampling is None else sampling,
        "collector": COLLECTOR,
        "collector_host": host_header(collector) if collector else COLLECTOR,
        "collector_path": mesh.tracing.path,
        "headers": mesh.tracing.headers,
        "tags": tags(mesh.tracing.tags, own.tags if own else {}),
    }


# Routes


def table(routes: list[View], *, tell_client: str | None = None) -> View:
    """Return a route table with one virtual host for whatever comes.

    tell_client: when the upstream is told the client's address: "always", "if_absent" (where no
    Envoy before has told it) or None for never
    """
    hosts = [virtual_host("all", ["*"], routes)]
    return {"tell_trace": False, "tell_client": tell_client, "virtual_hosts": hosts}


def virtual_host(
    name: str, domains: Iterable[str], routes: list[View], filters: View | None = None
) -> View:
    """Return a virtual host; `filters` hold for its routes where they say nothing themselves."""
    return {"name": name, "domains": list(domains), "filters": filters or {}, "routes": routes}


def forward(  # noqa: PLR0913 - each is a fact of its own
    cluster_name: str,
    operation: str,
    *,
    match: View | None = None,
    timeout: float | None = None,
    idle_timeout: float | None = None,
    call: Policies | None = None,
    rewrite: View | None = None,
) -> View:
    """Return a route to one cluster; without `timeout` it ends when the caller gives up."""
    return {
        "match": match or {"prefix": "/", "headers": []},
        "cluster": cluster_name,
        "operation": operation,
        "timeout": timeout,
        "idle_timeout": idle_timeout,
        "retry": retry(call),
        "request_body_buffer_limit": call and call.request_body_buffer_limit,
        "rewrite": rewrite,
        "mirror": None,
        "hash_on": hash_on([call]) if call else [],
        "websocket": False,
        "tracing": None,
        "filters": {},
    }


def retry(call: Policies | None) -> View | None:
    """Return what is sent again, None for nothing."""
    if call is None or not call.retries.attempts:
        return None
    return {
        "on": ",".join(call.retries.retry_on),
        "attempts": call.retries.attempts,
        "per_try_timeout": call.retries.per_try_timeout,
    }


def hash_on(calls: Iterable[Policies]) -> list[View]:
    """Return what decides the instance, for each of `calls` that balances by a hash."""
    found: list[View] = []
    for call in calls:
        if call.load_balancing == "ring_hash" and call.hash_on:
            said = call.hash_on
            view = (
                {"header": said["header"]}
                if said.get("header")
                else {"cookie": said["cookie"], "ttl": said["ttl"]}
            )
            if view not in found:
                found.append(view)
    return found


def ingress_routes(service: Service) -> list[View]:
    """Return what a service's own Envoy does with requests: all of them are the app's."""
    # No end of its own to a silent stream: the caller's Envoy has one. What an app that is just
    # being renewed cannot have begun to process is sent to it again.
    retry = {"on": ",".join(_NOTHING_BEGUN), "attempts": 2, "per_try_timeout": None}
    own = {
        **forward(LOCAL_APP, service.operation, idle_timeout=0.0),
        "retry": retry,
        "request_body_buffer_limit": policies(service.given).request_body_buffer_limit,
    }
    return [own]


def admin_routes() -> list[View]:
    """Return the routes of the read-only admin pages."""
    pages: list[View] = [
        {
            **forward(ADMIN, "admin", timeout=EDGE_TIMEOUT),
            "match": {"path": page, "headers": [{"name": ":method", "exact": "GET"}]},
        }
        for page in ADMIN_PAGES
    ]
    refusal = "Only GET of " + ", ".join(ADMIN_PAGES) + " is allowed here.\n"
    return [*pages, _answer({"prefix": "/", "headers": []}, {"status": 403, "body": refusal})]


def _answer(match: View, answer: View) -> View:
    return {"match": match, "answer": answer, "operation": None, "filters": {}, "tracing": None}


def in_order(routes: Iterable[Route]) -> list[tuple[int, Route]]:
    """Return the routes, with their places in the inventory, in the order Envoy gets them.

    Envoy takes the first match. A reader of the inventory need not know that: exact paths come
    first, then regular expressions as they stand, then prefixes, the longest first, and of equal
    ones that of whole segments; of equal paths the one with more conditions.
    """

    def rank(item: tuple[int, Route]) -> tuple[int, int, str, bool, int, int]:
        index, route = item
        match = route.match
        conditions = len(match.headers) + bool(match.methods)
        if match.kind == "regex":
            return (_KINDS["regex"], 0, "", False, 0, index)
        loose = match.kind == "prefix"
        return (_KINDS[match.kind], -len(match.value), match.value, loose, -conditions, index)

    return sorted(enumerate(routes), key=rank)


def edge_policies(mesh: Mesh, edge: Edge, upstream: str) -> Policies:
    """Return how `edge` calls `upstream`."""
    return policies(*_layers(mesh, edge.calls, upstream))


def _layers(mesh: Mesh, calls: Iterable[Call], upstream: str) -> list[Mapping[str, Any]]:
    service = mesh.services.get(upstream)
    own = next((call for call in calls if call.upstream == upstream), None)
    return [service.given if service else {}, own.given if own else {}]


def _main_upstream(route: Route) -> str | None:
    """Return the upstream with the greatest weight."""
    return max(route.to, key=lambda name: route.to[name], default=None)


def upstream_protocol(mesh: Mesh, calls: Iterable[Call], upstream: str) -> str:
    """Return what `upstream`, a service or one of the addresses in `calls`, speaks."""
    address = next((c.address for c in calls if c.upstream == upstream and c.address), None)
    if address is not None:
        return address.protocol
    service = mesh.services.get(upstream)
    return service.protocol if service else HTTP1


def streams(mesh: Mesh, edge: Edge, route: Route) -> bool:
    """Tell whether a route leads to gRPC, whose requests may be streams."""
    return any(upstream_protocol(mesh, edge.calls, name) == GRPC for name in route.to)


def route_timeout(mesh: Mesh, edge: Edge, route: Route) -> float | None:
    """Return the timeout of an edge's route; None for no end."""
    if route.timeout is not None:
        return seconds(route.timeout)
    if route.websocket:
        return None
    said = [
        seconds(layer["timeout"])
        for layer in _layers(mesh, edge.calls, _main_upstream(route) or "")
        if "timeout" in layer
    ]
    return said[-1] if said else EDGE_TIMEOUT


def body_buffer(mesh: Mesh, edge: Edge, route: Route) -> int | None:
    """Return the bytes that an edge's route is said to keep of a body; None if nothing is said."""
    key = "request_body_buffer_limit"
    if route.request_body_buffer_limit is not None:
        return route.request_body_buffer_limit
    layers = _layers(mesh, edge.calls, _main_upstream(route) or "")
    return next((int(layer[key]) for layer in reversed(layers) if key in layer), None)


def edge_table(mesh: Mesh, edge: Edge) -> View:
    """Return the route table of an edge."""
    return {
        "tell_trace": True,
        "tell_client": "always",
        "virtual_hosts": [_edge_virtual_host(mesh, edge, host) for host in edge.virtual_hosts],
    }


def _edge_virtual_host(mesh: Mesh, edge: Edge, host: VirtualHost) -> View:
    # A limit counts for the whole virtual host; the others are written out at each route.
    shared = {name: value for name, value in host.filters.items() if name != "rate_limit"}
    limit = {name: value for name, value in host.filters.items() if name == "rate_limit"}
    return virtual_host(
        host.name,
        host.domains,
        [edge_route(mesh, edge, route, shared) for _, route in in_order(host.routes)],
        _filters(limit),
    )


def edge_route(mesh: Mesh, edge: Edge, route: Route, shared: Mapping[str, Any]) -> View:
    """Return a route of an edge; `shared` filters are those of its virtual host."""
    filters = _filters({**shared, **route.filters})
    # The limit holds a body back until it is complete, and a stream never is.
    if route.websocket or streams(mesh, edge, route):
        filters.pop("max_request_bytes", None)
    base: View = {
        "match": _match(route.match, with_preflight="cors" in filters),
        "filters": filters,
        "operation": route.operation,
        "tracing": _route_tracing(mesh, edge, route),
    }
    if route.redirect is not None:
        return {**base, "redirect": joined(route.match, route.redirect)}
    if route.answer is not None:
        return {**base, "answer": route.answer}
    main = _main_upstream(route)
    assert main is not None, "compile plans no mesh with problems"
    calls = {name: edge_policies(mesh, edge, name) for name in route.to}
    call = calls[main]
    if route.retries is not None:
        call = policies(*_layers(mesh, edge.calls, main), {"retries": route.retries})
    address = next((c.address for c in edge.calls if c.upstream == main and c.address), None)
    rewrite = joined(route.match, route.rewrite or {})
    if address is not None:
        rewrite.setdefault("host", host_header(address))
    service = mesh.services.get(main)
    return {
        **base,
        **_target(route.to),
        "operation": route.operation or (service.operation if service else main),
        "timeout": route_timeout(mesh, edge, route),
        "idle_timeout": call.idle_timeout if route.idle_timeout is None else route.idle_timeout,
        "retry": retry(call),
        "request_body_buffer_limit": body_buffer(mesh, edge, route)
        or max(call.request_body_buffer_limit, filters.get("max_request_bytes", 0)),
        "rewrite": rewrite or None,
        "mirror": route.mirror
        and {"cluster": route.mirror["to"], "percent": route.mirror["percent"]},
        "hash_on": hash_on(calls.values()),
        "websocket": route.websocket,
    }


def joined(match: Match, said: Mapping[str, Any]) -> View:
    """Return a rewrite or redirect with what keeps one slash where the new prefix meets the rest.

    Envoy replaces texts: of /api/users, `/` for the prefix /api makes //users, and /v2 for /api/
    makes /v2users. Where that is so, `regex` and `substitution` do it instead of `prefix`.
    """
    prefix = said.get("prefix")
    if prefix is None or match.kind not in ("prefix", "path_prefix") or "?" in prefix:
        return dict(said)
    if match.value == "/":
        # Every path begins with this slash; that of the root alone says nothing.
        regex, by = "^(/$)?", prefix
        ends_well = prefix.endswith("/")
    elif match.value.endswith("/"):
        regex, by = f"^{re.escape(match.value)}", f"{prefix.removesuffix('/')}/"
        ends_well = prefix.endswith("/")
    else:
        regex, by = f"^{re.escape(match.value)}/?", prefix
        ends_well = not prefix.endswith("/")
    if ends_well:
        return dict(said)
    return {**said, "regex": regex, "substitution": by.replace("\\", r"\\")}


def _target(to: Mapping[str, int]) -> View:
    if len(to) == 1:
        return {"cluster": next(iter(to))}
    return {"weights": [{"cluster": name, "weight": weight} for name, weight in to.items()]}


def _match(match: Match, *, with_preflight: bool) -> View:
    headers: list[View] = []
    if match.methods:
        # A browser asks with OPTIONS before it sends such a request from another site's page.
        methods = dict.fromkeys([*match.methods, *(["OPTIONS"] if with_preflight else [])])
        if len(methods) == 1:
            headers.append({"name": ":method", "exact": next(iter(methods))})
        else:
            headers.append({"name": ":method", "regex": "|".join(methods)})
    headers += [{"name": name, **wanted} for name, wanted in match.headers.items()]
    return {match.kind: match.value, "headers": headers}


def _route_tracing(mesh: Mesh, edge: Edge, route: Route) -> View | None:
    own = route.tracing
    if own.sampling is None and not own.tags:
        return None
    outer = edge.tracing.sampling
    outer = mesh.tracing.sampling if outer is None else outer
    return {
        "sampling": outer if own.sampling is None else own.sampling,
        "tags": tags(mesh.tracing.tags, edge.tracing.tags, own.tags),
    }


def _filters(said: Mapping[str, Any]) -> View:
    """Return the filters as the templates take them."""
    view: View = {
        name: value
        for name, value in said.items()
        if name in ("max_request_bytes", "compression", "cors")
    }
    if said.get("cors"):
        origins = list(dict.fromkeys(map(origin, said["cors"]["origins"])))
        view["cors"] = {**said["cors"], "origins": origins}
    if said.get("fault"):
        view["fault"] = {name: fault for name, fault in said["fault"].items() if fault is not None}
    if said.get("rate_limit"):
        view["rate_limit"] = token_bucket(**said["rate_limit"])
    return view


def token_bucket(requests: int, per: str, burst: int | None) -> View:
    """Return a bucket that lets `requests` pass in the time `per`, filled as often as can be."""
    interval = _SECONDS[per] / requests
    tokens = math.ceil(_LEAST_FILL_INTERVAL / interval)
    return {
        "tokens": tokens,
        "interval": tokens * interval,
        "burst": max(burst or requests, tokens),
        "retry_after": max(1, math.ceil(tokens * interval)),
    }
