"""What stands in a lab's way on this machine: found by reading, decided purely."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vmesh.base.problems import Problem
from vmesh.lab.requirements import Requirement, missing_requirements
from vmesh.lab.spec import LOOPBACK, Forward

# QEMU itself beside the guest's memory: translated code, devices, buffers.
OVERHEAD_MB = 200
# What the controller needs for itself while the lab runs (Ansible's forks).
SPARE_MEMORY_MB = 400

# Measured: packages, tree, raw and final image at once.
IMAGE_MB = 1800
# Per VM: what an installed mesh and its logs write; the saved memory comes on top.
DISK_MB = 700
# A kept state: most of a fresh VM's memory is empty. Measured: 165 MB.
STATE_MB = 300
SPARE_DISK_MB = 500


@dataclass(frozen=True)
class Machine:
    """The facts about this machine that decide."""

    taken: Mapping[int, str]  # TCP port: who holds it, '' when that cannot be known
    network_holder: str | None  # who else uses the mesh network's port; None: nobody
    available_memory_mb: int
    free_disk_mb: Mapping[str, tuple[str, int]]  # path: its file system, free space there
    missing: Sequence[Requirement] = ()
    subordinate_ids: bool = True


@dataclass(frozen=True)
class Needs:
    """What a lab is about to ask for."""

    forwards: Sequence[Forward]
    network_port: int
    memory_mb: int
    disk_mb: Mapping[str, int] = field(default_factory=dict)  # path: megabytes written there


def decide(needs: Needs, machine: Machine) -> list[Problem]:
    """Return everything on `machine` that the lab's `needs` collide with."""
    return [
        *_missing_packages(machine),
        *_taken_ports(needs, machine),
        *_memory(needs, machine),
        *_disk(needs, machine),
    ]


def _missing_packages(machine: Machine) -> Iterable[Problem]:
    if machine.missing:
        packages = " ".join(dict.fromkeys(item.package for item in machine.missing))
        yield Problem(
            "system packages",
            [item.name for item in machine.missing],
            "the lab needs them and they are not installed",
            f"Run: sudo apt-get install --no-install-recommends {packages}",
        )
    if not machine.subordinate_ids:
        user = pwd.getpwuid(os.getuid()).pw_name
        yield Problem(
            "/etc/subuid",
            user,
            "no range of subordinate user ids belongs to this user",
            "mmdebstrap makes the image with them. Run: sudo usermod --add-subuids 100000-165535"
            f" --add-subgids 100000-165535 {user}",
        )


def _taken_ports(needs: Needs, machine: Machine) -> Iterable[Problem]:
    for forward in needs.forwards:
        if forward.host_port in machine.taken:
            holder = machine.taken[forward.host_port]
            yield Problem(
                forward.variable,
                forward.host_port,
                f"port {forward.host_port} on {LOOPBACK} is taken"
                + (f" by {holder}" if holder else ""),
                f"Stop that program, or change {forward.variable} in the inventory.",
            )
    if machine.network_holder is not None:
        holder = f" ({machine.network_holder})" if machine.network_holder else ""
        yield Problem(
            "lab_network_port",
            needs.network_port,
            f"UDP port {needs.network_port} is taken{holder}: labs that share it share a network",
            "Change lab_network_port in the inventory.",
        )


def _memory(needs: Needs, machine: Machine) -> Iterable[Problem]:
    wanted = needs.memory_mb + SPARE_MEMORY_MB if needs.memory_mb else 0
    if machine.available_memory_mb < wanted:
        yield Problem(
            "lab_memory_mb",
            needs.memory_mb,
            f"the VMs to start need {wanted} MB of memory with what runs beside them, and"
            f" {machine.available_memory_mb} MB are available",
            "Close other programs, stop another lab, or lower lab_memory_mb in the inventory.",
        )


