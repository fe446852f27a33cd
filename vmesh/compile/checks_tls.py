"""Checks of how an edge speaks TLS. What is in certificates is for vmesh.artifacts.certificates."""

from __future__ import annotations

from collections.abc import Iterator

from vmesh.base.problems import HIDDEN, Problem
from vmesh.base.secret_patterns import Hidden
from vmesh.compile.checks_names import edge_variable
from vmesh.model.types import Mesh


def check_edge_tls(mesh: Mesh) -> Iterator[Problem]:
    """Find what an edge says of HTTPS and does not speak it."""
    for edge in mesh.edges.values():
        for key, value in (("redirect_port", edge.redirect_port), ("hsts", edge.hsts)):
            if value and "tls" not in mesh.given["mesh_edges"][edge.name]:
                yield Problem(
                    f"{edge_variable(edge)}.{key}",
                    value,
                    "has no meaning, as the edge speaks HTTP",
                    "Set tls, or remove it",
                )


def check_plain_keys(mesh: Mesh, hidden: Hidden) -> Iterator[Problem]:
    """Find private keys that everybody who sees the inventory can read."""
    for edge in mesh.edges.values():
        place = ("mesh_edges", edge.name, "tls", "key")
        if edge.tls and edge.tls.key and place not in hidden:
            yield Problem(
                ".".join(place),
                HIDDEN,
                "stands in the inventory in plain text",
                "Encrypt it: `ansible-vault encrypt_string`, and put its output here; or name files"
                " on the edge's hosts with certificate_on_host and key_on_host",
            )
