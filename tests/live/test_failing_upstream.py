"""service2's app stops or hangs: its caller says so in a sentence, and the trace shows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bench.live.waiting import until
from bench.live.web import Reply
from tests.live.target import Target, Vm
from vmesh.traces.span import Span

pytestmark = pytest.mark.side_effect

UNITS = "flask@service2.socket flask@service2.service"


@contextmanager
def without(target: Target, vm: Vm, harm: str, remedy: str) -> Iterator[None]:
    """Do `harm` on the VM; whatever happens then, do `remedy` and see all answer again."""
    vm.run(harm)
    try:
        yield
    finally:
        vm.run(remedy)
        until("service2 again", lambda: target.get("/trace/1").status == 200, 60)


def failed_calls(target: Target, reply: Reply) -> list[Span]:
    """Return the spans of service1's call that are marked as errors."""
    trace_id = str(reply.header("x-trace-id"))
    spans = target.jaeger.settled({trace_id: 3})[trace_id]
    assert {span.service for span in spans} >= {"front-proxy", "service1"}
    return [s for s in spans if s.service == "service1" and s.kind == "client" and s.error]


def assert_sentence(reply: Reply) -> None:
    """See that the client gets one sentence and nothing of the app's insides."""
    assert reply.body.startswith("Sorry, service 2 ")
    assert reply.body.endswith(".\n")
    assert reply.body.count("\n") == 1
    assert "Traceback" not in reply.body


def test_stopped_upstream_is_a_502_and_an_error_in_the_trace(target: Target) -> None:
    vm = target.vm_of("service2")
    with without(target, vm, f"systemctl stop {UNITS}", f"systemctl start {UNITS}"):
        reply = target.get("/trace/1")
        assert target.get("/service/1").status == 200
    assert reply.status == 502
    assert_sentence(reply)
    assert failed_calls(target, reply)


def test_hanging_upstream_is_a_504_and_an_error_in_the_trace(target: Target) -> None:
    vm = target.vm_of("service2")
    kill = "systemctl kill --kill-whom=all --signal={} flask@service2.service"
    with without(target, vm, kill.format("STOP"), kill.format("CONT")):
        reply = target.get("/trace/1")
    assert reply.status == 504
    assert_sentence(reply)
    assert failed_calls(target, reply)
