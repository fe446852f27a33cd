# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""The snapshots that a host keeps, and its history, below /var/lib/vmesh; for root alone.

states/<N>.json  the host as run N left it, the last three
pending.json     the host as it was before the run that goes on or was interrupted
history.jsonl    a line for each run that changed the host
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from .file_writing import sweep, write_whole
from .releases import Release
from .snapshots import Snapshot, empty

Line = dict[str, Any]

FORMAT = 1
PLACE = "var/lib/vmesh"
KEPT = 3


class Unreadable(Exception):  # noqa: N818 - a state of a file
    """A kept file is not what it should be; the text says what to do."""


@dataclass(frozen=True)
class Pending:
    """The snapshot from before a run, the run's number, and who is changing the host.

    who: empty when nobody does any more
    after: what stood for the newest kept snapshot when the run began
    """

    snapshot: Snapshot
    run: int
    who: str = ""
    after: str | None = None


def now() -> str:
    """Return the time, in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


class SnapshotStore:
    """The kept snapshots and the history of the host below `root`."""

    def __init__(self, root: Path) -> None:
        self.place = root / PLACE
        self.states = self.place / "states"
        self.pending_path = self.place / "pending.json"
        self.history_path = self.place / "history.jsonl"

    def numbers(self) -> list[int]:
        """Return the numbers of the snapshots that are kept, the oldest first."""
        return sorted(int(path.stem) for path in self.states.glob("*.json") if path.stem.isdigit())

    def newest(self) -> int:
        """Return the number of the newest snapshot, 0 when there is none."""
        return max(self.numbers(), default=0)

    def read(self, number: int) -> Snapshot:
        """Return a kept snapshot; raises Unreadable."""
        return _snapshot(_read(self._path(number)))

    def read_or_empty(self, number: int) -> Snapshot:
        """Return a kept snapshot; that of a bare host where none can be read."""
        try:
            return self.read(number)
        except Unreadable:
            return empty()

    def pending(self) -> Pending | None:
        """Return the snapshot from before the run that goes on or was interrupted.

        Raises Unreadable.
        """
        if not self.pending_path.exists():
            return None
        kept = _read(self.pending_path)
        try:
            return Pending(
                _snapshot(kept),
                int(kept.get("run", 0)),
                str(kept.get("who", "")),
                kept.get("after"),
            )
        except (ValueError, TypeError) as error:
            raise _unreadable(self.pending_path, error) from error

    def interrupted(self) -> Pending | None:
        """Return what is kept of the run that began and did not end; raises Unreadable.

        One that was killed between keeping its new snapshot and forgetting that of before has
        ended.
        """
        pending = self.pending()
        return pending if pending and pending.after in {None, self._mark()} else None

    def _path(self, number: int) -> Path:
        return self.states / f"{number}.json"

    def _mark(self) -> str:
        """Return what stands for the newest snapshot that was kept."""
        newest = self.newest()
        with contextlib.suppress(OSError):
            return f"{newest} {self._path(newest).stat().st_mtime_ns}"
        return ""

    def keep_pending(self, snapshot: Snapshot, run: int, who: str = "") -> None:
        """Keep the snapshot from before a run; raises OSError.

        who: is changing the host; empty when nobody does any more
        """
        kept = {"format": FORMAT, "run": run, "who": who, "after": self._mark(), **snapshot}
        self._write(self.pending_path, kept)

    def hold(self, who: str) -> None:
        """Note who changes the host now, whose snapshot from before is kept; empty for nobody.

        Raises OSError, Unreadable.
        """
        pending = self.pending()
        if pending is not None:
            self.keep_pending(pending.snapshot, pending.run, who)

    def drop_pending(self) -> None:
        """Forget the snapshot from before the run: the run is over."""
        self.pending_path.unlink(missing_ok=True)

    def keep(self, number: int, snapshot: Snapshot, record: Line) -> None:
        """Keep a snapshot under its number, with its line of the history; raises OSError."""
        kept = {"format": FORMAT, "run": number, "record": record, **snapshot}
        self._write(self._path(number), kept)

    def keep_found(self) -> None:
        """Keep as number 0 what was on the host before it kept any snapshot, if there was anything.

        Raises OSError.
        """
        with contextlib.suppress(Unreadable):
            pending = self.pending()
            if pending is not None and pending.snapshot != empty():
                self.keep(0, pending.snapshot, {})

    def _write(self, path: Path, content: Mapping[str, Any]) -> None:
        self.make()
        write_whole(path, json.dumps(content))

    def make(self) -> None:
        """Make the folders, closed to all but root, and remove what a killed run left in them."""
        for folder in (self.place, self.states):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
            sweep(folder)

    def history(self) -> list[Line]:
        """Return the history, the oldest line first, without lines that are not whole."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for text in self.history_path.read_text(errors="replace").splitlines():
                with contextlib.suppress(ValueError):
                    found.append(json.loads(text))
        return found

    def append(self, line: Line) -> None:
        """Write a line of the history, and see it on the disk; raises OSError."""
        self.make()
        text = json.dumps(line) + "\n"
        with os.fdopen(
            os.open(self.history_path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+b"
        ) as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                # What a killed run wrote of a line stays a line of its own.
                file.seek(size - 1)
                text = text if file.read(1) == b"\n" else f"\n{text}"
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())

    def mend_history(self) -> None:
        """Write the newest snapshot's line of the history where that has not been done.

        Where it cannot be, the next run does it.
        """
        numbers = self.numbers()
        with contextlib.suppress(Unreadable, OSError):
            record = _read(self._path(numbers[-1])).get("record") if numbers else None
            if record and record not in self.history():
                self.append(record)

    def prune(self, written: int) -> set[str]:
        """Remove all but the last snapshots, never the one just `written`.

        Returns the names of which any of them, the removed ones too, had a release.
        """
        numbers = self.numbers()
        names = {name for number in numbers for name in self.read_or_empty(number)["links"]}
        for number in numbers:
            if number not in {*numbers[-KEPT:], written}:
                self._path(number).unlink(missing_ok=True)
        return names

    def releases(self) -> set[Release]:
        """Return the releases to which a kept snapshot refers."""
        kept = [self.read_or_empty(number) for number in self.numbers()]
        with contextlib.suppress(Unreadable):
            pending = self.pending()
            kept += [pending.snapshot] if pending else []
        return {release for snapshot in kept for release in snapshot["links"].items()}


