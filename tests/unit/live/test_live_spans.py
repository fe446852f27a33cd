"""The tests' own judgement of a trace: it must see what is wrong with one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.live.spans import Node, difference, expected, route_of, shape
from vmesh.model import Mesh, parse
from vmesh.traces import Span

MESH = {
    "mesh_services": {
        "shop": {
            "port": 9001, "app": {"flask": "services/shop"}, "operation": "buy",
            "calls": {"stock": {}},
        },
        "stock": {"port": 9002, "app": {"flask": "services/stock"}, "operation": "look"},
    },
    "mesh_edges": {
        "gate": {
            "group": "gate", "port": 80,
            "routes": [{"prefix": "/", "to": "stock"}, {"prefix": "/buy", "to": "shop"}],
        }
    },
    "mesh_tracing": {"group": "jaeger"},
}  # fmt: skip


@pytest.fixture
def mesh() -> Mesh:
    problems: list[object] = []
    parsed = parse(MESH, problems)  # type: ignore[arg-type]
    assert problems == []
    return parsed


def span(number: int, parent: int | None, service: str, operation: str, kind: str) -> Span:
    return Span(
        trace_id="t", span_id=f"s{number}", parent_id=None if parent is None else f"s{parent}",
        service=service, operation=operation, start=number, duration=10 - number, kind=kind,
    )  # fmt: skip


STORED = [
    span(3, 2, "stock", "look", "server"),
    span(0, None, "gate", "buy", "server"),
    span(2, 1, "shop", "look", "client"),
    span(1, 0, "shop", "buy", "server"),
]


def test_trace_of_a_call_is_edge_in_out_in(mesh: Mesh) -> None:
    wanted = expected(mesh, mesh.edges["gate"], "/buy/now", calls=True)
    assert [(n.service, n.operation, n.kind) for n in wanted.flat()] == [
        ("gate", "buy", "server"),
        ("shop", "buy", "server"),
        ("shop", "look", "client"),
        ("stock", "look", "server"),
    ]
    assert difference(STORED, wanted) == ""


def test_path_that_calls_nobody_has_two_spans(mesh: Mesh) -> None:
    wanted = expected(mesh, mesh.edges["gate"], "/buy", calls=False)
    assert [n.service for n in wanted.flat()] == ["gate", "shop"]


def test_longest_prefix_wins(mesh: Mesh) -> None:
    assert route_of(mesh.edges["gate"], "/buy/x").to == "shop"
    assert route_of(mesh.edges["gate"], "/else").to == "stock"


def other(index: int, **changes: object) -> list[Span]:
    spans = list(STORED)
    spans[index] = replace(spans[index], **changes)  # type: ignore[arg-type]
    return spans


@pytest.mark.parametrize(
    "spans",
    [
        [],
        STORED[1:],  # one is missing
        [*STORED, span(4, 3, "stock", "look", "server")],  # one too many
        [*STORED, STORED[0]],  # one twice
        other(0, parent_id="s1"),  # wrong parent
        other(1, parent_id="elsewhere", trace_id="t"),  # hangs on a stranger's span: still a root
        other(3, operation="sell"),
        other(3, service="gate"),
        other(2, kind="server"),
        [replace(STORED[1], parent_id="s1"), replace(STORED[3], parent_id="s0")],  # a cycle
    ],
    ids=["none", "missing", "more", "twice", "parent", "stranger", "operation", "service", "kind",
         "cycle"],
)  # fmt: skip
def test_wrong_traces_are_seen(mesh: Mesh, spans: list[Span]) -> None:
    wanted = expected(mesh, mesh.edges["gate"], "/buy", calls=True)
    assert difference(spans, wanted) != ""


def test_trace_in_two_pieces_has_two_roots() -> None:
    assert len(shape([STORED[1], STORED[0]])) == 2
    assert shape([STORED[1]]) == [Node("gate", "buy", "server")]
