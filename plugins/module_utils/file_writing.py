# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""Files that are written whole before they are moved into place; errors of the system in words."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Begins the name of a file that is being written and not yet moved into place.
INCOMING = ".incoming-"


def write_incoming(folder: Path, content: bytes) -> Path:
    """Write a file with a temporary name to `folder`, and see it on the disk; return its path.

    Only root may read it. Raises OSError, which names the folder, and leaves no file then.
    """
    with _naming(folder):
        handle, name = tempfile.mkstemp(dir=folder, prefix=INCOMING)
        path = Path(name)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError:
            path.unlink()
            raise
    return path


def write_whole(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a file whole or not at all, and see it on the disk; raises OSError."""
    beside = write_incoming(path.parent, text.encode())
    try:
        beside.chmod(mode)
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_if_empty(folder: Path) -> None:
    """Remove a folder that has nothing in it; one that is not there is none."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def sweep(folder: Path) -> None:
    """Remove the files that an interrupted run was writing in `folder`."""
    for path in folder.glob(f"{INCOMING}*"):
        with contextlib.suppress(OSError):
            path.unlink()


@contextlib.contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Have an error of the system name `folder` where it names nothing: a full disk does not."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(folder)) from error


def reason(error: Exception) -> str:
    """Return an error in a few words: of one of the system, the file and what is wrong with it."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__
