"""The mesh under test, and what is kept when a test fails."""

from __future__ import annotations

import pytest

from tests.live import journals
from tests.live.target import Target, inventory_path


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "side_effect: stops, kills or breaks something, and sees it come back"
    )


@pytest.fixture(scope="session")
def target() -> Target:
    """The mesh of the inventory that VMESH_INVENTORY names (default: inventory/lab)."""
    return Target(inventory_path())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Keep the VMs' journals when something failed, and say where."""
    if terminalreporter.stats.get("failed") or terminalreporter.stats.get("error"):
        terminalreporter.section("journals")
        for line in journals.collect(inventory_path()):
            terminalreporter.write_line(line)
