"""The views of the routes that the user gives an edge: their order, policies and filters.

`vmesh.compile.checks` reads the effective policies of a route from here, too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from vmesh.base.formats import origin
from vmesh.compile import edge_login_views
from vmesh.compile.cluster_views import host_header
from vmesh.compile.host_spec import View
from vmesh.compile.listener_views import tags
from vmesh.compile.route_views import EDGE_TIMEOUT, hash_on, retry, virtual_host
from vmesh.model.parse import policies, seconds
from vmesh.model.types import (
    GRPC,
    HTTP1,
    Call,
    Edge,
    Match,
    Mesh,
    Policies,
    Route,
    VirtualHost,
)

_SECONDS = {"second": 1, "minute": 60, "hour": 3600}
# Envoy refuses to fill a bucket more often than this:
# https://www.envoyproxy.io/docs/envoy/latest/api-v3/type/v3/token_bucket.proto
_LEAST_FILL_INTERVAL = 0.05
_KINDS = {"path": 0, "regex": 1, "path_prefix": 2, "prefix": 2}


def edge_table(mesh: Mesh, edge: Edge) -> View:
    """Return the route table of an edge."""
    return {
        "tell_trace": True,
        "tell_client": "always",
        **({"hsts": edge.hsts} if edge.hsts else {}),
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
        {**_filters(edge, limit), **edge_login_views.host_filters(edge)},
    )


def edge_route(mesh: Mesh, edge: Edge, route: Route, shared: Mapping[str, Any]) -> View:
    """Return a route of an edge; `shared` filters are those of its virtual host."""
    filters = _filters(edge, {**shared, **route.filters})
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


def _filters(edge: Edge, said: Mapping[str, Any]) -> View:
    """Return the filters as the templates take them."""
    view: View = {
        name: value
        for name, value in said.items()
        if name in ("max_request_bytes", "compression", "cors")
    }
    view |= edge_login_views.route_filters(edge, said.get("require"))
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
