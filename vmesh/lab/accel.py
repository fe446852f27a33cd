"""Whether guests can run on hardware here. /dev/kvm alone says nothing: it is tried."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from vmesh.base.progress import Progress
from vmesh.lab.files import digest, write_whole
from vmesh.lab.image import Image, environment
from vmesh.lab.qemu import QEMU, Accelerator, qemu_version

# A kernel on working hardware is through in about two seconds.
TRIAL_SECONDS = 20.0

# What the kernel says last when it found its way to user space's door: by then
# it has used paging, interrupts and timers, which is where broken hosts hang.
_SIGN_OF_LIFE = "VFS: Unable to mount root fs"


def cpu_model(cpuinfo: str) -> str:
    """Return the CPU's name and features from the text of /proc/cpuinfo."""
    wanted = ("model name", "flags")
    first = cpuinfo.split("\n\n", maxsplit=1)[0].splitlines()
    return "\n".join(line for line in first if line.split("\t")[0].strip() in wanted)


def host_cpu() -> str:
    """Return a short name for this machine's CPU: a kept state may rely on what it can do."""
    return digest(cpu_model(Path("/proc/cpuinfo").read_text()))


def choose_accelerator(
    image: Image,
    cache: Path,
    progress: Progress,
    *,
    device: Path = Path("/dev/kvm"),
    trial: Callable[[Image], bool] | None = None,
) -> Accelerator:
    """Return `kvm` when a guest lives with it, else `tcg`. Tried once per boot of this machine."""
    host = host_cpu()
    if not os.access(device, os.R_OK | os.W_OK):
        if device.exists():
            progress.step(
                f"{device} is there, but not for this user, so the VMs are emulated, which is"
                " slower; `sudo usermod --append --groups kvm $USER` and a new login change that"
            )
        return Accelerator("tcg", host)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    verdict = cache / "kvm" / digest([boot, host, qemu_version(), str(device)])
    if not verdict.exists():
        progress.step(f"trying hardware virtualisation (at most {TRIAL_SECONDS:.0f} s)")
        works = (trial or kvm_works)(image)
        verdict.parent.mkdir(parents=True, exist_ok=True)
        write_whole(verdict, b"kvm\n" if works else b"tcg\n")
        progress.step(
            "hardware virtualisation works"
            if works
            else "hardware virtualisation does not work here: the VMs are emulated, which is slower"
        )
    return Accelerator(verdict.read_text().strip(), host)


def kvm_works(image: Image, seconds: float = TRIAL_SECONDS) -> bool:
    """Boot the image's kernel on KVM without a disk and tell whether it gets to the end."""
    with tempfile.TemporaryDirectory(prefix="vmesh-kvm-") as folder:
        serial = Path(folder) / "serial"
        command = [
            QEMU, "-machine", "pc", "-accel", "kvm", "-cpu", "host", "-m", "256",
            "-no-user-config", "-nodefaults", "-display", "none", "-no-reboot",
            "-kernel", str(image.kernel), "-append", "console=ttyS0 panic=-1",
            "-chardev", f"file,id=serial,path={serial}", "-serial", "chardev:serial",
        ]  # fmt: skip
        try:
            subprocess.run(
                command,
                timeout=seconds,
                check=False,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            return False
        return serial.exists() and _SIGN_OF_LIFE in serial.read_text(errors="replace")
