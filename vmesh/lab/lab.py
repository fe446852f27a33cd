"""All VMs of a lab: the commands up, down, pause and resume, and the checks before `up`.

How a VM comes up is in `vmesh.lab.up`.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from vmesh.base import paths
from vmesh.base.problems import Problem, Problems
from vmesh.base.progress import Progress
from vmesh.lab.files import locked, private_folder
from vmesh.lab.image import Image, image_key, recipe
from vmesh.lab.machine import Machine
from vmesh.lab.preflight import (
    DISK_MB,
    IMAGE_MB,
    OVERHEAD_MB,
    STATE_MB,
    Needs,
    decide,
    survey,
)
from vmesh.lab.qmp import QmpError
from vmesh.lab.spec import InventoryLike, LabSpec, VmSpec, lab_spec
from vmesh.lab.ssh import Access, Unreachable, run_on, set_clock
from vmesh.lab.together import on_each
from vmesh.lab.up import Up


@dataclass(frozen=True)
class VmStatus:
    """What a VM is doing."""

    status: str  # running, paused, saved, stopped, absent
    ssh_port: int
    mesh_address: str


class Lab:
    """The VMs of one inventory's group `lab`, in `folder`, with `cache` shared by all labs."""

    def __init__(self, spec: LabSpec, folder: Path, cache: Path) -> None:
        self.spec = spec
        self.folder = folder.absolute()
        self.cache = cache.absolute()
        self.access = Access(paths.lab_key(), self.cache / "known_hosts")

    @classmethod
    def from_inventory(cls, inventory: InventoryLike) -> Self:
        """Return the lab that `inventory` describes. Raises Problems."""
        spec = lab_spec(inventory)
        return cls(spec, paths.state_dir() / "labs" / spec.name, paths.cache_dir() / "lab")

    def machines(self) -> list[Machine]:
        return [Machine(vm, self.folder / "vms" / vm.name) for vm in self.spec.vms]

    def leftovers(self) -> list[Machine]:
        """Return the VMs of this lab that the inventory does not name any more."""
        known = {vm.name for vm in self.spec.vms}
        return [
            Machine(VmSpec(folder.name, "", 0, ()), folder)
            for folder in sorted((self.folder / "vms").glob("*/"))
            if folder.name not in known
        ]

    def status(self) -> dict[str, VmStatus]:
        """Return what each VM is doing."""
        return {
            machine.spec.name: VmStatus(
                machine.status(), machine.spec.ssh_port, machine.spec.mesh_address
            )
            for machine in self.machines()
        }

    def preflight(self) -> list[Problem]:
        """Return everything on this machine that stands in the way of `up`."""
        return [*self._missing_apps(), *self._unready()]

    def _missing_apps(self) -> list[Problem]:
        return [
            Problem(
                "lab_apps",
                app,
                "is not there",
                f"Name a playbook; a relative path begins at {paths.PROJECT}",
            )
            for app in self.spec.apps
            if not (paths.PROJECT / app).is_file()
        ]

    def _unready(self) -> list[Problem]:
        machines = self.machines()
        running = frozenset(pid for machine in machines if (pid := machine.pid()) is not None)
        to_start = [machine for machine in machines if machine.pid() is None]
        if not to_start:
            return []
        needs = self._needs(to_start)
        problems = decide(needs, survey(needs, running))
        for machine in to_start:
            key = machine.image_key
            if key and not key.startswith(f"{self.spec.suite}-"):
                problems.append(
                    Problem(
                        "lab_suite",
                        self.spec.suite,
                        f"the disk of {machine.spec.name} holds {key.split('-')[0]}",
                        "Remove the lab's disks first (down --purge), or change lab_suite back.",
                    )
                )
        return problems

    def _needs(self, to_start: list[Machine]) -> Needs:
        new = [machine for machine in to_start if not machine.image_key]
        image = Image(
            self.cache / "images" / image_key(self.spec.suite, self.spec.disk_gb, recipe())
        )
        cache_mb = 0
        if new and not image.complete():
            # A new image also means new kept states.
            cache_mb = IMAGE_MB + STATE_MB * len(new)
        return Needs(
            forwards=[forward for machine in to_start for forward in machine.spec.forwards],
            network_port=self.spec.network_port,
            memory_mb=sum(m.spec.memory_mb + OVERHEAD_MB for m in to_start),
            disk_mb={
                str(self.folder): sum(DISK_MB + machine.spec.memory_mb for machine in new),
                str(self.cache): cache_mb,
            },
        )

    # -- the commands

    def up(self, progress: Progress) -> dict[str, bool]:
        """Bring every VM to where ssh answers. Return by name whether anything was done to it.

        A VM that runs is left alone. Raises Problems when this machine cannot
        hold the lab, LabError when a VM does not come up, CommandFailed when
        the image cannot be made.
        """
        with self._locked(progress):
            problems = self.preflight()
            if problems:
                raise Problems(problems)
            up = Up(self.spec, self.folder, self.cache, self.access, progress)
            return up.run(self.machines())

    def down(self, progress: Progress, *, purge: bool = False) -> dict[str, bool]:
        """Stop every VM, each with its memory saved into its disk; with `purge`, for good.

        Return by name whether it ran. Raises LabError.
        """
        with self._locked(progress):
            machines = [*self.machines(), *self.leftovers()]
            stopped = on_each(machines, lambda machine: self._stop(machine, progress, purge))
            if purge:
                stopped = {
                    machine.spec.name: stopped[machine.spec.name] or machine.disk.exists()
                    for machine in machines
                }
                shutil.rmtree(self.folder, ignore_errors=True)
            return stopped

    def _stop(self, machine: Machine, progress: Progress, purge: bool) -> bool:
        if machine.pid() is None:
            return False
        name = machine.spec.name
        if not purge and not self._save(machine):
            progress.step(f"{name}: its memory cannot be saved; shutting it down")
            if machine.spec.forwards:
                # The connection ends with the VM, so an error here says nothing.
                with contextlib.suppress(Unreachable):
                    run_on(self.access, machine.spec, "sudo systemctl poweroff", timeout=30)
                _wait_for_end(machine, 60)
        machine.quit()
        progress.step(f"{name}: stopped" + (", saved" if machine.marker.exists() else ""))
        return True

    def _save(self, machine: Machine) -> bool:
        if machine.marker.exists():  # an earlier `down` got this far
            return True
        try:
            # Should the saved memory ever not fit (a newer QEMU), the VM boots
            # from its disk: so let the disk have all that was written.
            if machine.spec.forwards and machine.status() == "running":
                with contextlib.suppress(Unreachable):
                    run_on(self.access, machine.spec, "sync", timeout=15)
            key_file = machine.folder / "key"
            machine.save(key_file.read_text().strip() if key_file.exists() else "")
        except (QmpError, OSError):
            with contextlib.suppress(QmpError):
                machine.resume()
            return False
        return True

    def pause(self, progress: Progress) -> dict[str, bool]:
        """Stop the CPUs of running VMs. Return by name whether it was running."""

        def pause(machine: Machine) -> bool:
            if machine.status() != "running":
                return False
            machine.pause()
            progress.step(f"{machine.spec.name}: paused")
            return True

        with self._locked(progress):
            return on_each(self.machines(), pause)

    def resume(self, progress: Progress) -> dict[str, bool]:
        """Let paused VMs run again, with this machine's time. Return by name whether it was paused.

        Raises LabError when one does not answer.
        """

        def resume(machine: Machine) -> bool:
            if machine.status() != "paused":
                return False
            machine.resume()
            set_clock(self.access, machine.spec)
            progress.step(f"{machine.spec.name}: resumed")
            return True

        with self._locked(progress):
            return on_each(self.machines(), resume)

    # -- helpers

    @contextlib.contextmanager
    def _locked(self, progress: Progress) -> Iterator[None]:
        # Beside the folder, which `down --purge` removes.
        private_folder(self.folder.parent)
        lock = self.folder.with_name(self.folder.name + ".lock")

        def waiting() -> None:
            progress.step("another command works on this lab; waiting for it")

        with locked(lock, waiting):
            yield


def _wait_for_end(machine: Machine, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while machine.pid() is not None and time.monotonic() < deadline:
        time.sleep(0.2)
