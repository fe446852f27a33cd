"""What makes a VM itself: its name, ssh host key and addresses, as a tiny tar disk."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vmesh.lab.files import locked, private_folder, write_whole
from vmesh.lab.spec import MESH_NETWORK, USER, VmSpec

# QEMU's user network always gives these to the guest and to itself.
HOST_CARD_ADDRESS = "10.0.2.15/24"

ID_FILE = "etc/lab-seed.id"


@dataclass(frozen=True)
class KeyPair:
    """An ssh key: the private half's text and the public line."""

    private: str
    public: str


def ensure_key(path: Path, comment: str) -> KeyPair:
    """Return the ed25519 key at `path`, made when missing."""
    public = path.with_name(path.name + ".pub")
    private_folder(path.parent)
    with locked(path.with_name(path.name + ".lock")):
        if not (path.exists() and public.exists()):
            path.unlink(missing_ok=True)
            public.unlink(missing_ok=True)
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)],
                check=True,
                stdin=subprocess.DEVNULL,
            )
    return KeyPair(path.read_text(), public.read_text().strip())


def host_alias(name: str) -> str:
    """Return the name under which ssh knows the VM, whatever port it is reached by."""
    return f"vmesh-lab-{name}"


def remember_host_key(known_hosts: Path, name: str, public: str) -> None:
    """Put the VM's host key into `known_hosts`; nothing is ever asked of the user."""
    line = f"{host_alias(name)} {' '.join(public.split()[:2])}"
    with locked(known_hosts.with_name(known_hosts.name + ".lock")):
        old = known_hosts.read_text().splitlines() if known_hosts.exists() else []
        if line in old:
            return
        kept = [entry for entry in old if entry.split()[:1] != [host_alias(name)]]
        write_whole(known_hosts, "".join(f"{entry}\n" for entry in (*kept, line)).encode())


def seed_files(vm: VmSpec, host_key: KeyPair, login_key: str) -> dict[str, tuple[int, str]]:
    """Return the files that `vm` gets: mode and content by path."""
    addresses = (
        f"address add {vm.mesh_address}/{MESH_NETWORK.prefixlen} dev eth0\n"
        "link set eth0 up\n"
        f"address add {HOST_CARD_ADDRESS} dev eth1\n"
        "link set eth1 up\n"
    )
    return {
        "etc/hostname": (0o644, f"{vm.name}\n"),
        # As Debian's installer writes it: the own name leads to loopback.
        "etc/hosts": (0o644, f"127.0.0.1\tlocalhost\n127.0.1.1\t{vm.name}\n::1\tlocalhost\n"),
        "etc/lab-network": (0o644, addresses),
        "etc/ssh/ssh_host_ed25519_key": (0o600, host_key.private),
        "etc/ssh/ssh_host_ed25519_key.pub": (0o644, f"{host_key.public}\n"),
        f"etc/ssh/authorized_keys/{USER}": (0o644, f"{login_key}\n"),
    }


def seed_archive(files: Mapping[str, tuple[int, str]]) -> tuple[str, bytes]:
    """Return the seed's id and its bytes; equal files give equal bytes.

    The id is the last member: a VM that has it has all the rest.
    """
    identity = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:20]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, (mode, text) in (*sorted(files.items()), (ID_FILE, (0o644, f"{identity}\n"))):
            member = tarfile.TarInfo(name)
            content = text.encode()
            member.size, member.mode = len(content), mode
            archive.addfile(member, io.BytesIO(content))
    return identity, buffer.getvalue()
