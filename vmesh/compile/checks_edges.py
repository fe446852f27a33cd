"""Checks of what an edge does with a request before it looks for a route.

Whom it trusts, and which headers it lets through: what a route, a tag or a hash asks of a header
that no request has any more belongs here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from vmesh.base.problems import WARNING, Problem
from vmesh.compile.checks_names import edge_variable
from vmesh.compile.edge_route_views import edge_policies
from vmesh.model.types import Edge, Mesh, VirtualHost


def check_underscores(where: str, edge: Edge, names: Iterable[str]) -> Iterator[Problem]:
    """Find names of request headers that no request has when `edge` is done with it."""
    for name in names:
        if "_" in name and edge.headers_with_underscores != "allow":
            yield Problem(
                where,
                name,
                "has an underscore, and the edge lets no such header through",
                f"Write {name.replace('_', '-')}, or set headers_with_underscores of {edge.name}"
                " to allow",
            )


def shared_filters(mesh: Mesh, edge: Edge, name: str) -> Iterator[tuple[str, VirtualHost]]:
    """Yield a virtual host for each filter `name` of whole virtual hosts, once where it is written.

    Beside it is the variable in which it is written: that of the virtual host, or of the edge.
    """
    seen: list[object] = []
    for host in edge.virtual_hosts:
        said = host.filters.get(name)
        if said is not None and not any(said is each for each in seen):
            seen.append(said)
            given = mesh.given["mesh_edges"][edge.name].get("virtual_hosts") or {}
            own = isinstance(given, Mapping) and name in (given.get(host.name) or {})
            yield host.where if own else edge_variable(edge), host


def check_underscores_in_tags(
    where: str, edge: Edge, tags: Mapping[str, Mapping[str, str | None]]
) -> Iterator[Problem]:
    """Look at the headers from which tags of spans are read."""
    for name, tag in tags.items():
        header = tag["header"]
        yield from check_underscores(
            f"{where}.tags.{name}.header", edge, [header] if header else []
        )


def check_peers(mesh: Mesh) -> Iterator[Problem]:
    """Find what an edge says of trusted peers that it has none of, or cannot tell apart."""
    for edge in mesh.edges.values():
        if edge.proxy_protocol and not edge.trusted_cidrs:
            yield Problem(
                f"{edge_variable(edge)}.proxy_protocol",
                edge.proxy_protocol,
                "is for the peers in trusted_cidrs alone, and there are none: nobody could connect",
                "Set trusted_cidrs to the networks of the balancers that speak it",
            )
        if edge.proxy_protocol and edge.control_cidrs:
            yield Problem(
                f"{edge_variable(edge)}.control_cidrs",
                list(edge.control_cidrs),
                "has no meaning with proxy_protocol: what comes is from a balancer's clients",
                "Remove it, or give these peers an edge without proxy_protocol",
            )
        if edge.trusted_hops and not (edge.trusted_cidrs or edge.control_cidrs):
            yield Problem(
                f"{edge_variable(edge)}.trusted_hops",
                edge.trusted_hops,
                "has no meaning, as no peer is trusted",
                "Set trusted_cidrs to the networks of the proxies in front, or remove it",
            )
        yield from check_underscores_in_tags(
            f"{edge_variable(edge)}.tracing", edge, edge.tracing.tags
        )
        for name in sorted({name for route in edge.routes for name in route.to}):
            yield from _check_underscores_in_hash(mesh, edge, name)


def _check_underscores_in_hash(mesh: Mesh, edge: Edge, upstream: str) -> Iterator[Problem]:
    """Look at the header by which `edge` chooses an instance of `upstream`."""
    own = next((call.given for call in edge.calls if call.upstream == upstream), {})
    said = edge_policies(mesh, edge, upstream)
    header = (said.hash_on or {}).get("header")
    if said.load_balancing != "ring_hash" or header is None:
        return
    if "hash_on" in own:
        yield from check_underscores(
            f"{edge_variable(edge)}.calls.{upstream}.hash_on.header", edge, [header]
        )
        return
    # Other callers may send it, so it is no mistake in itself.
    for problem in check_underscores(
        f"mesh_services.{upstream}.policies.hash_on.header", edge, [header]
    ):
        message = f"{problem.message}: {edge.name} chooses any instance"
        yield replace(problem, message=message, severity=WARNING)
