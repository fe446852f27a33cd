"""`./mesh certs verify` and `revoke` by the real playbooks and modules; the hosts have no mesh.

Nothing on this machine is changed: it has neither the identities nor the users of such proxies.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.unit.cli.test_cli_certs import place, run  # noqa: F401 - a fixture
from tests.unit.cli.test_cli_certs_changes import applied


@pytest.fixture(autouse=True)
def _records(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VMESH_APPLIED", str(tmp_path / "applied"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")


def test_hosts_tell_what_they_found(
    place: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(place, "front", "stock", what="verify") == 1
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("front on web")]) == 4
    assert [line for line in lines if "front on web1 has no identity to show" in line]
    assert [line for line in lines if "identity.json" in line and "-> run site.yml" in line]


def test_who_could_not_be_changed_may_still_trust(
    place: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    applied(place)
    assert run(place, "store1", what="revoke", now=True) == 1
    said = capsys.readouterr().out
    assert "The group envoy-shop does not exist" in said
    assert "may still trust store1. Run this again." in said
    assert "refuse store1 now" not in said
