"""The log lines an operator searches by trace id and request id."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from meshtrace import logs

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


@pytest.fixture(autouse=True)
def nobody_served() -> Iterator[None]:
    yield
    logs.serving(())


def line(message: str = "hello", **keys: Any) -> dict[str, Any]:
    """What the formatter makes of a record."""
    record = logging.makeLogRecord({"name": "app", "levelno": 20, "levelname": "INFO"} | keys)
    record.msg = message
    text = logs.JsonFormatter().format(record)
    assert "\n" not in text
    parsed: dict[str, Any] = json.loads(text)
    return parsed


def test_a_line_says_when_how_grave_who_and_what() -> None:
    found = line("hello", created=1767225600.5)
    assert found == {
        "time": "2026-01-01T00:00:00.500Z",
        "level": "info",
        "logger": "app",
        "message": "hello",
    }


def test_a_line_has_the_ids_of_the_request_being_served() -> None:
    logs.serving([("TRACEPARENT", PARENT), ("X-REQUEST-ID", "2e4d")])
    found = line()
    assert (found["trace_id"], found["request_id"]) == (TRACE, "2e4d")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"traceparent": PARENT, "x-b3-traceid": "a" * 32}, TRACE),
        ({"b3": f"{'c' * 32}-{'d' * 16}-1"}, "c" * 32),
        ({"x-b3-traceid": "a" * 16}, "a" * 16),
        ({"x-b3-traceid": "A" * 32}, "a" * 32),
        ({"traceparent": "garbage", "x-b3-traceid": "a" * 32}, "a" * 32),
        ({"b3": "0"}, None),
        ({}, None),
    ],
)
def test_the_trace_id_is_found_in_either_standard(
    headers: dict[str, str], expected: str | None
) -> None:
    assert logs.trace_id(headers.items()) == expected


def test_after_the_request_its_ids_are_gone() -> None:
    logs.serving([("X-REQUEST-ID", "2e4d")])
    logs.serving(())
    assert "request_id" not in line()


def test_extra_keys_are_added_and_cannot_replace_the_ids() -> None:
    logs.serving([("X-REQUEST-ID", "2e4d")])
    found = line(status=200, request_id="forged", odd=object)
    assert (found["status"], found["request_id"]) == (200, "2e4d")
    assert "object" in found["odd"]


def test_an_exception_stays_in_its_line() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        found = line(exc_info=(ValueError, error, error.__traceback__))
    assert "ValueError: two\nlines" in found["exception"]


def test_journald_gets_the_priority() -> None:
    record = logging.makeLogRecord({"levelno": logging.ERROR, "levelname": "ERROR"})
    assert logs.JsonFormatter(priority_prefix=True).format(record).startswith("<3>{")
