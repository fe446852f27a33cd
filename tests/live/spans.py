"""What a trace must look like, from the inventory, and what it does look like. No I/O here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vmesh.model import Edge, Mesh, Route
from vmesh.traces import Span


@dataclass(frozen=True)
class Node:
    """A span without its ids and times, and the spans it is the parent of."""

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


def expected(mesh: Mesh, edge: Edge, path: str, calls: bool) -> Node:
    """Return the trace of one GET of `path` at `edge`.

    Every Envoy on the way makes one span: the edge, a service's Envoy for what comes in, and
    again for each call its app makes. `calls` says whether the app calls on for this path:
    that is the demo's code and not in the inventory.
    """
    route = route_of(edge, path)
    return Node(edge.name, mesh.services[route.to].operation, "server",
                (_incoming(mesh, route.to, calls),))  # fmt: skip


def route_of(edge: Edge, path: str) -> Route:
    """Return the route that answers `path`: the one with the longest prefix."""
    fitting = [route for route in edge.routes if path.startswith(route.prefix)]
    return max(fitting, key=lambda route: len(route.prefix))


def _incoming(mesh: Mesh, service: str, calls: bool) -> Node:
    upstreams = mesh.services[service].calls if calls else ()
    return Node(
        service,
        mesh.services[service].operation,
        "server",
        tuple(
            Node(service, mesh.services[call.upstream].operation, "client",
                 (_incoming(mesh, call.upstream, calls),))
            for call in upstreams
        ),
    )  # fmt: skip


def shape(spans: Sequence[Span]) -> list[Node]:
    """Return the roots of a stored trace; one, if all its spans hang together.

    A span whose parent is not there counts as a root, and so does one in a cycle: either makes
    the trace unequal to any expected one.
    """
    known = {span.span_id for span in spans}

    def node(span: Span, above: frozenset[str]) -> Node:
        below = [s for s in spans if s.parent_id == span.span_id and s.span_id not in above]
        below.sort(key=lambda each: (each.start, each.span_id))
        seen = above | {span.span_id}
        return Node(span.service, span.operation, span.kind, tuple(node(s, seen) for s in below))

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
