"""What is killed comes back by itself, and no earlier trace is lost."""

from __future__ import annotations

import http.client

import pytest

from bench.live.waiting import until
from tests.live.spans import difference, expected
from tests.live.target import Target, Vm

pytestmark = pytest.mark.side_effect

SPANS = 4


def traced_request(target: Target) -> str:
    """Send a request; return its trace id once the whole trace is in Jaeger."""
    reply = target.get("/trace/1")
    assert reply.status == 200
    trace_id = str(reply.header("x-trace-id"))
    target.jaeger.stored(trace_id, SPANS)
    return trace_id


def assert_kept(target: Target, trace_id: str) -> None:
    """See that an earlier trace is still there, whole."""
    wanted = expected(target.mesh.spec.mesh, target.edge, "/trace/1", calls=True)
    assert difference(target.jaeger.spans(trace_id), wanted) == ""


def main_process(vm: Vm, unit: str) -> int:
    return int(vm.run("systemctl show --property=MainPID --value %s", unit))


@pytest.mark.parametrize(
    ("unit", "proxy"),
    [
        ("envoy@front-proxy.service", "front-proxy"),
        ("envoy@service1.service", "service1"),
        ("flask@service1.service", "service1"),
    ],
)
def test_killed_process_is_replaced_and_answers(target: Target, unit: str, proxy: str) -> None:
    vm = target.vm_of(proxy)
    trace_id = traced_request(target)
    killed = main_process(vm, unit)
    assert killed > 1
    vm.run(f"kill -9 {killed}")

    def replaced() -> bool:
        return main_process(vm, unit) not in (0, killed)

    until(f"a new process of {unit}", replaced, 60)
    until("an answer through all services", lambda: target.get("/trace/1").status == 200, 60)
    assert_kept(target, trace_id)
    traced_request(target)


def test_reboot_of_jaeger_s_vm_loses_no_trace_and_no_request(target: Target) -> None:
    vm = target.vm_of("jaeger")
    trace_id = traced_request(target)
    boot = vm.run("cat /proc/sys/kernel/random/boot_id")
    # In two seconds, so that this ssh call ends in good order.
    vm.run("systemd-run --quiet --on-active=2 systemctl reboot")

    def gone() -> bool:
        try:
            target.jaeger.services(timeout=5)
        except (OSError, http.client.HTTPException, AssertionError):
            return True
        return False

    until("Jaeger's end", gone, 90, pause=0.3)
    assert target.get("/trace/1").status == 200  # tracing is down, the services are not
    vm.forget_connection()
    until("Jaeger's web pages", lambda: target.jaeger.services(timeout=10), 420)
    assert vm.run("cat /proc/sys/kernel/random/boot_id") != boot
    assert_kept(target, trace_id)
    until("spans of new requests", lambda: traced_request(target), 150)
