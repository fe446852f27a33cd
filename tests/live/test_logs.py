"""A person who has a trace id finds the request in every log on its way."""

from __future__ import annotations

import json
from typing import Any

from bench.live.waiting import until
from tests.live.target import Target, Vm


def entries(vm: Vm, unit: str, trace_id: str) -> list[dict[str, Any]]:
    """Return the JSON lines of a unit's journal that carry the trace id."""
    lines = vm.run(
        "journalctl --boot --unit %s --output cat --lines 3000 --no-pager | grep -F %s || true",
        unit,
        trace_id,
    )
    found = [json.loads(line) for line in lines.splitlines()]
    return [entry for entry in found if entry.get("trace_id") == trace_id]


def test_logs_of_every_hop_carry_the_request_s_ids(target: Target) -> None:
    trace_id = str(target.get("/trace/1").header("x-trace-id"))
    logs = {}
    for unit, proxy, count in (
        ("envoy@front-proxy.service", "front-proxy", 1),
        ("envoy@service1.service", "service1", 2),  # what came in, and what its app asked for
        ("flask@service1.service", "service1", 1),
        ("envoy@service2.service", "service2", 1),
        ("flask@service2.service", "service2", 1),
    ):
        vm = target.vm_of(proxy)

        def complete(vm: Vm = vm, unit: str = unit, count: int = count) -> list[dict[str, Any]]:
            found = entries(vm, unit, trace_id)
            assert len(found) >= count, f"{len(found)} of {count} lines"
            return found

        logs[unit] = until(f"trace {trace_id} in the journal of {unit}", complete, 30)
        assert len(logs[unit]) == count, logs[unit]
    assert len({entry["request_id"] for lines in logs.values() for entry in lines}) == 1
    for unit, lines in logs.items():
        if unit.startswith("envoy@"):
            for line in lines:
                assert line["status"] == 200
                assert line["duration_ms"] >= 0
                assert line["upstream"]
                assert "flags" in line
