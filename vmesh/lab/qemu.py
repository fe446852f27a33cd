"""How one VM's QEMU is called."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from vmesh.lab.image import Image, environment
from vmesh.lab.spec import LOOPBACK, VmSpec

QEMU = "qemu-system-x86_64"

# Same folder for every path that a command line shows: QEMU runs in the VM's
# folder, so its sockets stay within the 108 bytes of a socket's address.
DISK = "disk.qcow2"
SEED = "seed.tar"
SERIAL = "serial.log"
MONITOR = "monitor"
PID = "pid"
LOG = "qemu.log"

# For the code that the emulator translates, in each VM. When it is full, all is thrown away and
# translated again: with 192 MB every half minute of a change under load, with 1024 MB, which is
# QEMU's default whatever the machine has, every few minutes (figures: bench/README.md).
LEAST_TRANSLATIONS_MB, MOST_TRANSLATIONS_MB = 192, 1024


@dataclass(frozen=True)
class Accelerator:
    """How guests run: `kvm`, or `tcg` (software emulation). `host` names the CPU it was seen on."""

    name: str
    host: str = ""

    @property
    def cpu(self) -> str:
        """What the guest sees."""
        return "host" if self.name == "kvm" else "max"

    def option(self, spare_mb: int, machines: int) -> str:
        """Return QEMU's -accel for each of some machines that start.

        spare_mb: memory that is free beyond the guests' own; half of it may hold translated code
        """
        if self.name == "kvm":
            return "kvm"
        share = spare_mb // 2 // machines
        return f"tcg,tb-size={min(max(share, LEAST_TRANSLATIONS_MB), MOST_TRANSLATIONS_MB)}"


def qemu_version() -> str:
    """Return QEMU's version, with the distribution's revision where it tells."""
    result = subprocess.run(
        [QEMU, "--version"], check=True, capture_output=True, text=True, env=environment()
    )
    found = re.search(r"version (.+)", result.stdout)
    return found.group(1).strip() if found else result.stdout.strip()


def machine_arguments(vm: VmSpec, accelerator: Accelerator) -> list[str]:
    """Return the arguments that decide what the guest sees: a kept state needs equal ones."""
    return [
        "-machine", "pc,usb=off,vmport=off",
        "-cpu", accelerator.cpu,
        "-smp", "1", "-m", str(vm.memory_mb), "-uuid", vm.uuid,
        "-no-user-config", "-nodefaults", "-display", "none", "-rtc", "base=utc,clock=host",
        "-append",
        "root=/dev/vda rw console=ttyS0 quiet loglevel=4 net.ifnames=0 mitigations=off panic=10",
        "-device", "virtio-blk-pci,drive=root,addr=0x4",
        "-device", "virtio-blk-pci,drive=seed,addr=0x5",
        "-device", f"virtio-net-pci,netdev=mesh,mac={vm.mac},romfile=,addr=0x6",
        "-device", "virtio-net-pci,netdev=host,mac=52:54:00:00:00:01,romfile=,addr=0x7",
        "-device", "virtio-rng-pci,addr=0x8",
    ]  # fmt: skip


def host_arguments(
    folder: Path, vm: VmSpec, image: Image, network_port: int, lab_name: str
) -> list[str]:
    """Return the arguments that tie the guest to this machine: paths and ports."""
    forwards = "".join(
        f",hostfwd=tcp:{LOOPBACK}:{forward.host_port}-:{forward.vm_port}" for forward in vm.forwards
    )
    return [
        "-name", f"vmesh-{lab_name}-{vm.name}",
        "-kernel", str(image.kernel), "-initrd", str(image.initrd),
        "-drive", f"id=root,if=none,format=qcow2,discard=unmap,file={_option(folder / DISK)}",
        "-drive", f"id=seed,if=none,format=raw,read-only=on,file={_option(folder / SEED)}",
        "-netdev", f"socket,id=mesh,mcast=230.0.0.1:{network_port},localaddr={LOOPBACK}",
        "-netdev", f"user,id=host,restrict=on,ipv6=off{forwards}",
        "-chardev", f"file,id=serial,append=on,path={SERIAL}", "-serial", "chardev:serial",
        "-chardev", f"socket,id=monitor,path={MONITOR},server=on,wait=off",
        "-mon", "chardev=monitor,mode=control",
        "-pidfile", PID, "-daemonize",
    ]  # fmt: skip


def _option(path: Path) -> str:
    """Write a path as part of a QEMU option, where a comma must be doubled."""
    return str(path).replace(",", ",,")


def is_our_qemu(cmdline: bytes, folder: Path) -> bool:
    """Tell whether `cmdline` (of /proc/PID) is the QEMU that runs the VM in `folder`."""
    arguments = cmdline.decode(errors="replace").split("\0")
    disk = f"file={_option(folder / DISK)}"
    return "qemu" in arguments[0] and any(argument.endswith(disk) for argument in arguments)
