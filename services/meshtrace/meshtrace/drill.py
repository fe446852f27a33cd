"""Failing on command, to see what the mesh does then."""

from __future__ import annotations

import threading
from pathlib import Path


class Drill:
    """Fails on command.

    The command is a file with a status (500 to 599) and, after a blank, how many requests get it;
    without a number all do, until the file is gone. Whoever may write the file commands; requests
    cannot.
    """

    def __init__(self, file: Path | None) -> None:
        """Take the file's path; without one nothing ever fails."""
        self._file = file
        self._begun = (0, 0)  # of the file whose requests are counted: inode, time
        self._failed = 0
        self._lock = threading.Lock()

    def status(self) -> int | None:
        """Return the status that the next request must get; None for a true answer."""
        if self._file is None:
            return None
        try:
            state = self._file.stat()
            words = self._file.read_text().split()
        except OSError:
            return None
        if not 1 <= len(words) <= 2 or not all(word.isdecimal() for word in words):
            return None
        status = int(words[0])
        if not 500 <= status <= 599:
            return None
        with self._lock:
            if self._begun != (state.st_ino, state.st_mtime_ns):
                self._begun, self._failed = (state.st_ino, state.st_mtime_ns), 0
            if len(words) == 2 and self._failed >= int(words[1]):
                return None
            self._failed += 1
        return status
