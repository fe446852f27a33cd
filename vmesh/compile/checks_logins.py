"""Checks of who an edge lets in: groups of users, and the routes that name them."""

from __future__ import annotations

from collections.abc import Iterator, Set

from vmesh.base.problems import HIDDEN, WARNING, Problem
from vmesh.base.secret_patterns import Hidden
from vmesh.compile.checks_edges import shared_filters
from vmesh.compile.checks_names import (
    edge_variable,
    is_service,
    known_services,
    leads_outside,
    unknown_name_remedy,
    unknown_service,
)
from vmesh.model.types import Edge, Mesh


def check_logins(mesh: Mesh) -> Iterator[Problem]:
    """Find requirements that name nobody, what nothing requires, and passwords in the open."""
    for edge in mesh.edges.values():
        variable = edge_variable(edge)
        kinds: dict[str, tuple[str, str, Set[str]]] = {
            "users": ("users", "group of users", edge.users.keys()),
            "jwt": ("jwt", "issuer of tokens", edge.jwt.keys()),
            "external": (
                "external_authorization",
                "external authorization",
                edge.external_authorization.keys(),
            ),
        }
        required = set()
        for where, kind, name in _requirements(mesh, edge):
            required.add((kind, name))
            key, words, known = kinds[kind]
            if name not in known:
                yield Problem(
                    f"{where}.require.{kind}",
                    name,
                    f"is no {words} of {edge.name}",
                    unknown_name_remedy(name, known, f"Describe it under {variable}.{key}"),
                )
        for kind, (key, _, known) in kinds.items():
            for name in sorted(known - {name for each, name in required if each == kind}):
                yield Problem(
                    f"{variable}.{key}.{name}",
                    None,
                    "protects nothing: no require names it",
                    f"Set require: {{{kind}: {name}}} at the edge, a virtual host or a route",
                    WARNING,
                )
        yield from _open_passwords(edge, required)
        yield from _authorizers(mesh, edge)


def _open_passwords(edge: Edge, required: set[tuple[str, str]]) -> Iterator[Problem]:
    asks = any(kind == "users" for kind, _ in required)
    if asks and edge.tls is None and not edge.trusted_cidrs:
        yield Problem(
            f"{edge_variable(edge)}.users",
            sorted(edge.users),
            "has passwords that everybody on the way can read, as the edge speaks no TLS",
            "Set tls, or trusted_cidrs to the networks of the balancers in front that speak it",
            WARNING,
        )


def _authorizers(mesh: Mesh, edge: Edge) -> Iterator[Problem]:
    """Find services that decide about requests, and that are none."""
    variable = edge_variable(edge)
    outside = {call.upstream for call in edge.calls if leads_outside(mesh, variable, call)}
    for name, asked in edge.external_authorization.items():
        if not is_service(mesh, asked.to) and asked.to not in outside:
            yield unknown_service(
                mesh,
                f"{variable}.external_authorization.{name}.to",
                asked.to,
                f"or name one of: {known_services(mesh)}",
                outside=sorted(outside),
            )


def _requirements(mesh: Mesh, edge: Edge) -> Iterator[tuple[str, str, str]]:
    """Yield where an edge requires something, once where it is written; its kind, and its name."""
    written = [(where, host.filters) for where, host in shared_filters(mesh, edge, "require")]
    for host in edge.virtual_hosts:
        routes = enumerate(host.routes)
        written += [(f"{host.where}.routes[{index}]", route.filters) for index, route in routes]
    for where, filters in written:
        require = filters.get("require")
        for kind, name in require.items() if isinstance(require, dict) else ():
            if name is not None:
                yield where, kind, name


def check_plain_hashes(mesh: Mesh, hidden: Hidden) -> Iterator[Problem]:
    """Find hashes of passwords that are not encrypted."""
    for edge in mesh.edges.values():
        for group, users in edge.users.items():
            for name in users:
                place = ("mesh_edges", edge.name, "users", group, name)
                if place not in hidden:
                    yield Problem(
                        ".".join(place),
                        HIDDEN,
                        "is the hash of a password and stands in the inventory in plain text",
                        "Encrypt it: `ansible-vault encrypt_string`, and put its output here",
                        WARNING,
                    )
