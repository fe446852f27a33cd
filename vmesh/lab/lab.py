"""All VMs of a lab: up, down, pause, resume."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from vmesh.base import paths
from vmesh.base.problems import Problem, Problems
from vmesh.base.progress import Progress
from vmesh.lab import qemu
from vmesh.lab.accel import choose_accelerator, host_cpu
from vmesh.lab.files import appearing_folder, digest, locked, private_folder
from vmesh.lab.image import Image, ensure_image, image_key, recipe
from vmesh.lab.machine import Machine, MachineError, adopt_image
from vmesh.lab.preflight import (
    DISK_MB,
    IMAGE_MB,
    OVERHEAD_MB,
    STATE_MB,
    Needs,
    available_memory_mb,
    decide,
    survey,
)
from vmesh.lab.qemu import Accelerator
from vmesh.lab.qmp import QmpError
from vmesh.lab.seed import ensure_key, remember_host_key, seed_archive, seed_files
from vmesh.lab.spec import InventoryLike, LabSpec, VmSpec, lab_spec
from vmesh.lab.ssh import Access, Unreachable, answers, run_on, set_clock, wait_until_answers

# Four emulated VMs on two cores need 100 s; a slow, busy machine more.
_BOOT_SECONDS = 600.0
# A loaded VM answers within seconds, or never.
_LOADED_SECONDS = 120.0


class LabError(Exception):
    """Some VMs could not be brought to the wanted state."""


class _Cancelled(Exception):  # noqa: N818 - a signal between threads, not an error
    pass


@dataclass(frozen=True)
class State:
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

    def status(self) -> dict[str, State]:
        """Return what each VM is doing."""
        return {
            machine.spec.name: State(
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
            return _Up(self, progress).run()

    def down(self, progress: Progress, *, purge: bool = False) -> dict[str, bool]:
        """Stop every VM, each with its memory saved into its disk; with `purge`, for good.

        Return by name whether it ran. Raises LabError.
        """
        with self._locked(progress):
            machines = [*self.machines(), *self.leftovers()]
            stopped = self._each(machines, lambda machine: self._stop(machine, progress, purge))
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
            return self._each(self.machines(), pause)

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
            return self._each(self.machines(), resume)

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

    def _each(
        self,
        machines: list[Machine],
        work: Callable[[Machine], bool],
        cancel: threading.Event | None = None,
    ) -> dict[str, bool]:
        """Do `work` for all machines at once. Raises LabError naming those that failed."""
        failures: list[str] = []
        results: dict[str, bool] = {}
        with ThreadPoolExecutor(max_workers=max(1, len(machines))) as pool:
            futures = {machine.spec.name: pool.submit(work, machine) for machine in machines}
            try:
                for name, future in futures.items():
                    try:
                        results[name] = future.result()
                    except (MachineError, QmpError, Unreachable) as error:
                        failures.append(f"{name}: {error}")
            except BaseException:
                # The user's Ctrl-C: let the threads end, the pool waits for them.
                if cancel is not None:
                    cancel.set()
                raise
        if failures:
            raise LabError("\n".join(failures))
        return results


def _wait_for_end(machine: Machine, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while machine.pid() is not None and time.monotonic() < deadline:
        time.sleep(0.2)


class _Up:
    """One run of `up`."""

    def __init__(self, lab: Lab, progress: Progress) -> None:
        self._lab = lab
        self._progress = progress
        self._cancel = threading.Event()
        self._started = time.monotonic()
        self._accelerator = Accelerator("tcg")
        self._accel_option = ""
        self._qemu = ""
        self._image: Image | None = None
        self._login_key = ""

    def run(self) -> dict[str, bool]:
        lab = self._lab
        machines = lab.machines()
        self._login_key = ensure_key(paths.lab_key(), "vmesh lab").public
        down = [machine for machine in machines if machine.pid() is None]
        if down:
            private_folder(lab.folder)
            private_folder(lab.cache)
            self._qemu = qemu.qemu_version()
            image = self._own_image(down)
            wanted = lab.spec.acceleration
            self._accelerator = (
                choose_accelerator(image, lab.cache, self._progress)
                if wanted == "auto"
                else Accelerator(wanted, host_cpu())
            )
            available = available_memory_mb(Path("/proc/meminfo").read_text())
            guests = sum(machine.spec.memory_mb for machine in down)
            self._accel_option = self._accelerator.option(available - guests, len(down))
        return lab._each(machines, self._bring_up, self._cancel)

    def _own_image(self, down: list[Machine]) -> Image:
        """Return an image that is there: the current one when a disk is to be made from it."""
        lab = self._lab
        if any(not machine.image_key for machine in down):
            made = ensure_image(lab.cache, lab.spec.suite, lab.spec.disk_gb, self._progress)
            self._image = adopt_image(made, lab.folder)
            return self._image
        return self._image_of(down[0])

    def _image_of(self, machine: Machine) -> Image:
        if not machine.image_key:
            assert self._image is not None
            return self._image
        image = Image(self._lab.folder / "images" / machine.image_key)
        if not image.complete():
            raise LabError(
                f"{machine.spec.name}: the image its disk was made from is gone from"
                f" {image.folder}. Remove the lab's disks (down --purge) and start again."
            )
        return image

    def _bring_up(self, machine: Machine) -> bool:
        vm = machine.spec
        host_key = ensure_key(self._lab.cache / "hostkeys" / f"{vm.name}_ed25519", vm.name)
        remember_host_key(self._lab.access.known_hosts, vm.name, host_key.public)
        if machine.pid() is not None:
            return self._finish_running(machine)
        image = self._image_of(machine)
        seed_id, seed = seed_archive(seed_files(vm, host_key, self._login_key))
        arguments = qemu.machine_arguments(vm, self._accelerator)
        key = digest(
            [self._qemu, self._accelerator.name, self._accelerator.host, arguments,
             image.identity, seed_id]
        )  # fmt: skip
        state = self._lab.cache / "states" / key
        fresh = from_state = False
        if not machine.image_key:
            from_state = (state / "key").exists()
            # A state is kept beside the image it stands on. Where the cache has a
            # later one of the same recipe, this lab's own is no use to others.
            fresh = not from_state and self._in_cache(image)
            if from_state:
                os.utime(state)
                machine.create_from_state(image, seed, state, key)
            else:
                machine.create(image, seed)
        (machine.folder / qemu.SEED).write_bytes(seed)
        (machine.folder / "key").write_text(f"{key}\n")
        arguments += ["-accel", self._accel_option]
        arguments += qemu.host_arguments(
            machine.folder, vm, image, self._lab.spec.network_port, self._lab.spec.name
        )
        if not (machine.loadable(key) and self._load(machine, arguments)):
            if from_state:  # it would disappoint the next lab, too
                shutil.rmtree(state, ignore_errors=True)
            self._boot(machine, arguments)
        if fresh:
            self._keep(machine, key, state)
        set_clock(self._lab.access, vm)
        return True

    def _in_cache(self, image: Image) -> bool:
        return Image(self._lab.cache / "images" / image.key).identity == image.identity

    def _finish_running(self, machine: Machine) -> bool:
        """See that a VM that runs already answers: it may be paused, or still booting."""
        paused = machine.status() == "paused"
        if paused:
            machine.resume()
        elif answers(machine.spec.ssh_port, timeout=5.0):
            # Its clock stood still while this machine was asleep.
            set_clock(self._lab.access, machine.spec)
            self._progress.step(f"{machine.spec.name}: runs already")
            return False
        else:
            self._say(machine, "still booting")
        self._wait(machine, _BOOT_SECONDS)
        set_clock(self._lab.access, machine.spec)
        self._say(machine, "ssh (resumed)" if paused else "ssh (booted)")
        return True

    def _load(self, machine: Machine, arguments: list[str]) -> bool:
        """Start the VM from its saved machine; tell whether it lives."""
        try:
            machine.start(arguments, load=True)
            machine.forget_snapshot()
            self._wait(machine, _LOADED_SECONDS)
        except (MachineError, QmpError, Unreachable) as error:
            self._say(machine, f"its saved memory cannot be loaded ({error}); booting")
            machine.quit()
            return False
        self._say(machine, "ssh (loaded)")
        return True

    def _boot(self, machine: Machine, arguments: list[str]) -> None:
        machine.start(arguments, load=False)
        self._say(machine, "booting")
        try:
            self._wait(machine, _BOOT_SECONDS)
        except Unreachable as error:
            console = machine.serial.read_text(errors="replace").splitlines()[-10:]
            raise Unreachable(
                "\n".join([f"{error}; its console ({machine.serial}) ends with:", *console])
            ) from error
        self._say(machine, "ssh (booted)")

    def _keep(self, machine: Machine, key: str, state: Path) -> None:
        """Put the freshly booted VM into the cache, for every later lab to start from."""
        try:
            # Fails when a unit failed; such a state is not worth keeping.
            run_on(self._lab.access, machine.spec, "systemctl is-system-running --wait && sync",
                   timeout=_BOOT_SECONDS)  # fmt: skip
            with locked(state.with_name(f"{key}.lock")):
                if not state.exists():
                    private_folder(state.parent)
                    with appearing_folder(state) as draft:
                        machine.keep(key, draft)
                    self._say(machine, "booted state kept")
        except (QmpError, Unreachable, OSError) as error:
            # Only later starts get slower.
            self._say(machine, f"its booted state could not be kept ({error})")

    def _wait(self, machine: Machine, seconds: float) -> None:
        def keep_waiting() -> None:
            if self._cancel.is_set():
                raise _Cancelled
            if machine.pid() is None:
                raise Unreachable("its QEMU ended")

        wait_until_answers(machine.spec.ssh_port, seconds, keep_waiting)

    def _say(self, machine: Machine, text: str) -> None:
        seconds = time.monotonic() - self._started
        self._progress.step(f"{machine.spec.name}: {text} after {seconds:.0f} s")
