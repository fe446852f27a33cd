"""What must not get through: users keep the old state, and the run says why it did not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench import change_faults as faults
from bench.change_accidents import still_different
from bench.change_report import Row
from bench.change_world import World

pytestmark = pytest.mark.side_effect

Passes = Callable[[Callable[[World], Row]], Row]


def test_refused_configuration_full_disk_and_crashing_app_reach_no_user(passes: Passes) -> None:
    row = passes(
        lambda world: faults.attempted(
            world, faults.port_taken, faults.disk_full, faults.app_crashes
        )
    )
    assert row.failed == 0


def test_bad_route_is_taken_back_dying_envoy_and_sick_app_reach_no_user(passes: Passes) -> None:
    row = passes(
        lambda world: faults.attempted(
            world, faults.route_too_short, faults.envoy_dies, faults.app_sick
        )
    )
    # Without a failed answer nobody could have found out.
    assert row.failed > 0


def test_app_that_answers_500_is_taken_back_from_its_canary(passes: Passes) -> None:
    assert passes(lambda world: faults.attempted(world, faults.app_fails)).failed > 0


def test_nothing_is_left_half_done(world: World) -> None:
    assert still_different(world) == []
