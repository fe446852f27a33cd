"""Brings a VM the packages that the image has gained since the VM's disk was made.

A VM has no internet, so this machine unpacks them, and they go there by ssh.
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path

from vmesh.base.progress import Progress, run
from vmesh.lab.image import PACKAGES, environment
from vmesh.lab.spec import VmSpec
from vmesh.lab.ssh import Access, Unreachable, run_on

# What dpkg does not know of, because it was only unpacked, has a file here.
UNPACKED = "/var/lib/lab-packages"
_SECONDS = 120.0


def add(access: Access, vm: VmSpec, suite: str, progress: Progress) -> list[str]:
    """Unpack on the VM what it lacks; return the packages' names.

    suite: the VM's Debian release
    Raises Unreachable, vmesh.base.progress.CommandFailed.
    """
    lacking = _on(access, vm, missing_script(PACKAGES)).split()
    if not lacking:
        return []
    progress.step(f"{vm.name}: adding {', '.join(lacking)}, which its image did not have yet")
    with tempfile.TemporaryDirectory(prefix="vmesh-") as folder:
        archive = Path(folder) / "packages.tar"
        run(unpack_command(suite, lacking, archive), progress, env=environment())
        _on(access, vm, install_script(lacking), archive.read_bytes())
    return lacking


def missing_script(packages: Sequence[str]) -> str:
    """Return the script that prints those of `packages` that a VM does not have."""
    return (
        f"for name in {shlex.join(packages)}; do"
        f' [ -e "/var/lib/dpkg/info/$name.list" ] || [ -e "{UNPACKED}/$name" ] || echo "$name";'
        " done"
    )


def unpack_command(suite: str, packages: Sequence[str], target: Path) -> list[str]:
    """Return the command that makes an archive of the packages' files and all they depend on."""
    return [
        "mmdebstrap",
        "--variant=extract",
        f"--include={','.join(packages)}",
        '--aptopt=APT::Install-Recommends "false"',
        suite,
        str(target),
    ]


def install_script(packages: Sequence[str]) -> str:
    """Return the script that takes the archive from its input, and leaves every file that is there.

    In the archive /lib is a folder; on the VM it is a link to /usr/lib, which tar follows.
    """
    marks = shlex.join(f"{UNPACKED}/{name}" for name in packages)
    return (
        "tar --extract --file - --directory / --skip-old-files --keep-directory-symlink"
        " --numeric-owner --exclude='./var/*' --exclude='./dev/*'"
        f" && ldconfig && mkdir -p {UNPACKED} && touch {marks}"
    )


def _on(access: Access, vm: VmSpec, script: str, given: bytes = b"") -> str:
    """Run a script on the VM as root; return what it prints. Raises Unreachable."""
    command = f"sudo sh -c {shlex.quote(script)}"
    try:
        return run_on(access, vm, command, timeout=_SECONDS, given=given)
    except Unreachable as error:
        raise Unreachable(f"adding packages: {error}") from error
