# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""Releases: /opt/<name>/<version>, and the link /opt/<name>/current to one of the versions."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from .host_parts import app_folders

# A release by its name and its version.
Release = tuple[str, str]

# The release of the host kit, its one file, and where that is for the programs of the units.
KIT, KIT_FILE = "vmesh", "vmesh-host.pyz"
KIT_PATH = f"/opt/{KIT}/current/{KIT_FILE}"
# Envoy's binary and the host kit, which the parts of a host share.
SHARED_RELEASES = ("envoy", KIT)
# What an interrupted run can leave of a release: a folder, an archive.
_STAGING, _ARCHIVE = ".staging-*", ".archive-*"
_INCOMING = ".incoming-current"


class NoRelease(Exception):  # noqa: N818 - says what is missing
    """A release is not on the host; the text says what to do."""


def part_of_release(name: str) -> str | None:
    """Return the part whose release /opt/<name> is; None for a release that parts share."""
    if name in SHARED_RELEASES:
        return None
    return "jaeger" if name == "jaeger" else f"flask@{name}"


def current_version(root: Path, name: str) -> str | None:
    """Return the version to which /opt/<name>/current leads; None without such a link."""
    link = root / "opt" / name / "current"
    return str(link.readlink()) if link.is_symlink() else None


def current_versions(root: Path) -> dict[str, str]:
    """Return name -> current version of vmesh's releases below `root`."""
    names = (*SHARED_RELEASES, "jaeger", *sorted(app_folders(root)))
    found = {name: current_version(root, name) for name in names}
    return {name: version for name, version in found.items() if version is not None}


def switch_release(root: Path, name: str, version: str) -> None:
    """Have /opt/<name>/current lead to `version`; raises NoRelease, OSError."""
    folder = root / "opt" / name
    if not (folder / version).is_dir():
        raise NoRelease(
            f"the release {name} {version} is not on this host any more;"
            " apply an inventory that has it"
        )
    beside = folder / _INCOMING
    beside.unlink(missing_ok=True)
    beside.symlink_to(version)
    beside.replace(folder / "current")


def drop_link(root: Path, name: str) -> None:
    """Remove the link /opt/<name>/current, if it is there; raises OSError."""
    (root / "opt" / name / "current").unlink(missing_ok=True)


def release_in(path: str) -> Release | None:
    """Return the release whose folder, or a place in it, is named by `path`; None for others."""
    match = re.search(r"/opt/([^/]+)/([^/]+)", path)
    return (match[1], match[2]) if match else None


def in_use(root: Path, names: Iterable[str]) -> set[Release]:
    """Return the releases of `names` whose programs run, or in whose folders programs run."""
    known, found = set(names), set[Release]()
    for process in root.glob("proc/[0-9]*"):
        for link in ("cwd", "exe"):
            with contextlib.suppress(OSError):
                # The kernel says so of a folder that is gone.
                place = str((process / link).readlink()).removesuffix(" (deleted)")
                release = release_in(place)
                if release and release[0] in known:
                    found.add(release)
    return found


def remove_unneeded(root: Path, names: Iterable[str], needed: set[Release]) -> list[str]:
    """Remove the releases of `names` that are not current, `needed` or in use, and leftovers.

    Returns what was removed, as name/version. What cannot be removed stays.
    """
    names, removed = sorted(set(names)), []
    needed = needed | in_use(root, names)
    for name in names:
        folder = root / "opt" / name
        sweep(root, name)
        current = current_version(root, name)
        for path in sorted(folder.glob("*")):
            wanted = path.name == current or (name, path.name) in needed
            if path.is_dir() and not path.is_symlink() and not wanted:
                shutil.rmtree(path, ignore_errors=True)
                removed.append(f"{name}/{path.name}")
        with contextlib.suppress(OSError):
            folder.rmdir()  # which only goes when nothing is in it
    return removed


def sweep(root: Path, name: str) -> None:
    """Remove what an interrupted run left of a release that it was bringing."""
    folder = root / "opt" / name
    for path in folder.glob(_STAGING):
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(_ARCHIVE):
        with contextlib.suppress(OSError):
            path.unlink()
