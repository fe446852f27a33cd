"""The mesh that is removed: that of the inventory which VMESH_INVENTORY names."""

from tests.live.conftest import pytest_configure, target

__all__ = ["pytest_configure", "target"]
