"""How long an Envoy that is to end is waited for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from plugins.module_utils.envoy_admin import Admin
from plugins.module_utils.envoy_stop import MARGIN_SECONDS, _wait_until_quiet, last_spans_seconds

QUIET = 0.3


class Played(Admin):
    """An Envoy that answers as `served` and `runtime` say."""

    def __init__(self, served: Callable[[], tuple[int, int]], runtime: object = None) -> None:
        super().__init__("")
        self.played, self.runtime = served, runtime

    def served(self) -> tuple[int, int]:
        return self.played()

    def get(self, url: str) -> tuple[int, str]:
        assert url == "/runtime"
        if self.runtime is None:
            raise ConnectionRefusedError
        return 200, json.dumps(self.runtime)


def waited(served: Callable[[], tuple[int, int]], at_most: float = 5) -> float:
    began = time.monotonic()
    _wait_until_quiet(Played(served), QUIET, at_most)
    return time.monotonic() - began


def test_an_idle_one_is_waited_for_as_long_as_a_span_may_wait() -> None:
    assert QUIET <= waited(lambda: (0, 7)) < 2


def test_the_time_begins_anew_with_each_request() -> None:
    began = time.monotonic()

    def served() -> tuple[int, int]:
        passed = time.monotonic() - began
        return 0, int(min(passed, 1.0) * 10)

    assert waited(served) >= 1.0 + QUIET - 0.1


def test_a_request_that_is_under_way_is_waited_for() -> None:
    began = time.monotonic()
    assert waited(lambda: (int(time.monotonic() < began + 1), 1)) >= 1 + QUIET


def test_a_stream_without_an_end_is_not_waited_for_for_ever() -> None:
    assert 1 <= waited(lambda: (1, 1), at_most=1) < 4


@pytest.mark.parametrize(
    ("runtime", "seconds"),
    [
        (None, 5.0),
        ({"entries": {}}, 5.0),
        ({"entries": {"tracing.opentelemetry.flush_interval_ms": {"final_value": "1000"}}}, 5.0),
        (
            {
                "entries": {
                    "tracing.opentelemetry.flush_interval_ms": {"final_value": "1000"},
                    "tracing.zipkin.flush_interval_ms": {"final_value": "700"},
                }
            },
            1.0,
        ),
    ],
)
def test_a_span_waits_as_long_as_the_process_says(runtime: object, seconds: float) -> None:
    assert last_spans_seconds(Played(lambda: (0, 0), runtime)) == seconds + MARGIN_SECONDS
