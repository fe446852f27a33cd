from __future__ import annotations

from typing import Any

import pytest

from vmesh.cli.trace import stored_spans
from vmesh.traces import waterfall
from vmesh.traces.span import Span, parse, whole

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def raw(span: str, parent: str | None, process: str, start: int, duration: int, **tags: Any) -> Any:
    """Return a span in the shape of Jaeger's query API."""
    references = [{"refType": "CHILD_OF", "traceID": TRACE, "spanID": parent}] if parent else []
    return {
        "traceID": TRACE,
        "spanID": span,
        "operationName": f"op-{span}",
        "references": references,
        "startTime": start,
        "duration": duration,
        "processID": process,
        "logs": [],
        "tags": [
            {"key": k.replace("_", "."), "type": "string", "value": v} for k, v in tags.items()
        ],
    }


def answer(*spans: Any) -> dict[str, Any]:
    services = {"p1": "front-proxy", "p2": "shop", "p3": "stock"}
    processes = {key: {"serviceName": name, "tags": []} for key, name in services.items()}
    return {"data": [{"traceID": TRACE, "spans": list(spans), "processes": processes}]}


FOUR = (
    raw("d", "c", "p3", 1_003_000, 4_000, span_kind="server", error="true"),
    raw("b", "a", "p2", 1_001_000, 8_000, span_kind="server"),
    raw("a", None, "p1", 1_000_000, 10_000, span_kind="server"),
    raw("c", "b", "p2", 1_002_000, 6_000, span_kind="client"),
)


def test_spans_come_root_first_each_below_the_one_that_called_it() -> None:
    rows = waterfall.tree(parse(answer(*FOUR))).rows
    assert [(row.span.service, row.depth, row.offset) for row in rows] == [
        ("front-proxy", 0, 0),
        ("shop", 1, 1_000),
        ("shop", 2, 2_000),
        ("stock", 3, 3_000),
    ]
    assert waterfall.total(rows) == 10_000


def test_siblings_come_in_the_order_of_their_start() -> None:
    spans = parse(
        answer(
            raw("a", None, "p1", 0, 100),
            raw("late", "a", "p2", 50, 10),
            raw("early", "a", "p3", 10, 10),
        )
    )
    assert [row.span.span_id for row in waterfall.tree(spans).rows] == ["a", "early", "late"]


def test_a_child_that_outlives_its_parent_stays_where_it_was() -> None:
    spans = parse(answer(raw("a", None, "p1", 0, 100), raw("b", "a", "p2", 50, 500)))
    rows = waterfall.tree(spans).rows
    assert (rows[1].offset, rows[1].mark) == (50, "")
    assert waterfall.total(rows) == 550


def test_a_span_whose_parent_has_not_arrived_is_shown_all_the_same() -> None:
    spans = parse(answer(*FOUR[:3]))
    assert not whole(spans)
    assert {row.span.span_id: row.depth for row in waterfall.tree(spans).rows} == {
        "a": 0,
        "b": 1,
        "d": 0,
    }


def test_a_trace_is_whole_when_every_parent_is_there() -> None:
    assert whole(parse(answer(*FOUR)))
    assert not whole([])


def test_an_answer_without_a_trace_has_no_spans() -> None:
    assert parse({"data": None, "errors": [{"code": 404}]}) == []
    assert waterfall.lines(waterfall.tree([]), 80) == []


@pytest.mark.parametrize(
    ("offset", "length", "whole", "expected"),
    [
        (0, 100, 100, "##########"),
        (50, 50, 100, "     #####"),
        (99, 1, 100, "         #"),
        (100, 0, 100, "         #"),
        (0, 1, 100, "#         "),
        (0, 0, 0, "#         "),
    ],
)
def test_a_bar_shows_where_and_how_long_and_is_never_empty(
    offset: int, length: int, whole: int, expected: str
) -> None:
    assert waterfall.bar(offset, length, whole, 10, "#") == expected


def test_the_waterfall_tells_service_operation_side_error_and_duration() -> None:
    lines = waterfall.lines(waterfall.tree(parse(answer(*FOUR))), 100, "#")
    assert "front-proxy" in lines[1]
    assert "op-c (out)" in lines[3]
    assert "ERROR" in lines[4]
    assert lines[4].endswith("4.00 ms")
    assert all(len(line) <= 100 for line in lines)


def test_waiting_ends_when_the_trace_hangs_together_and_nothing_more_comes() -> None:
    spans = parse(answer(*FOUR))
    arriving = [[], spans[1:2], spans[:3], spans]
    now = [0.0]

    def ask() -> list[Span]:
        return arriving.pop(0) if len(arriving) > 1 else arriving[0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    assert stored_spans(ask, 15, clock=lambda: now[0], sleep=sleep) == spans
    assert 3 <= now[0] < 6


def test_waiting_ends_at_the_limit_with_what_there_is() -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    partial = parse(answer(FOUR[0]))
    assert stored_spans(lambda: partial, 15, clock=lambda: now[0], sleep=sleep) == partial
    assert now[0] >= 15