def _disk(needs: Needs, machine: Machine) -> Iterable[Problem]:
    # Cache and state may be on the same file system: then their needs add up.
    wanted: dict[str, int] = {}
    paths: dict[str, list[str]] = {}
    free: dict[str, int] = {}
    for path, megabytes in needs.disk_mb.items():
        system, free_mb = machine.free_disk_mb[path]
        wanted[system] = wanted.get(system, 0) + megabytes
        free[system] = free_mb
        paths.setdefault(system, []).append(path)
    for system, megabytes in wanted.items():
        if megabytes and free[system] < megabytes + SPARE_DISK_MB:
            yield Problem(
                "disk space",
                " and ".join(paths[system]),
                f"the lab needs {megabytes + SPARE_DISK_MB} MB there, {free[system]} MB are free",
                "Make room, or let XDG_CACHE_HOME and XDG_STATE_HOME name a folder with more.",
            )


# -- reading this machine


def survey(needs: Needs, own_pids: frozenset[int]) -> Machine:
    """Return the facts about this machine that `needs` are decided with."""
    taken = {
        port: holder_of(port, "tcp", own_pids) or ""
        for port in {forward.host_port for forward in needs.forwards}
        if not can_listen(port)
    }
    return Machine(
        taken=taken,
        network_holder=holder_of(needs.network_port, "udp", own_pids),
        available_memory_mb=available_memory_mb(Path("/proc/meminfo").read_text()),
        free_disk_mb={path: _free(Path(path)) for path in needs.disk_mb},
        missing=missing_requirements(),
        subordinate_ids=os.getuid() == 0 or _has_subordinate_ids(),
    )


def can_listen(port: int) -> bool:
    """Tell whether `port` on 127.0.0.1 is free to listen on, as QEMU would."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
        return True


def available_memory_mb(meminfo: str) -> int:
    """Return MemAvailable of the text of /proc/meminfo."""
    for line in meminfo.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    return 0


def socket_inodes(table: str, port: int) -> set[str]:
    """Return the inodes of the sockets bound to `port` in the text of /proc/net/{tcp,udp}*.

    Of TCP sockets only listening ones count: a connection blocks nobody.
    """
    inodes = set()
    for line in table.splitlines()[1:]:
        fields = line.split()
        local, state, inode = fields[1], fields[3], fields[9]
        # 0A is LISTEN, 07 is what every unconnected UDP socket shows.
        if int(local.rsplit(":", 1)[1], 16) == port and state in ("0A", "07"):
            inodes.add(inode)
    return inodes


def holder_of(port: int, protocol: str, own_pids: frozenset[int]) -> str | None:
    """Return who holds `port`: "name (process 12)", '' when unknown, None when nobody does.

    Processes in `own_pids` do not count.
    """
    inodes = set()
    for table in (protocol, f"{protocol}6"):
        with contextlib.suppress(OSError):
            inodes |= socket_inodes(Path(f"/proc/net/{table}").read_text(), port)
    if not inodes:
        return None
    links = {f"socket:[{inode}]" for inode in inodes}
    mine = False
    for process in Path("/proc").glob("[0-9]*"):
        # Other users' processes do not show their files.
        with contextlib.suppress(OSError):
            if any(str(item.readlink()) in links for item in (process / "fd").iterdir()):
                if int(process.name) in own_pids:
                    mine = True
                    continue
                return f"{_describe(process)} (process {process.name})"
    return None if mine else ""


def _describe(process: Path) -> str:
    arguments = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    if "-name" in arguments:  # a QEMU: which VM it is says more than "qemu"
        return arguments[arguments.index("-name") + 1]
    return (process / "comm").read_text().strip()


def _free(path: Path) -> tuple[str, int]:
    while not path.exists():
        path = path.parent
    return str(path.stat().st_dev), shutil.disk_usage(path).free // 2**20


def _has_subordinate_ids() -> bool:
    user = pwd.getpwuid(os.getuid())
    try:
        lines = Path("/etc/subuid").read_text().splitlines()
    except OSError:
        return False
    return any(line.split(":")[0] in (user.pw_name, str(user.pw_uid)) for line in lines)
