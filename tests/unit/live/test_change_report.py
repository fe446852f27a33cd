from __future__ import annotations

from typing import Any

import pytest

from bench import change_report as report
from bench.change_measure import says
from bench.change_report import Row, Streams
from bench.load import Outcome, StreamResult, Verdict
from bench.load.report import build


def event(kind: str, at: float = 0.0, host: str = "", task: str = "") -> dict[str, Any]:
    return {"event": kind, "at": at, "host": host, "task": task, "name": task}


def row(name: str = "a change", **values: Any) -> Row:
    given: dict[str, Any] = {"requests": 100, "failed": 0, "retried": 0, "seconds": 10.0}
    return Row(name, **(given | values))


def outcome(due: float, error: str | None = None) -> Outcome:
    return Outcome("/a", "kept-alive", due, sent=due, seconds=0.5, status=200, error=error)


def test_what_several_clients_saw_is_added_up() -> None:
    one = build("one", [outcome(1), outcome(2, "status 503")], 1.0, (0.0, 4.0), 0)
    other = build("other", [outcome(1)], 1.0, (0.0, 4.0), 0)
    found = report.counted([one, other])
    assert (found["requests"], found["failed"]) == (3, 1)
    assert found["failures"] == ("2.0 s, /a, kept-alive: status 503",)


def test_a_request_that_nobody_ever_answered_has_failed() -> None:
    found = report.counted([build("one", [outcome(1)], 1.0, (0.0, 4.0), 2)])
    assert (found["requests"], found["failed"]) == (3, 2)


def test_streams_are_counted_by_their_ends() -> None:
    ended = [
        StreamResult("websocket", "x", verdict, "", 1.0, 1, 1, None)
        for verdict in (Verdict.SURVIVED, Verdict.CLOSED, Verdict.BROKEN, Verdict.OPEN)
    ]
    assert report.ends(ended) == Streams(survived=2, closed=1, broken=1)


def test_skipped_tasks_are_no_executions() -> None:
    events = [
        event("ok", host="one"),
        event("changed", host="one"),
        event("skipped", host="one"),
        event("failed", host="two"),
        event("task", task="x"),
    ]
    assert report.executions(events) == {"one": 2, "two": 1}


def test_windows_go_from_the_first_task_s_beginning_to_the_last_one_s_end() -> None:
    events = [
        event("task", 10, task="role : leave"),
        event("ok", 12, "one", "role : leave"),
        event("task", 13, task="role : return"),
        event("ok", 15, "one", "role : return"),
        event("task", 20, task="role : leave"),
        event("ok", 21, "two", "role : leave"),
    ]
    assert report.windows(events, "leave", "return") == {"one": (10, 15)}


def test_windows_that_overlap_are_told() -> None:
    assert report.overlapping({"one": (1, 5), "two": (5, 9)}) == []
    assert report.overlapping({"one": (1, 5), "two": (4, 9), "three": (9, 10)}) == ["one and two"]


def test_missing_spans_are_counted_and_surplus_ones_are_not() -> None:
    assert report.lost({"a": 4, "b": 4, "c": 2}, {"a": 4, "b": 1, "c": 3}) == 3
    assert report.lost({"a": 4}, {}) == 4


def test_bounds_grow_with_the_rate() -> None:
    assert report.in_flight(3.0, 0.5) == 3
    assert report.in_flight(30.0, 0.5) == 16
    assert report.before_ejection(3.0, 2.0, 2, 2.0) == 18


@pytest.mark.parametrize(
    ("values", "passed"),
    [
        ({}, True),
        ({"failed": 1}, False),
        ({"failed": 3, "allowed": 3}, True),
        ({"failed": 4, "allowed": 3}, False),
        ({"problems": ("something",)}, False),
        ({"requests": 0}, False),
    ],
)
def test_a_row_passes_when_all_is_as_promised(values: dict[str, Any], passed: bool) -> None:
    assert row(**values).passed is passed


def test_what_is_told_names_every_failure_and_problem() -> None:
    told = row(
        failed=1, failures=("2 s: status 503",), problems=("half done on one",), served=3.0
    ).told()
    assert "status 503" in told
    assert "half done on one" in told
    assert "served after 3.0 s" in told


def test_rows_of_a_name_are_summed_up_in_their_order() -> None:
    rows = [
        row("b", seconds=10.0, executions={"one": 3}, streams=Streams(survived=4), spans=8,
            spans_lost=1),
        row("a", failed=2, allowed=5),
        row("b", seconds=20.0, executions={"one": 5, "two": 1}, streams=Streams(3, 1), spans=8,
            spans_lost=0),
    ]  # fmt: skip
    first, second = report.summaries(rows)
    assert (first["row"], first["times"], first["requests"], first["seconds"]) == ("b", 2, 200, 15)
    assert first["executions"] == {"one": 4, "two": 0}
    assert first["streams"] == {"survived": 7, "closed": 1, "broken": 0}
    assert (first["spans"], first["spans_lost"]) == (16, 1)
    assert (second["failed_at_most"], second["allowed"], second["spans_lost"]) == (2, 5, None)


def test_the_table_has_a_line_for_each_name_and_says_what_may_fail() -> None:
    lines = report.table(report.summaries([row("b"), row("a", failed=2, allowed=5)])).splitlines()
    assert [line.count("|") for line in lines] == [10] * 4
    assert lines[2].startswith("| b | 1 | 100 | 0 |")
    assert "2 (at most 2 at once, 5 allowed)" in lines[3]


def test_only_the_whole_answer_is_the_expected_one() -> None:
    right = b'{"service": "streams", "upstream": {"service": "streams-back"}}'
    assert says("streams")(right)
    assert says("streams-back")(b'{"service":"streams-back"}')
    for wrong in (b'{"service": "streams"}', b'{"service": "other"}', b"ok", b"[]"):
        assert not says("streams")(wrong)
