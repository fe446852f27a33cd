"""Checks of tracing: tags of spans, the collector and the headers that it gets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vmesh.base.problems import HIDDEN, WARNING, Problem
from vmesh.base.secret_patterns import Hidden, header_looks_secret
from vmesh.compile.checks_calls import check_tls
from vmesh.compile.checks_names import edge_variable
from vmesh.model.types import OTLP, Mesh


def check_tags(where: str, tags: Mapping[str, Mapping[str, str | None]]) -> Iterator[Problem]:
    """Find defaults of tags that never count."""
    for name, tag in tags.items():
        if tag["literal"] is not None and tag["default"] is not None:
            yield Problem(
                f"{where}.tags.{name}.default",
                tag["default"],
                "never counts, as a literal is always there",
                "Remove it",
            )


def check_plain_headers(mesh: Mesh, hidden: Hidden) -> Iterator[Problem]:
    """Find headers to the collector that look like secrets and are not encrypted."""
    for name in mesh.tracing.headers:
        place = ("mesh_tracing", "collector", "headers", name)
        if header_looks_secret(name) and place not in hidden:
            yield Problem(
                ".".join(place),
                HIDDEN,
                "looks like a secret and stands in the inventory in plain text",
                "Encrypt it: `ansible-vault encrypt_string`, and put its output here",
                WARNING,
            )


def _said_of_collector(mesh: Mesh) -> Mapping[str, object]:
    given = mesh.given.get("mesh_tracing")
    said = given.get("collector") if isinstance(given, Mapping) else None
    return said if isinstance(said, Mapping) else {}


def check_tracing(mesh: Mesh) -> Iterator[Problem]:
    """Find what is wrong with the collector, and with the tags of mesh and edges."""
    tracing = mesh.tracing
    if tracing.group is not None and tracing.collector is not None:
        yield Problem(
            "mesh_tracing",
            ["collector", "group"],
            "has collector and group, which exclude one another",
            "Keep group for a Jaeger on a host of yours, collector for anything else",
        )
    yield from check_tags("mesh_tracing", tracing.tags)
    for edge in mesh.edges.values():
        yield from check_tags(f"{edge_variable(edge)}.tracing", edge.tracing.tags)
    path = _said_of_collector(mesh).get("path")
    if path is not None and tracing.export == OTLP:
        yield Problem(
            "mesh_tracing.collector.path",
            path,
            "has no meaning with otlp, which is gRPC and has its own path",
            "Remove it, or set export to otlp_http",
        )
    if tracing.collector is not None:
        yield from check_tls(
            "mesh_tracing.collector.tls", tracing.collector.host, tracing.collector.tls
        )
