"""HotROD under test; journals are kept when a test fails, as for tests/live."""

from tests.live.conftest import pytest_configure, pytest_terminal_summary, target

__all__ = ["pytest_configure", "pytest_terminal_summary", "target"]
