# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""Files of a host as data: content, owner, group, mode; read from the host and put back there."""

from __future__ import annotations

import base64
import grp
import os
import pwd
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypedDict

from .file_writing import write_incoming


class Rights(TypedDict):
    """Whose a file or folder is: names (numbers where there are none), and four octal digits."""

    owner: str
    group: str
    mode: str


class File(Rights, total=False):
    """A file: `text`, or `base64` where it is no UTF-8, and when it was written (Unix seconds)."""

    text: str
    base64: str
    mtime: int


class NoSuchOwner(Exception):  # noqa: N818 - says what is missing
    """A file should belong to a user or group that the host does not have."""


def read_file(path: Path) -> File:
    """Return a file of the host; raises OSError."""
    content, status = path.read_bytes(), path.stat()
    whose = rights_of(status)
    found = File(
        owner=whose["owner"],
        group=whose["group"],
        mode=whose["mode"],
        mtime=int(status.st_mtime),
    )
    try:
        found["text"] = content.decode()
    except UnicodeDecodeError:
        found["base64"] = base64.b64encode(content).decode()
    return found


def read_folders(root: Path, folder: Path, tops: Iterable[str]) -> Iterator[tuple[str, Rights]]:
    """Yield (path, rights) of `folder` and of those above it, up to one of `tops`."""
    while (name := str(folder.relative_to(root))).startswith(tuple(tops)):
        yield name, rights_of(folder.stat())
        folder = folder.parent


def rights_of(status: os.stat_result) -> Rights:
    try:
        owner = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        owner = str(status.st_uid)
    try:
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        group = str(status.st_gid)
    return {"owner": owner, "group": group, "mode": f"{status.st_mode & 0o7777:04o}"}


def content_of(file: File) -> bytes:
    """Return the content of a file."""
    if "base64" in file:
        return base64.b64decode(file["base64"])
    return file["text"].encode()


def differ(old: Mapping[str, object] | None, new: Mapping[str, object] | None) -> bool:
    """Tell whether two files or folders differ in content or rights; None is a missing one."""
    if old is None or new is None:
        return old is not new
    keys = ("text", "base64", "owner", "group", "mode")
    return any(old.get(key) != new.get(key) for key in keys)


def put(root: Path, files: Mapping[str, File], folders: Mapping[str, Rights]) -> None:
    """Put files in place by their paths: all are written before the first is moved.

    folders: path -> rights of the folders that are made or mended on the way
    Raises OSError and NoSuchOwner; no file has changed then.
    """
    written: dict[Path, Path] = {}
    try:
        for path, file in files.items():
            target = root / path
            _make_folders(root, target.parent, folders)
            beside = write_incoming(target.parent, content_of(file))
            written[beside] = target
            set_owner(beside, file)
            os.utime(beside, (file["mtime"], file["mtime"]))
        for beside, target in list(written.items()):
            beside.replace(target)
            del written[beside]
    finally:
        for beside in written:
            beside.unlink(missing_ok=True)


def _make_folders(root: Path, folder: Path, folders: Mapping[str, Rights]) -> None:
    missing = [each for each in (folder, *folder.parents) if each != root and not each.exists()]
    for each in reversed(missing):
        each.mkdir(mode=0o755, exist_ok=True)
    for each in (folder, *folder.parents):
        rights = folders.get(str(each.relative_to(root))) if each.is_relative_to(root) else None
        if rights:
            set_owner(each, rights)


def set_owner(path: Path, rights: Rights) -> None:
    """Give a file or folder its owner, group and mode; raises NoSuchOwner, OSError."""
    owner, group = _user_id(rights["owner"]), _group_id(rights["group"])
    status = path.stat()
    if (status.st_uid, status.st_gid) != (owner, group):
        os.chown(path, owner, group)
    path.chmod(int(rights["mode"], 8))


def _user_id(name: str) -> int:
    try:
        return int(name) if name.isdigit() else pwd.getpwnam(name).pw_uid
    except KeyError as error:
        raise NoSuchOwner(f"the user {name} does not exist") from error


def _group_id(name: str) -> int:
    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError as error:
        raise NoSuchOwner(f"the group {name} does not exist") from error
