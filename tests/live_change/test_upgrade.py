"""A mesh of the previous release is taken over by this one. It needs VMs without a mesh."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench import change_upgrade
from bench.change_report import Row
from bench.change_world import World

pytestmark = pytest.mark.side_effect


def test_a_running_mesh_is_upgraded_and_no_request_fails(
    world: World, passes: Callable[[Callable[[World], Row]], Row]
) -> None:
    try:
        change_upgrade.bring_up_previous(world)
    except change_upgrade.NoHistory as reason:
        change = world.site()
        assert change.code == 0, change.reason
        pytest.skip(f"{reason}; this release was installed on bare VMs instead")
    row = passes(change_upgrade.upgraded)
    # Through the apps they end in order after `grace`, as the apps' unit has changed since.
    assert row.streams.all > 0
    again = world.site()
    assert again.code == 0, again.reason
    assert not again.changed
