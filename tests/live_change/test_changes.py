"""What an operator changes: no request fails, and streams last. Each starts where the last ended.

The tests are in the order in which they run: a change that comes next is the way back of the one
before, or goes on from it. Changes that do not hide each other's effect share a run, as a run takes
a while; `./mesh bench change` makes each alone.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench import change_accidents as accidents
from bench import change_edits as edits
from bench import change_identities as identities
from bench.change_report import Row
from bench.change_world import HELLO, World
from tests.live import wire
from tests.live.target import Target

pytestmark = pytest.mark.side_effect

Passes = Callable[[Callable[[World], Row]], Row]

# Of a request, of what the Envoys add to it, and of its answer.
OF_A_REQUEST = (HELLO, "traceparent: ", "x-request-id: ", "HTTP/1.1 200 OK")
WATCHED_SECONDS = 10.0


def seen_on_the_network(target: Target) -> list[str]:
    """Return what of OF_A_REQUEST passes a service's host while the edge is asked."""
    called, edge = target.vm_of("streams"), target.vm_of(target.edge.name)
    program = base64.b64encode(Path(wire.__file__).read_bytes()).decode()
    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(
            called.run,
            "python3 -c %s %s %s " + " ".join(["%s"] * len(OF_A_REQUEST)),
            f"import base64; exec(base64.b64decode('{program}'))",
            str(WATCHED_SECONDS),
            edge.plan.address,
            *OF_A_REQUEST,
        )
        asked = 0
        while not watching.done():
            asked += target.get(HELLO).status == 200
            time.sleep(0.2)
        seen = json.loads(watching.result())
    assert seen["packets"] >= asked > 0
    return list(seen["found"])


def test_routes_timeouts_weights_and_a_replica_less_touch_no_stream(passes: Passes) -> None:
    row = passes(lambda world: edits.applied(world, edits.routes, edits.replica_removed))
    assert row.streams.survived == row.streams.all > 0
    assert row.served is not None
    assert row.served < row.seconds
    assert row.spans_lost == 0


def test_replica_more_bootstrap_and_jaeger_s_settings_and_lost_spans_are_counted(
    passes: Passes,
) -> None:
    chosen = (edits.replica_added, edits.bootstrap_beside, edits.jaeger_settings)
    row = passes(lambda world: edits.applied(world, *chosen))
    # The old Envoys serve them out; the drain time is longer than this.
    assert row.streams.survived == row.streams.all > 0
    assert row.spans is not None
    assert row.spans_lost is not None
    print(f"{row.spans_lost} of {row.spans} spans lost")


def test_envoy_is_upgraded(passes: Passes) -> None:
    row = passes(lambda world: edits.applied(world, edits.envoy_upgraded))
    assert row.streams.survived == row.streams.all > 0
    assert row.spans_lost == 0


def test_envoy_is_rolled_back(passes: Passes) -> None:
    row = passes(edits.envoy_back)
    assert row.streams.survived == row.streams.all > 0
    assert row.spans_lost == 0


def test_apps_are_released_one_instance_at_a_time_and_long_requests_end_well(
    passes: Passes,
) -> None:
    row = passes(lambda world: edits.applied(world, edits.release))
    assert row.spans_lost == 0


def test_one_app_is_rolled_back(passes: Passes) -> None:
    assert passes(edits.release_back).spans_lost == 0


def test_in_plaintext_requests_can_be_read_on_the_network(target: Target) -> None:
    """So that the test below proves something."""
    assert seen_on_the_network(target) == sorted(OF_A_REQUEST)


def test_mesh_goes_from_plaintext_to_strict_mtls_and_its_hosts_get_a_firewall(
    passes: Passes,
) -> None:
    passes(lambda world: edits.applied(world, edits.strict, edits.walled))


def test_with_mtls_nothing_of_a_request_can_be_read_on_the_network(target: Target) -> None:
    assert seen_on_the_network(target) == []


def test_hosts_get_other_anchors(passes: Passes) -> None:
    row = passes(identities.rolled_over)
    assert row.streams.survived == row.streams.all > 0


def test_a_revoked_host_is_refused_at_once_and_trusted_again(passes: Passes) -> None:
    passes(identities.revoked)


def test_killed_processes_cost_at_most_what_was_in_flight(passes: Passes) -> None:
    passes(lambda world: accidents.killed(world, edits.ENVOY_UNIT, edits.APP_UNIT))


def test_vanished_vm_is_left_out_and_comes_back(passes: Passes) -> None:
    passes(accidents.vm_vanished)


def test_rebooted_vm_is_left_out_and_comes_back(passes: Passes) -> None:
    passes(accidents.vm_rebooted)


def test_mesh_goes_back_from_mtls_to_plaintext(passes: Passes) -> None:
    passes(lambda world: edits.applied(world, edits.unsecured))
