"""Files that several `up` may want to make at the same time, made once and whole."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def digest(value: Any) -> str:
    """Return a short name for `value` (anything JSON can hold), the same for equal values."""
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def private_folder(path: Path) -> Path:
    """Make `path` a folder that only its owner enters, and return it."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock file `path`; calls `waiting` once when somebody else holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def appearing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the name `path` when the block ends well.

    Call it with a lock held. What an interrupted earlier attempt left is removed.
    """
    draft = path.with_name(path.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        draft.rename(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_whole(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write `path` so that no reader ever sees half of it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
    draft.rename(path)


def link_or_copy(source: Path, target: Path) -> None:
    """Give `source` a second name; across file systems, a copy."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


def prune(folder: Path, days: float) -> None:
    """Remove what is in the cache folder `folder` and was not used for `days`.

    Whoever uses an entry touches it.
    """
    oldest = time.time() - days * 86400
    for entry in folder.glob("*/"):
        if entry.stat().st_mtime < oldest:
            shutil.rmtree(entry, ignore_errors=True)
            entry.with_name(f"{entry.name}.lock").unlink(missing_ok=True)
