"""System packages that a command needs: named first, then installed with apt."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence

from vmesh.base.exits import USAGE, CliError
from vmesh.base.progress import CommandFailed, Steps, run

# Pairs of a command and the Debian or Ubuntu package that brings it. The lab's and the
# artifacts' own needs are written in vmesh.lab and vmesh.artifacts.
ANSIBLE = (("ssh", "openssh-client"),)
CHECK = (("systemd-analyze", "systemd"), ("nft", "nftables"))
BROWSER = (("chromium", "chromium"), ("chromedriver", "chromium-driver"))


def missing(required: Iterable[tuple[str, str]], path: str | None = None) -> list[str]:
    """Return the packages whose command is not in `path`, in their order.

    The default is $PATH and where Debian has the commands of root, which others may run, too.
    """
    search = path if path is not None else f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    return [package for command, package in required if shutil.which(command, path=search) is None]


def not_installed(names: Iterable[str]) -> list[str]:
    """Return those of `names` that dpkg does not have; [] on a system without dpkg."""
    wanted = list(names)
    if not wanted or shutil.which("dpkg-query") is None:
        return []
    answer = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\\n", *wanted],
        capture_output=True,
        text=True,
        check=False,
    )
    there = {line.split()[0] for line in answer.stdout.splitlines() if line.endswith(" installed")}
    return [name for name in wanted if name not in there]


def apt_command(packages: Sequence[str], *, root: bool) -> list[str]:
    """Return the command that installs `packages`."""
    command = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    return command if root else ["sudo", *command]


def refusal(packages: Sequence[str], *, root: bool) -> str:
    """Return what to tell a user whose machine lacks `packages` that we may not install."""
    return (
        f"missing system packages: {', '.join(packages)}\n"
        "Install them with this command, then run the same again:\n"
        f"  {' '.join(apt_command(packages, root=root))}"
    )


def install(packages: Iterable[str], steps: Steps, *, no_install: bool) -> None:
    """Install `packages` after naming them; nothing happens when there are none.

    Raises CliError with exit code 2 and the command to run when nothing may be installed or
    apt or sudo is not there, CommandFailed when apt fails.
    """
    wanted = list(dict.fromkeys(packages))
    if not wanted:
        return
    root = os.geteuid() == 0
    able = shutil.which("apt-get") and (root or shutil.which("sudo"))
    if no_install or not able:
        raise CliError(refusal(wanted, root=root), USAGE)
    steps.note(f"      missing system packages: {', '.join(wanted)}")
    steps.step("installing them with apt")
    as_root = ["env", "DEBIAN_FRONTEND=noninteractive"]
    if not root:
        as_root = ["sudo", *as_root]
    with steps.quiet():
        try:
            run([*as_root, "apt-get", "update"], steps)
        except CommandFailed:
            # Old package lists may do; if not, installing says what it lacks.
            steps.note("      apt-get update failed; trying with the package lists that are there")
        run([*as_root, *apt_command(wanted, root=True)], steps)
