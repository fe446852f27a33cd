"""An edge that leaves takes its certificate, its keys and its timer along."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugins.module_utils.leave import leave
from plugins.module_utils.snapshots import capture
from plugins.module_utils.uninstall import uninstall
from tests.unit.mesh.played import Host

TIMER = "vmesh-acme@front.timer"
KEY = "var/lib/vmesh-acme/front/account.key"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    host = Host(tmp_path)
    for unit in ("envoy@.service", "vmesh-acme@.service", "vmesh-acme@.timer"):
        host.write(f"etc/systemd/system/{unit}", "# Written by the role envoy.\n[Unit]\n")
    host.write("etc/envoy/front/bootstrap.json", "{}")
    host.write("etc/envoy/front/acme.json", "{}")
    host.write(KEY, "a key")
    host.write("usr/local/bin/vmesh-acme", "#!/bin/sh\n# for the role envoy: orders\n", 0o755)
    host.systemd._do("enable", [TIMER])
    host.systemd._do("start", [TIMER])
    return host


def test_an_edge_that_leaves_takes_its_keys_and_its_timer_along(host: Host) -> None:
    host.write("var/lib/vmesh-acme/other/account.key", "of another edge")
    assert leave(host.machine, ["envoy@front"], 0) == []
    timer = host.systemd.units[TIMER]
    assert (timer.active, timer.enabled) == ("inactive", False)
    assert not (host.root / KEY).parent.exists()
    assert (host.root / "var/lib/vmesh-acme/other/account.key").exists()


def test_nothing_stays_on_a_host_that_leaves(host: Host) -> None:
    found = uninstall(host.machine, traces=True, drain_seconds=0)
    assert "/var/lib/vmesh-acme" in found["removed"]
    assert [path for path in host.root.rglob("*") if path.is_file()] == []


def test_no_snapshot_has_a_key_or_a_certificate(host: Host) -> None:
    kept = capture(host.root, host.systemd)["files"]
    assert "etc/envoy/front/acme.json" in kept
    assert not [path for path in kept if path.startswith("var/lib")]
