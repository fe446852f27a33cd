"""The folder that a rendering writes to."""

from __future__ import annotations

import os
from pathlib import Path


def _write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read: headers to a collector are secrets."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)


class TargetFolder:
    """A folder that is to hold certain files in the end and no others."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folders: set[str] = set()
        self.sizes: dict[str, int] = {}  # of the files that are there, by their path
        self.written: set[str] = set()
        self._look(str(path))

    def _look(self, folder: str) -> None:
        """Note what is there: to list folders is cheaper than to ask for every file."""
        try:
            entries = list(os.scandir(folder))
        except FileNotFoundError:
            return
        self.folders.add(folder)
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                self._look(entry.path)
            else:
                self.sizes[entry.path] = entry.stat(follow_symlinks=False).st_size

    def write(self, name: str, text: str) -> Path:
        """Make `text` the content of the file `name`; return its path.

        A file that is there already is replaced whole. One that an interrupted run left
        incomplete has another size, and so does not stay.
        """
        path, content = self.path / name, text.encode()
        known = str(path)
        self.written.add(known)
        if self.sizes.get(known) == len(content) and path.read_bytes() == content:
            return path
        folder = path.parent
        if str(folder) not in self.folders:
            folder.mkdir(parents=True, exist_ok=True)
            self.folders.add(str(folder))
        if known in self.sizes:
            temporary = Path(f"{known}.{os.getpid()}")
            _write_private(temporary, content)
            temporary.replace(path)
        else:
            _write_private(path, content)
        return path

    def sweep(self) -> None:
        """Remove the files that were not written, and the folders that are empty then."""
        for path in self.sizes.keys() - self.written:
            Path(path).unlink()
        for folder in sorted(self.folders - {str(self.path)}, reverse=True):
            if not any(Path(folder).iterdir()):
                Path(folder).rmdir()
