"""What the lab needs from this machine's distribution. Written here, once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Requirement:
    """A command or a file, and the Debian or Ubuntu package that brings it."""

    package: str
    command: str = ""
    path: str = ""

    @property
    def name(self) -> str:
        return self.command or self.path


REQUIREMENTS = (
    Requirement("qemu-system-x86", command="qemu-system-x86_64"),
    Requirement("qemu-utils", command="qemu-img"),
    Requirement("mmdebstrap", command="mmdebstrap"),
    Requirement("fakeroot", command="fakeroot"),
    Requirement("e2fsprogs", command="mke2fs"),
    Requirement("openssh-client", command="ssh"),
    Requirement("openssh-client", command="ssh-keygen"),
    # mmdebstrap as an ordinary user maps a range of user ids with it.
    Requirement("uidmap", command="newuidmap"),
    # Ubuntu does not bring the keys that sign Debian's packages.
    Requirement("debian-archive-keyring", path="/usr/share/keyrings/debian-archive-keyring.gpg"),
)


def _find_command(name: str) -> bool:
    # mke2fs is in /sbin, which an ordinary user's PATH on Debian leaves out.
    return shutil.which(name) is not None or any(
        (Path(folder) / name).exists() for folder in ("/usr/sbin", "/sbin")
    )


def missing_requirements(
    requirements: Sequence[Requirement] = REQUIREMENTS,
    *,
    has_command: Callable[[str], bool] = _find_command,
    has_path: Callable[[str], bool] = lambda path: Path(path).exists(),
) -> list[Requirement]:
    """Return the requirements this machine lacks, in the order written above."""
    return [
        requirement
        for requirement in requirements
        if (requirement.command and not has_command(requirement.command))
        or (requirement.path and not has_path(requirement.path))
    ]
