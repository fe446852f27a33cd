"""The mesh that is changed; journals are kept when a test fails, as for tests/live."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from bench import change_layers as layers
from bench.change_edits import OLD_ENVOY
from bench.change_report import Row
from bench.change_world import World
from tests.live.conftest import pytest_configure, pytest_terminal_summary, target
from tests.live.target import inventory_path, results_dir

__all__ = ["passes", "pytest_configure", "pytest_terminal_summary", "target", "world"]

Change = Callable[[World], Row]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The mesh of the inventory that VMESH_INVENTORY names, to be changed."""
    return World(inventory_path(), tmp_path_factory.mktemp("change"), start=layers.envoy(OLD_ENVOY))


@pytest.fixture(scope="session")
def passes(world: World) -> Callable[[Change], Row]:
    """A function that makes a change and sees that it went as promised.

    The figures of all are kept in test-results/change.json.
    """
    rows: list[Row] = []
    results_dir().mkdir(parents=True, exist_ok=True)

    def see(change: Change) -> Row:
        row = change(world)
        rows.append(row)
        told = json.dumps([each.as_dict() for each in rows], indent=1, ensure_ascii=False)
        (results_dir() / "change.json").write_text(told + "\n")
        assert row.requests > 0
        assert not row.problems, row.told()
        assert row.failed <= row.allowed, row.told()
        return row

    return see
