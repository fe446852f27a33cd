"""One VM on this machine: its folder, its process, its monitor."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from vmesh.lab import qemu
from vmesh.lab.files import appearing_folder, link_or_copy, private_folder, write_whole
from vmesh.lab.image import Image, environment
from vmesh.lab.qmp import Qmp, QmpError
from vmesh.lab.spec import VmSpec

# The name of the one snapshot a disk may hold: a machine's memory and disk.
SNAPSHOT = "vmesh"

_SAVE_SECONDS = 300.0
_LOAD_SECONDS = 120.0


class MachineError(Exception):
    """A VM could not be started, saved or stopped."""


@dataclass(frozen=True)
class Machine:
    """The VM `spec` with everything of it in `folder` (which must be absolute)."""

    spec: VmSpec
    folder: Path

    @property
    def disk(self) -> Path:
        return self.folder / qemu.DISK

    @property
    def marker(self) -> Path:
        """Present while the disk's snapshot may be loaded; holds the key it fits."""
        return self.folder / "saved.json"

    @property
    def serial(self) -> Path:
        return self.folder / qemu.SERIAL

    @property
    def image_key(self) -> str:
        """The image the disk was made from, or ''."""
        path = self.folder / "image"
        return path.read_text().strip() if self.disk.exists() and path.exists() else ""

    # -- the process

    def pid(self) -> int | None:
        """Return the process id of this VM's QEMU, or None when it does not run."""
        try:
            pid = int((self.folder / qemu.PID).read_text())
            cmdline = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return None
        return pid if qemu.is_our_qemu(cmdline, self.folder) else None

    def status(self) -> str:
        """Return running, paused, saved, stopped or absent."""
        if self.pid() is not None:
            try:
                with self.monitor(timeout=5.0) as monitor:
                    answer = monitor.command("query-status")
            except QmpError:
                return "running"
            return "running" if answer["running"] else "paused"
        if not self.disk.exists():
            return "absent"
        return "saved" if self.marker.exists() else "stopped"

    def monitor(self, timeout: float = 30.0) -> Qmp:
        return Qmp(self.folder / qemu.MONITOR, timeout)

    # -- the disk

    def create(self, image: Image, seed: bytes) -> None:
        """Make an empty disk on top of `image`."""
        self._prepare(image)
        draft = f"{qemu.DISK}.draft"
        # Relative, and the same from a lab's folder as from a kept state's.
        backing = f"../../images/{image.key}/{image.disk.name}"
        (self.folder / draft).unlink(missing_ok=True)
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-b", backing, "-F", "qcow2", draft],
            cwd=self.folder,
            check=True,
            env=environment(),
            stdin=subprocess.DEVNULL,
        )
        write_whole(self.folder / qemu.SEED, seed)
        (self.folder / draft).rename(self.disk)

    def create_from_state(self, image: Image, seed: bytes, state: Path, key: str) -> None:
        """Make a disk that holds the kept state `state`, ready to be loaded."""
        self._prepare(image)
        draft = self.folder / f"{qemu.DISK}.draft"
        shutil.copyfile(state / qemu.DISK, draft)
        draft.chmod(0o600)
        write_whole(self.folder / qemu.SEED, seed)
        draft.rename(self.disk)
        self._mark(key)

    def _prepare(self, image: Image) -> None:
        private_folder(self.folder)
        self.marker.unlink(missing_ok=True)
        write_whole(self.folder / "image", f"{image.key}\n".encode())

    def _mark(self, key: str) -> None:
        write_whole(self.marker, json.dumps({"key": key}).encode())

    def loadable(self, key: str) -> bool:
        """Tell whether the disk holds a saved machine that fits `key`."""
        try:
            return bool(json.loads(self.marker.read_text()).get("key") == key)
        except (OSError, ValueError):
            return False

    # -- life

    def start(self, arguments: list[str], *, load: bool) -> None:
        """Start QEMU, with the saved machine when `load`. Raises MachineError."""
        # From here on the saved machine is the past: loading it twice would
        # take the disk back in time as well.
        self.marker.unlink(missing_ok=True)
        (self.folder / qemu.MONITOR).unlink(missing_ok=True)
        (self.folder / qemu.PID).unlink(missing_ok=True)
        command = [qemu.QEMU, *arguments, *(("-loadvm", SNAPSHOT) if load else ())]
        log = self.folder / qemu.LOG
        with log.open("wb") as output:
            try:
                subprocess.run(
                    command,
                    cwd=self.folder,
                    env=environment(),
                    check=True,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    timeout=_LOAD_SECONDS,
                    start_new_session=True,
                )
            except subprocess.TimeoutExpired as error:
                raise MachineError(f"QEMU did not start within {_LOAD_SECONDS:.0f} s") from error
            except subprocess.CalledProcessError as error:
                reason = log.read_text(errors="replace").strip()
                raise MachineError(f"QEMU did not start: {reason}") from error

    def forget_snapshot(self) -> None:
        """Free the space of the snapshot that was just loaded or copied."""
        with self.monitor(_SAVE_SECONDS) as monitor, contextlib.suppress(QmpError):
            monitor.human(f"delvm {SNAPSHOT}")

    def pause(self) -> None:
        with self.monitor() as monitor:
            monitor.command("stop")

    def resume(self) -> None:
        self.marker.unlink(missing_ok=True)
        with self.monitor() as monitor:
            monitor.command("cont")

    def save(self, key: str) -> None:
        """Stop the guest's CPU and put the machine into its disk. Raises QmpError."""
        with self.monitor(_SAVE_SECONDS) as monitor:
            monitor.command("stop")
            monitor.human(f"savevm {SNAPSHOT}")
        self._mark(key)

    def keep(self, key: str, target: Path) -> None:
        """Copy the machine, as it is now, into the folder `target` for other labs to start from.

        Raises QmpError.
        """
        with self.monitor(_SAVE_SECONDS) as monitor:
            monitor.command("stop")
            try:
                monitor.human(f"savevm {SNAPSHOT}")
                # What the file lacks may still be in QEMU's memory.
                monitor.human("qemu-io root flush")
                shutil.copyfile(self.disk, target / qemu.DISK)
                (target / qemu.DISK).chmod(0o600)
                monitor.human(f"delvm {SNAPSHOT}")
            finally:
                monitor.command("cont")
        write_whole(target / "key", key.encode())

    def quit(self, seconds: float = 20.0) -> None:
        """End QEMU at once, as a power cut would. Raises MachineError when it stays."""
        pid = self.pid()
        if pid is None:
            return
        with contextlib.suppress(QmpError), self.monitor(5.0) as monitor:
            monitor.command("quit")
        if not self._gone(seconds):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            if not self._gone(seconds):
                raise MachineError(f"QEMU (process {pid}) does not end")

    def _gone(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.pid() is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True


def adopt_image(image: Image, folder: Path) -> Image:
    """Give the image's files a second name in a lab's folder.

    The disks there go on working when the cache is emptied or the image made anew.
    """
    own = Image(folder / "images" / image.key)
    if not own.complete():
        shutil.rmtree(own.folder, ignore_errors=True)
        with appearing_folder(own.folder) as draft:
            for source in image.files:
                link_or_copy(source, draft / source.name)
    return own
