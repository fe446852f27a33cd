"""A killed run leaves every host serving; what was changed by hand is found and repaired."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.change_accidents import interrupted, still_different
from bench.change_report import Row
from bench.change_world import World

pytestmark = pytest.mark.side_effect

Passes = Callable[[Callable[[World], Row]], Row]


def test_killed_runs_leave_all_serving_and_the_next_one_converges_and_repairs(
    passes: Passes,
) -> None:
    assert passes(lambda world: interrupted(world, 3, by_hand=True)).failed == 0


def test_nothing_is_left_to_do(world: World) -> None:
    assert still_different(world) == []
