"""Release archives: the same content gives the same bytes, whenever and by whomever made."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

# Level 9 takes three times as long for 0.5 % less, and unpacking takes the same.
GZIP_LEVEL = 6


@dataclass(frozen=True)
class Member:
    """A file of an archive: its name in there, and its content (bytes, or a file to read)."""

    name: str
    content: Path | bytes
    executable: bool = False


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_archive(path: Path, members: Iterable[Member]) -> tuple[str, ...]:
    """Write `members` and their folders as a .tar.gz owned by root, sorted and undated.

    Returns the names at the top of the archive.
    """
    files = sorted(members, key=lambda member: member.name)
    folders = {
        str(parent)
        for member in files
        for parent in PurePosixPath(member.name).parents
        if parent.name
    }
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", compresslevel=GZIP_LEVEL, fileobj=raw, mtime=0) as gz,
        tarfile.open(fileobj=gz, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        for folder in sorted(folders):
            tar.addfile(_header(folder, 0o755, kind=tarfile.DIRTYPE))
        for member in files:
            _add(tar, member)
    return tuple(sorted({member.name.split("/")[0] for member in files}))


def _add(tar: tarfile.TarFile, member: Member) -> None:
    header = _header(member.name, 0o755 if member.executable else 0o644)
    if isinstance(member.content, bytes):
        header.size = len(member.content)
        tar.addfile(header, io.BytesIO(member.content))
        return
    with member.content.open("rb") as file:
        header.size = member.content.stat().st_size
        tar.addfile(header, file)


def _header(name: str, mode: int, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.mode, header.type = mode, kind
    header.uname = header.gname = "root"
    return header
