"""Checks of who an edge lets in: groups of users, and the routes that name them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vmesh.base.problems import HIDDEN, WARNING, Problem
from vmesh.base.secret_patterns import Hidden
from vmesh.compile.checks_edges import shared_filters
from vmesh.compile.checks_names import edge_variable, unknown_name_remedy
from vmesh.model.types import Edge, Mesh


def check_logins(mesh: Mesh) -> Iterator[Problem]:
    """Find requirements that name nobody, groups that nothing names, and passwords in the open."""
    for edge in mesh.edges.values():
        named = set()
        for where, require in _requirements(mesh, edge):
            group = require["users"] if isinstance(require, dict) else None
            if group is None:
                continue
            named.add(group)
            if group not in edge.users:
                yield Problem(
                    f"{where}.require.users",
                    group,
                    f"is no group of users of {edge.name}",
                    unknown_name_remedy(
                        group, edge.users, f"Describe it under {edge_variable(edge)}.users"
                    ),
                )
        if named and edge.tls is None and not edge.trusted_cidrs:
            yield Problem(
                f"{edge_variable(edge)}.users",
                sorted(edge.users),
                "has passwords that everybody on the way can read, as the edge speaks no TLS",
                "Set tls, or trusted_cidrs to the networks of the balancers in front that speak it",
                WARNING,
            )
        for group in sorted(edge.users.keys() - named):
            yield Problem(
                f"{edge_variable(edge)}.users.{group}",
                None,
                "protects nothing: no require names it",
                f"Set require: {{users: {group}}} at the edge, a virtual host or a route",
                WARNING,
            )


def _requirements(mesh: Mesh, edge: Edge) -> Iterator[tuple[str, Any]]:
    """Yield each `require` of an edge, and the variable around it, once where it is written."""
    for where, host in shared_filters(mesh, edge, "require"):
        yield where, host.filters["require"]
    for host in edge.virtual_hosts:
        for index, route in enumerate(host.routes):
            yield f"{host.where}.routes[{index}]", route.filters.get("require")


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
