"""Checks of an edge's routes: in themselves, and of one that leaves nothing for another."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import re2

from vmesh.base.problems import WARNING, Problem
from vmesh.compile.checks_edges import (
    check_underscores,
    check_underscores_in_tags,
    shared_filters,
)
from vmesh.compile.checks_names import (
    edge_variable,
    is_service,
    known_services,
    leads_outside,
    unknown_service,
)
from vmesh.compile.checks_tracing import check_tags
from vmesh.compile.edge_route_views import (
    body_buffer,
    edge_policies,
    in_order,
    route_timeout,
    streams,
    upstream_protocol,
)
from vmesh.model.types import HTTP1, Edge, Match, Mesh, Route, VirtualHost

_EDGES = "mesh_edges"
# What no path has any more when routes are looked at.
_UNNORMAL = {
    "prefix": re.compile(r"//|/\.\.?/"),
    "path": re.compile(r"//|/\.\.?(/|$)"),
    "path_prefix": re.compile(r"//|/\.\.?(/|$)"),
    "regex": re.compile(r"(?!)"),
}
_ESCAPED_SLASH = re.compile(r"%2f|%5c", re.IGNORECASE)
_EVERY_PATH = (".*", "/.*", ".+")


def check_routes(mesh: Mesh) -> Iterator[Problem]:
    """Find what is wrong with the routes of edges."""
    for edge in mesh.edges.values():
        for host in edge.virtual_hosts:
            for index, route in enumerate(host.routes):
                yield from _route(f"{host.where}.routes[{index}]", mesh, edge, route)
            yield from _shadows(host)
        yield from _shared_cors(mesh, edge)


def _route(where: str, mesh: Mesh, edge: Edge, route: Route) -> Iterator[Problem]:
    outside = {
        call.upstream for call in edge.calls if leads_outside(mesh, edge_variable(edge), call)
    }
    for index, name in enumerate(route.upstreams):
        key = f"{where}.to" if index < len(route.to) else f"{where}.mirror.to"
        if not is_service(mesh, name) and name not in outside:
            remedy = f"or route to one of: {known_services(mesh)}"
            yield unknown_service(mesh, key, name, remedy, outside=sorted(outside))
    if route.to and not sum(route.to.values()):
        yield Problem(
            f"{where}.to", route.to, "has weights that add up to nothing", "Give one a weight"
        )
    if sum(route.to.values()) > 2**32 - 1:
        yield Problem(
            f"{where}.to", route.to, "has weights too large to add up", "Use smaller weights"
        )
    yield from _either(f"{where}.rewrite", route.rewrite, "prefix", "regex")
    yield from _either(f"{where}.redirect", route.redirect, "path", "prefix")
    yield from _substitution(f"{where}.rewrite", route.rewrite)
    yield from check_tags(f"{where}.tracing", route.tracing.tags)
    yield from _path(where, edge, route)
    yield from check_underscores(f"{where}.headers", edge, route.match.headers)
    yield from check_underscores_in_tags(f"{where}.tracing", edge, route.tracing.tags)
    yield from _check_underscores_in_cors(where, edge, route.filters)
    if route.redirect is not None and set(route.redirect) == {"status"}:
        yield Problem(
            f"{where}.redirect",
            "status",
            "leads to where the client is already",
            "Add another scheme, host, port, path or prefix",
        )
    yield from _cors(where, route.filters)
    if route.websocket and "max_request_bytes" in route.filters:
        yield Problem(
            f"{where}.max_request_bytes",
            route.filters["max_request_bytes"],
            "would hold back all that is sent over a WebSocket",
            "Remove it from this route",
        )
    other = next(
        (name for name in route.to if upstream_protocol(mesh, edge.calls, name) != HTTP1), None
    )
    if route.websocket and other is not None:
        yield Problem(
            f"{where}.websocket",
            True,
            f"leads to {other}, which speaks HTTP/2, and the upgrade is one of HTTP/1.1",
            "Remove it, or serve WebSockets by a service with protocol http1",
        )
    if "max_request_bytes" in route.filters and streams(mesh, edge, route):
        yield Problem(
            f"{where}.max_request_bytes",
            route.filters["max_request_bytes"],
            "would hold back all that is sent over a stream of gRPC",
            "Remove it from this route, and limit the size of messages in the app",
        )
    yield from _body_limits(where, mesh, edge, route)
    timeout = route_timeout(mesh, edge, route)
    per_try = (route.retries or {}).get("per_try_timeout")
    if per_try is not None and timeout is not None and per_try > timeout:
        yield Problem(
            f"{where}.retries.per_try_timeout",
            per_try,
            f"is longer than the route's timeout, {timeout:g} s",
            "Make it shorter, or the timeout longer",
        )


def _path(where: str, edge: Edge, route: Route) -> Iterator[Problem]:
    """Look at the path of a route as the edge sees paths, and at what becomes of it."""
    kind, path = route.match.kind, route.match.value
    normal = path if edge.merge_slashes else path.replace("//", "/")
    if _UNNORMAL[kind].search(normal):
        doubled = "//b, " if edge.merge_slashes else ""
        yield Problem(
            f"{where}.{kind}",
            path,
            f"never matches: the edge makes /b of {doubled}/./b and /a/../b before it looks",
            "Write it without // and dots" if doubled else "Write it without dots",
        )
    if kind != "regex" and edge.escaped_slashes != "keep" and _ESCAPED_SLASH.search(path):
        yield Problem(
            f"{where}.{kind}",
            path,
            "never matches: no path has an escaped slash any more when the edge looks",
            f"Write / for it, or set escaped_slashes of {edge.name} to keep",
        )
    if kind == "path_prefix" and path.endswith("/"):
        yield Problem(
            f"{where}.path_prefix",
            path,
            "ends with a slash, and whole segments need none",
            f"Write {path.rstrip('/')}, which is for {path.rstrip('/')} and all below it",
        )
    for key, said in (("rewrite", route.rewrite), ("redirect", route.redirect)):
        if kind == "prefix" and path and path[-1] != "/" and said and "prefix" in said:
            yield Problem(
                f"{where}.{key}.prefix",
                said["prefix"],
                f"is put before half a segment too: {path} also matches {path}x",
                f"Write `path_prefix: {path}` for whole segments, or end the prefix with a slash",
                WARNING,
            )


def _check_underscores_in_cors(
    where: str, edge: Edge, filters: Mapping[str, Mapping[str, Any]]
) -> Iterator[Problem]:
    headers = (filters.get("cors") or {}).get("headers")
    yield from check_underscores(f"{where}.cors.headers", edge, headers or ())


def _body_limits(where: str, mesh: Mesh, edge: Edge, route: Route) -> Iterator[Problem]:
    """Find a route that lets bodies pass which it cannot send again, although it is to."""
    host = next(host for host in edge.virtual_hosts if route in host.routes)
    largest = {**host.filters, **route.filters}.get("max_request_bytes")
    kept = body_buffer(mesh, edge, route)
    if largest is None or kept is None or kept >= largest or not route.to:
        return
    if route.websocket or streams(mesh, edge, route):
        return  # nothing is held back there
    main = next(iter(route.to))
    attempts = edge_policies(mesh, edge, main).retries.attempts
    if (route.retries or {}).get("attempts", attempts):
        yield Problem(
            f"{where}.request_body_buffer_limit",
            kept,
            f"is less than max_request_bytes, {largest}: larger bodies pass, but never again after"
            " a failure",
            "Remove it, raise it, or set retries: {attempts: 0}",
            WARNING,
        )


def _either(where: str, value: Mapping[str, object] | None, *names: str) -> Iterator[Problem]:
    if value is not None and all(name in value for name in names):
        yield Problem(
            where,
            sorted(names),
            f"has {' and '.join(names)}, which exclude one another",
            "Keep one of them",
        )


def _substitution(where: str, rewrite: Mapping[str, str] | None) -> Iterator[Problem]:
    if not rewrite or "regex" not in rewrite or "substitution" not in rewrite:
        return
    text, groups = rewrite["substitution"], re2.compile(rewrite["regex"]).groups
    if re.search(r"\\([^0-9\\]|$)", text.replace(r"\\", "")):
        yield Problem(
            f"{where}.substitution",
            text,
            r"has a \ that is followed by neither a digit nor another \ ",
            r"Write \1 for the first group, \\ for a backslash",
        )
    elif any(int(digit) > groups for digit in re.findall(r"\\([0-9])", text.replace(r"\\", ""))):
        yield Problem(
            f"{where}.substitution",
            text,
            f"names a group that the expression does not have; it has {groups}",
            r"Put ( ) around what \1 stands for",
        )


def _cors(where: str, filters: Mapping[str, Mapping[str, object]]) -> Iterator[Problem]:
    cors = filters.get("cors")
    origins = cors and cors.get("origins")
    if cors and cors.get("credentials") and isinstance(origins, list) and "*" in origins:
        yield Problem(
            f"{where}.cors.credentials",
            True,
            "would let every site act with the visitor's cookies",
            "Name the origins instead of *, or remove credentials",
        )


def _shared_cors(mesh: Mesh, edge: Edge) -> Iterator[Problem]:
    """Look at what holds for whole virtual hosts, once where it is written."""
    for place, host in shared_filters(mesh, edge, "cors"):
        yield from _cors(place, host.filters)
        yield from _check_underscores_in_cors(place, edge, host.filters)


def _shadows(host: VirtualHost) -> Iterator[Problem]:
    """Return the routes of which no request is left by another one before them."""
    earlier: list[tuple[int, Match]] = []
    for index, route in in_order(host.routes):
        if not route.match.value:
            continue
        for first, match in earlier:
            if _covers(match, route.match):
                yield Problem(
                    f"{host.where}.routes[{index}]",
                    route.match.value,
                    f"never gets a request: routes[{first}] takes all of them",
                    "Remove one, or give one another path, method or header",
                )
                break
        earlier.append((index, route.match))


def _covers(one: Match, other: Match) -> bool:
    """Tell whether every request that `other` matches is matched by `one` too."""
    if one.kind == "regex" and one.value in _EVERY_PATH:
        path = True
    elif one.kind == "prefix" and other.kind != "regex":
        path = other.value.startswith(one.value)
    elif one.kind == "path_prefix" and other.kind != "regex":
        whole = one.value == other.value and other.kind != "prefix"
        path = whole or other.value.startswith(f"{one.value}/")
    else:
        path = (one.kind, one.value) == (other.kind, other.value)
    methods = not one.methods or (bool(other.methods) and set(other.methods) <= set(one.methods))
    headers = all(other.headers.get(name) == wanted for name, wanted in one.headers.items())
    return path and methods and headers
