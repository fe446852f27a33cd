"""One request orders a ride, and its trace holds the Envoys' spans and the programs' own."""

from __future__ import annotations

import json

import pytest

from bench.live.waiting import until
from bench.live.web import Reply
from tests.live.target import Target
from tests.live_hotrod.ride import DRIVERS, expected, mistakes

CUSTOMER = "/dispatch?customer=123"


@pytest.fixture(scope="module")
def ride(target: Target) -> Reply:
    """The first ride that is granted: on a cold VM, too, the driver gets one second."""

    def order() -> Reply | None:
        reply = target.get(CUSTOMER)
        assert reply.status == 200, f"{reply.status}: {reply.body}"
        return reply

    found = until("a ride", order, 120.0)
    assert found is not None
    return found


def test_a_ride_is_granted(ride: Reply) -> None:
    told = json.loads(ride.body)
    assert told["Driver"].startswith("T7")
    assert told["ETA"] > 0
    assert ride.header("server") == "envoy"


def test_envoys_spans_and_the_programs_own_are_one_trace_with_the_right_parents(
    target: Target, ride: Reply
) -> None:
    trace = ride.header("x-trace-id")
    assert trace is not None
    # The program tells of the same trace.
    assert str(ride.header("traceresponse")).startswith(f"00-{trace}-")
    sizes = {trace: len(expected().flat()) + DRIVERS}
    assert mistakes(target.jaeger.settled(sizes)[trace]) == ""


def test_the_programs_figures_are_not_for_those_who_ride(target: Target) -> None:
    assert target.get("/").status == 200
    assert [target.get(path).status for path in ("/metrics", "/debug/vars")] == [404, 404]
