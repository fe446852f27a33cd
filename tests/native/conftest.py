"""The real Envoy, natively, on loopback addresses."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmesh.artifacts import envoy_binary


@pytest.fixture(scope="session")
def envoy() -> Path:
    return envoy_binary()
