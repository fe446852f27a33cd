"""`./mesh remove` leaves VMs as they were before vmesh came.

molecule/default/prepare.yml notes what is on them then.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

from bench.live.remote import run_as_root
from tests.live.target import Target, inventory_path
from tests.live_foreign import room
from vmesh.base import paths

PROGRAM = Path(room.__file__).read_text()
# Of Ansible's and of the tests' own.
OTHERS = ("/etc/.updated", "/etc/resolv.conf")


def mesh_remove(*arguments: str) -> subprocess.CompletedProcess[str]:
    own = {k: v for k, v in os.environ.items() if not k.startswith(("ANSIBLE_", "MOLECULE_"))}
    return subprocess.run(
        [sys.executable, "-P", "-m", "vmesh", "remove", "-i", str(inventory_path()), *arguments],
        cwd=paths.PROJECT,
        env={**own, "PYTHONPATH": str(paths.PROJECT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def differences(target: Target, host: str) -> list[str]:
    """Return in what a VM differs from how it was before vmesh came."""
    command = f"/usr/bin/python3 -c {shlex.quote(PROGRAM)} compare-bare"
    told = json.loads(run_as_root(host, target.mesh.variables(host), command))
    return [each for each in told if not each.endswith(OTHERS)]


def test_nothing_is_removed_without_a_yes_or_by_a_check(target: Target) -> None:
    before = {host: differences(target, host) for host in target.mesh.spec.hosts}
    assert all(before.values())
    refused = mesh_remove()
    assert refused.returncode == 2, refused.stderr
    assert "--yes" in refused.stderr
    checked = mesh_remove("--check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert {host: differences(target, host) for host in target.mesh.spec.hosts} == before


def test_all_vms_are_as_they_were_before(target: Target) -> None:
    done = mesh_remove("--yes", "--traces")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {host: differences(target, host) for host in target.mesh.spec.hosts} == {
        host: [] for host in target.mesh.spec.hosts
    }
    again = mesh_remove("--yes", "--traces")
    assert again.returncode == 0, again.stdout + again.stderr
