"""How a lab's VMs come up: from a kept state, from their own saved memory, or by booting.

The other commands of a lab, and the checks before `up`, are in `vmesh.lab.lab`.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

from vmesh.base import paths
from vmesh.base.progress import Progress
from vmesh.lab import later_packages, qemu
from vmesh.lab.accel import choose_accelerator, host_cpu
from vmesh.lab.files import appearing_folder, digest, locked, private_folder
from vmesh.lab.image import Image, ensure_image, image_key, recipe
from vmesh.lab.machine import Machine, MachineError, adopt_image
from vmesh.lab.preflight import available_memory_mb
from vmesh.lab.qemu import Accelerator
from vmesh.lab.qmp import QmpError
from vmesh.lab.seed import ensure_key, remember_host_key, seed_archive, seed_files
from vmesh.lab.spec import LabSpec
from vmesh.lab.ssh import Access, Unreachable, answers, run_on, set_clock, wait_until_answers
from vmesh.lab.together import LabError, on_each

# Four emulated VMs on two cores need 100 s; a slow, busy machine more.
_BOOT_SECONDS = 600.0
# A loaded VM answers within seconds, or never.
_LOADED_SECONDS = 120.0


class _Cancelled(Exception):  # noqa: N818 - a signal between threads, not an error
    pass


class Up:
    """One run of `up`; the arguments are the attributes of `vmesh.lab.lab.Lab`."""

    def __init__(
        self, spec: LabSpec, folder: Path, cache: Path, access: Access, progress: Progress
    ) -> None:
        self._spec = spec
        self._folder = folder
        self._cache = cache
        self._access = access
        self._progress = progress
        self._cancel = threading.Event()
        self._started = time.monotonic()
        self._accelerator = Accelerator("tcg")
        self._accel_option = ""
        self._qemu = ""
        self._image: Image | None = None
        self._login_key = ""

    def run(self, machines: list[Machine]) -> dict[str, bool]:
        """Bring each of `machines` to where ssh answers; tell by name if anything was done."""
        self._login_key = ensure_key(paths.lab_key(), "vmesh lab").public
        down = [machine for machine in machines if machine.pid() is None]
        if down:
            private_folder(self._folder)
            private_folder(self._cache)
            self._qemu = qemu.qemu_version()
            image = self._own_image(down)
            wanted = self._spec.acceleration
            self._accelerator = (
                choose_accelerator(image, self._cache, self._progress)
                if wanted == "auto"
                else Accelerator(wanted, host_cpu())
            )
            available = available_memory_mb(Path("/proc/meminfo").read_text())
            guests = sum(machine.spec.memory_mb for machine in down)
            self._accel_option = self._accelerator.option(available - guests, len(down))
        return on_each(machines, self._bring_up_to_date, self._cancel)

    def _own_image(self, down: list[Machine]) -> Image:
        """Return an image that is there: the current one when a disk is to be made from it."""
        if any(not machine.image_key for machine in down):
            made = ensure_image(self._cache, self._spec.suite, self._spec.disk_gb, self._progress)
            self._image = adopt_image(made, self._folder)
            return self._image
        return self._image_of(down[0])

    def _image_of(self, machine: Machine) -> Image:
        if not machine.image_key:
            assert self._image is not None
            return self._image
        image = Image(self._folder / "images" / machine.image_key)
        if not image.complete():
            raise LabError(
                f"{machine.spec.name}: the image its disk was made from is gone from"
                f" {image.folder}. Remove the lab's disks (down --purge) and start again."
            )
        return image

    def _bring_up_to_date(self, machine: Machine) -> bool:
        changed = self._bring_up(machine)
        spec = self._spec
        if machine.image_key != image_key(spec.suite, spec.disk_gb, recipe()):
            added = later_packages.add(self._access, machine.spec, spec.suite, self._progress)
            changed = changed or bool(added)
        return changed

    def _bring_up(self, machine: Machine) -> bool:
        vm = machine.spec
        host_key = ensure_key(self._cache / "hostkeys" / f"{vm.name}_ed25519", vm.name)
        remember_host_key(self._access.known_hosts, vm.name, host_key.public)
        if machine.pid() is not None:
            return self._finish_running(machine)
        image = self._image_of(machine)
        seed_id, seed = seed_archive(seed_files(vm, host_key, self._login_key))
        arguments = qemu.machine_arguments(vm, self._accelerator)
        key = digest(
            [
                self._qemu,
                self._accelerator.name,
                self._accelerator.host,
                arguments,
                image.identity,
                seed_id,
            ]
        )
        state = self._cache / "states" / key
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
            machine.folder, vm, image, self._spec.network_port, self._spec.name
        )
        if not (machine.loadable(key) and self._load(machine, arguments)):
            if from_state:  # it would disappoint the next lab, too
                shutil.rmtree(state, ignore_errors=True)
            self._boot(machine, arguments)
        if fresh:
            self._keep(machine, key, state)
        set_clock(self._access, vm)
        return True

    def _in_cache(self, image: Image) -> bool:
        return Image(self._cache / "images" / image.key).identity == image.identity

    def _finish_running(self, machine: Machine) -> bool:
        """See that a VM that runs already answers: it may be paused, or still booting."""
        paused = machine.status() == "paused"
        if paused:
            machine.resume()
        elif answers(machine.spec.ssh_port, timeout=5.0):
            # Its clock stood still while this machine was asleep.
            set_clock(self._access, machine.spec)
            self._progress.step(f"{machine.spec.name}: runs already")
            return False
        else:
            self._say(machine, "still booting")
        self._wait(machine, _BOOT_SECONDS)
        set_clock(self._access, machine.spec)
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
            run_on(
                self._access,
                machine.spec,
                "systemctl is-system-running --wait && sync",
                timeout=_BOOT_SECONDS,
            )
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
