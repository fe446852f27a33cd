"""A running mesh of the previous release is taken over by this one, under load.

The previous release is a commit of this repository. Its files are unpacked from the history, and
its own site.yml brings the mesh up; then this checkout's site.yml runs on the same hosts.
"""

from __future__ import annotations

import subprocess
import tarfile
import tempfile
from pathlib import Path

from bench.change_edits import LONG_SECONDS, in_order
from bench.change_measure import measured
from bench.change_report import Row
from bench.change_world import World, environment
from vmesh.base import paths
from vmesh.base.exits import CliError
from vmesh.base.progress import Plain, new_log
from vmesh.lab import Lab
from vmesh.remote import playbook
from vmesh.rollout import record

# The last commit before version 0.1.0. A release that follows puts its own predecessor here.
PREVIOUS = "352de1425aec6c1be85e7bd230bd5b834c8e0ad9"


class NoHistory(CliError):  # noqa: N818 - says what is missing
    """This checkout's history does not have the previous release."""

    def __init__(self) -> None:
        super().__init__(
            f"The previous release {PREVIOUS[:7]} is not in this checkout's history. Fetch it:"
            " git fetch --unshallow"
        )


def unpack(folder: Path) -> Path:
    """Write the files of the previous release below `folder`; return their root.

    Raises NoHistory.
    """
    archive = folder / "previous.tar"
    command = ["git", "archive", f"--output={archive}", PREVIOUS]
    if subprocess.run(command, cwd=paths.PROJECT, capture_output=True, check=False).returncode:
        raise NoHistory
    root = folder / "previous"
    with tarfile.open(archive) as files:
        files.extractall(root, filter="data")
    archive.unlink()
    return root


def bring_up_previous(world: World) -> None:
    """Apply the world's inventory by the previous release's site.yml, on VMs that run.

    What it applied is recorded where this checkout looks for it, as after an upgrade in place.
    Raises NoHistory, and CliError when the run fails.
    """
    with tempfile.TemporaryDirectory(prefix="vmesh-previous-") as folder:
        root = unpack(Path(folder))
        log = new_log("bench-previous")
        # Nothing of this checkout may be imported there: no callback of it, no search path.
        own = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
        own |= {
            "ANSIBLE_CONFIG": str(root / "ansible.cfg"),
            "ANSIBLE_STRATEGY": "mitogen_linear",
            "ANSIBLE_STRATEGY_PLUGINS": str(playbook.mitogen_strategies()),
            "VMESH_APPLIED": str(record.applied()),
        }
        with log.open("wb") as output:
            done = subprocess.run(
                ["ansible-playbook", "site.yml", "-i", str(world.place)],
                cwd=root,
                env=own,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
    world.say(f"  site.yml of the previous release: exit code {done.returncode}, log {log}")
    if done.returncode:
        raise CliError(f"The previous release does not bring the mesh up; see {log}")


def upgraded(world: World) -> Row:
    """Run this checkout's site.yml on a mesh of the previous release."""
    with measured(world, "upgrade from the previous release", long=LONG_SECONDS) as measure:
        measure.took(world.site())
    in_order(measure)
    kit = "readlink /opt/vmesh/current"
    for host in world.hosts:
        measure.expect(world.ssh(host, kit).strip(), f"{host} has no release of /opt/vmesh")
        left = world.ssh(host, "find /etc/envoy -name '*.yaml'").split()
        measure.expect(not left, f"{host} still has the files {left}")
    return measure.row()


def upgrade(world: World) -> Row:
    """Make the lab's VMs anew, bring up the previous release there, and upgrade it."""
    lab = Lab.from_inventory(world.base.inventory)
    lab.down(Plain(), purge=True)
    lab.up(Plain())
    for host in world.hosts:
        world.forget(host)
    bring_up_previous(world)
    return upgraded(world)
