"""What a trace must look like, from the inventory, and what it does look like. No I/O here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import re2

from vmesh.model.types import MAIN, Edge, ExternalApp, Match, Mesh, Route
from vmesh.traces.span import Span

KINDS = {"path": 0, "regex": 1, "path_prefix": 2, "prefix": 2}  # the most specific first
NO_HEADERS: Mapping[str, str] = {}


@dataclass(frozen=True, order=True)
class Node:
    """A span without its ids and times, and the spans it is the parent of, in a fixed order."""

    service: str
    operation: str
    kind: str
    children: tuple[Node, ...] = ()

    def __str__(self) -> str:
        below = f" -> ({', '.join(map(str, self.children))})" if self.children else ""
        return f"{self.service} {self.operation} [{self.kind}]{below}"

    def flat(self) -> list[Node]:
        """Return this node and all below it, parents first."""
        return [self, *(each for child in self.children for each in child.flat())]

    def levels(self) -> int:
        """Return how many Envoys' spans for incoming requests stand one below the other."""
        own = 1 if self.kind == "server" else 0
        return own + max((child.levels() for child in self.children), default=0)


def expected(  # noqa: PLR0913 - a request has that many sides
    mesh: Mesh,
    edge: Edge,
    path: str,
    calls: bool = True,
    *,
    to: str | None = None,
    headers: Mapping[str, str] = NO_HEADERS,
    site: str = MAIN,
) -> Node:
    """Return the trace of one GET of `path` at `edge`.

    Every Envoy on the way makes one span: the edge, a service's Envoy for what comes in, and
    again for each call its app makes. `calls` says whether the apps call on for this path, each
    all its upstreams: that is the apps' code and not in the inventory. `to` is the service that
    answered where a route has several; `site` is the virtual host.
    """
    route = route_of(edge, path, headers, site)
    main = max(route.to, key=lambda name: route.to[name])
    below = [_incoming(mesh, to or main, calls)]
    assert to is None or to in route.to, f"{path} never leads to {to}"
    if route.mirror is not None:
        assert route.mirror["percent"] == 100, "whether there is a copy cannot be foretold"
        # The copy has a span of its own at the edge, by Envoy's name for it.
        copied = _incoming(mesh, route.mirror["to"], calls)
        below.append(Node(edge.name, "mirror", "client", (copied,)))
    operation = route.operation or mesh.services[main].operation
    return Node(edge.name, operation, "server", tuple(sorted(below)))


def route_of(
    edge: Edge, path: str, headers: Mapping[str, str] = NO_HEADERS, site: str = MAIN
) -> Route:
    """Return the route that answers a GET: as docs/reference.md says, the most specific one."""
    routes = next(host.routes for host in edge.virtual_hosts if host.name == site)
    fitting = [
        (KINDS[route.match.kind], _looseness(route.match), index, route)
        for index, route in enumerate(routes)
        if _fits(route.match, path, headers)
    ]
    return min(fitting, key=lambda each: each[:3])[3]


def _looseness(match: Match) -> tuple[int, bool, int]:
    if match.kind == "regex":
        return (0, False, 0)
    conditions = len(match.headers) + bool(match.methods)
    return (-len(match.value), match.kind == "prefix", -conditions)


def _fits(match: Match, path: str, headers: Mapping[str, str]) -> bool:
    if match.methods and "GET" not in match.methods:
        return False
    for name, wanted in match.headers.items():
        assert set(wanted) == {"exact"}, f"no test asks for {wanted} yet"
        if headers.get(name) != wanted["exact"]:
            return False
    if match.kind == "regex":
        return re2.fullmatch(match.value, path) is not None
    if match.kind == "path_prefix":
        return f"{path}/".startswith(f"{match.value}/")
    return path.startswith(match.value) if match.kind == "prefix" else path == match.value


def _incoming(mesh: Mesh, name: str, calls: bool) -> Node:
    service = mesh.services[name]
    # Only a Flask service of ours is known to call what it is told of.
    upstreams = service.calls if calls and not isinstance(service.app, ExternalApp) else ()
    below = []
    for call in upstreams:
        upstream = mesh.services.get(call.upstream)  # None: an address outside the mesh
        operation = upstream.operation if upstream else call.upstream
        further = (_incoming(mesh, call.upstream, calls),) if upstream else ()
        below.append(Node(name, operation, "client", further))
    return Node(name, service.operation, "server", tuple(sorted(below)))


def with_failed_try(wanted: Node, service: str) -> Node:
    """Return `wanted` with one more try of each call to `service`: it failed and called nobody.

    Both tries are children of the caller's one span.
    """
    below = [with_failed_try(child, service) for child in wanted.children]
    below += [
        replace(child, children=())
        for child in wanted.children
        if (child.service, child.kind) == (service, "server")
    ]
    return replace(wanted, children=tuple(sorted(below)))


def shape(spans: Sequence[Span]) -> list[Node]:
    """Return the roots of a stored trace; one, if all its spans hang together.

    A span whose parent is not there counts as a root, and so does one in a cycle: either makes
    the trace unequal to any expected one.
    """
    known = {span.span_id for span in spans}

    def node(span: Span, above: frozenset[str]) -> Node:
        below = [s for s in spans if s.parent_id == span.span_id and s.span_id not in above]
        seen = above | {span.span_id}
        children = tuple(sorted(node(each, seen) for each in below))
        return Node(span.service, span.operation, span.kind, children)

    roots = [span for span in spans if span.parent_id not in known]
    return [node(root, frozenset({root.span_id})) for root in (roots or spans)]


def difference(spans: Sequence[Span], wanted: Node) -> str:
    """Return how the stored spans differ from `wanted`; "" when they are exactly these."""
    if len({span.span_id for span in spans}) != len(spans):
        return f"a span is stored twice: {sorted(span.span_id for span in spans)}"
    known = {span.span_id for span in spans}
    for span in spans:
        if span.parent_id is not None and span.parent_id not in known:
            return f"{span.service} {span.operation} hangs on {span.parent_id}, which is not there"
    found = shape(spans)
    if found == [wanted]:
        return ""
    told = "; ".join(map(str, found)) or "nothing"
    return f"stored: {told}\nwanted: {wanted}"