def interrupted_run(root: Path) -> dict[str, Any]:
    """Return the run that began to change the host and has not ended; {} without one.

    run: its number; who: is changing the host; seconds: since it began. Of a file that cannot be
    read only the last is known: `run` is 0 and `who` is empty.
    """
    store = SnapshotStore(root)
    try:
        began = store.pending_path.stat().st_mtime
    except FileNotFoundError:
        return {}
    try:
        found = store.interrupted()
    except Unreadable:
        found = Pending(empty(), 0)
    if found is None:
        return {}
    return {"run": found.run, "who": found.who, "seconds": max(0.0, time.time() - began)}


def _snapshot(kept: Mapping[str, Any]) -> Snapshot:
    return cast("Snapshot", {key: kept[key] for key in empty()})


def _read(path: Path) -> dict[str, Any]:
    try:
        kept: dict[str, Any] = json.loads(path.read_text())
        for key in ("format", *empty()):
            kept[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(path, error) from error
    if kept["format"] != FORMAT:
        raise Unreadable(
            f"{path} has format {kept['format']}, and this version of vmesh knows {FORMAT}."
            " Use the version that wrote it, or remove it and run site.yml."
        )
    return kept


def _unreadable(path: Path, error: Exception) -> Unreadable:
    return Unreadable(
        f"{path} cannot be read as a snapshot of this host ({type(error).__name__}). Remove it,"
        " and run site.yml, which brings the host to what the inventory says."
    )
