"""The shop under test; journals are kept when a test fails, as for tests/live."""

from __future__ import annotations

import pytest

from tests.live.conftest import pytest_configure, pytest_terminal_summary, target
from tests.live.target import Target
from tests.live_shop.shop import Shop

__all__ = ["pytest_configure", "pytest_terminal_summary", "shop", "target"]


@pytest.fixture(scope="session")
def shop(target: Target) -> Shop:
    """The shop of the inventory that VMESH_INVENTORY names."""
    return Shop(target)
