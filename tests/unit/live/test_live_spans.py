"""The tests' own judgement of a trace: it must see what is wrong with one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.live.spans import (
    Node,
    difference,
    expected,
    route_of,
    shape,
    with_failed_try,
)
from vmesh.model.parse import parse
from vmesh.model.types import Mesh
from vmesh.traces.span import Span

MESH = {
    "mesh_services": {
        "shop": {
            "port": 9001,
            "app": {"flask": "services/shop"},
            "operation": "buy",
            "calls": {"stock": {}},
        },
        "stock": {"port": 9002, "app": {"flask": "services/stock"}, "operation": "look"},
    },
    "mesh_edges": {
        "gate": {
            "group": "gate",
            "port": 80,
            "routes": [{"prefix": "/", "to": "stock"}, {"prefix": "/buy", "to": "shop"}],
        }
    },
    "mesh_tracing": {"group": "jaeger"},
}


@pytest.fixture
def mesh() -> Mesh:
    problems: list[object] = []
    parsed = parse(MESH, problems)  # type: ignore[arg-type]
    assert problems == []
    return parsed


def span(number: int, parent: int | None, service: str, operation: str, kind: str) -> Span:
    return Span(
        trace_id="t",
        span_id=f"s{number}",
        parent_id=None if parent is None else f"s{parent}",
        service=service,
        operation=operation,
        start=number,
        duration=10 - number,
        kind=kind,
    )


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
    assert route_of(mesh.edges["gate"], "/buy/x").to == {"shop": 1}
    assert route_of(mesh.edges["gate"], "/else").to == {"stock": 1}


DEEP = {
    "mesh_services": {
        "page": {
            "port": 9001,
            "app": {"flask": "services/shop"},
            "calls": {"till": {}, "bank": {"host": "bank.example.com", "port": 443}},
        },
        "till": {"port": 9002, "app": {"flask": "services/shop"}, "calls": {"old": {}}},
        "old": {"port": 9003, "app": {"external": "127.0.0.1:7001"}, "calls": {"page": {}}},
        "next": {"port": 9004, "app": {"flask": "services/shop"}},
    },
    "mesh_edges": {
        "gate": {
            "group": "gate",
            "port": 80,
            "routes": [
                {"prefix": "/", "to": "page"},
                {"prefix": "/copied", "to": "next", "mirror": {"to": "old"}},
                {"path": "/new", "to": {"next": 9, "old": 1}, "operation": "try"},
                {"path": "/new", "headers": {"x-me": "yes"}, "to": "next"},
                {"regex": "/copied/[0-9]+", "to": "next"},
            ],
            "virtual_hosts": {
                "other": {"domains": ["x.example"], "routes": [{"prefix": "/", "to": "next"}]},
            },
        }
    },
}


@pytest.fixture
def deep() -> Mesh:
    problems: list[object] = []
    parsed = parse(DEEP, problems)  # type: ignore[arg-type]
    assert problems == []
    return parsed


def names(node: Node) -> list[str]:
    return [f"{each.service} {each.operation} {each.kind}" for each in node.flat()]


def test_every_upstream_of_every_service_on_the_way_is_called(deep: Mesh) -> None:
    wanted = expected(deep, deep.edges["gate"], "/")
    assert names(wanted) == [
        "gate page server",
        "page page server",
        "page bank client",  # outside the mesh: nobody's span below it
        "page till client",
        "till till server",
        "till old client",
        "old old server",  # not ours, so it calls nobody we know of
    ]
    assert wanted.levels() == 4


def test_a_copy_is_in_the_trace_too(deep: Mesh) -> None:
    wanted = expected(deep, deep.edges["gate"], "/copied")
    assert names(wanted) == [
        "gate next server",
        "gate mirror client",
        "old old server",
        "next next server",
    ]
    alone = expected(deep, deep.edges["gate"], "/copied/1")
    assert names(alone) == ["gate next server", "next next server"]


def test_a_route_with_weights_leads_to_who_answered(deep: Mesh) -> None:
    gate = deep.edges["gate"]
    assert names(expected(deep, gate, "/new")) == ["gate try server", "next next server"]
    assert names(expected(deep, gate, "/new", to="old")) == ["gate try server", "old old server"]
    assert route_of(gate, "/new", {"x-me": "yes"}).to == {"next": 1}
    with pytest.raises(AssertionError, match="never leads"):
        expected(deep, gate, "/new", to="page")


def test_another_site_has_routes_of_its_own(deep: Mesh) -> None:
    wanted = expected(deep, deep.edges["gate"], "/", site="other")
    assert names(wanted) == ["gate next server", "next next server"]


def test_a_failed_try_stands_beside_the_one_that_succeeded(deep: Mesh) -> None:
    wanted = expected(deep, deep.edges["gate"], "/")
    twice = with_failed_try(wanted, "till")
    assert sorted(names(twice)) == sorted([*names(wanted), "till till server"])
    client = next(n for n in twice.flat() if (n.service, n.operation) == ("page", "till"))
    assert [len(child.children) for child in client.children] == [0, 1]


def test_children_are_compared_whatever_their_order_in_time(mesh: Mesh) -> None:
    spans = [
        span(1, None, "gate", "look", "server"),
        span(3, 1, "a", "look", "server"),
        span(2, 1, "b", "look", "server"),
    ]
    wanted = Node(
        "gate", "look", "server", (Node("a", "look", "server"), Node("b", "look", "server"))
    )
    assert difference(spans, wanted) == ""


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
