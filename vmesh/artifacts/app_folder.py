"""The folder of a Flask app: which of its files go to the VMs, and what of it is refused.

The bundles are made of what is found here, and `./mesh validate` tells what is refused here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

LOCK = "requirements.txt"
IGNORE_FILE = ".vmeshignore"
# What stays on the controller, in the form of .gitignore. A folder with a pyvenv.cfg, which is a
# virtual environment under any name, stays too. Lines of IGNORE_FILE come after these and win.
LEFT_OUT = (
    ".*",  # .git, .venv, .env, files of editors
    "__pycache__/",
    "*.py[co]",
    "node_modules/",
    "venv/",
    "/tests/",
    "/test/",
)

_LOCK_REMEDY = f"Lock its libraries: `uv pip compile --generate-hashes requirements.in -o {LOCK}`"
_PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Refusal:
    """Why a folder cannot be bundled: half a sentence that begins with what, and what to do."""

    message: str
    remedy: str


@dataclass(frozen=True)
class AppFolder:
    """What of a folder goes to the VMs: names relative to it, with / between the parts -> files."""

    files: dict[str, Path]
    refusals: tuple[Refusal, ...]


def look(folder: Path) -> AppFolder:
    """Return what goes to the VMs of `folder`, which is there."""
    patterns, refusals = _patterns(folder)
    walk = _Walk(folder, patterns)
    files = dict(walk.files(folder, (folder.resolve(),)))
    return AppFolder(files, (*refusals, *walk.refusals))


def look_at_lock(folder: Path) -> list[Refusal]:
    """Return what is wrong with the lock in `folder`, as far as its text tells."""
    try:
        text = (folder / LOCK).read_text()
    except (OSError, UnicodeDecodeError):
        return [Refusal(f"has no {LOCK} that can be read", _LOCK_REMEDY)]
    entries = _entries(text)
    found = []
    if not any(_project(entry) == "gunicorn" for entry in entries):
        what = f"has a {LOCK} without gunicorn, which runs the app"
        found.append(Refusal(what, f"Add gunicorn. {_LOCK_REMEDY}"))
    if unhashed := [entry for entry in entries if not re.search("--hash|#sha", entry)]:
        shown = ", ".join(unhashed[:3]) + (", ..." if len(unhashed) > 3 else "")
        found.append(Refusal(f"has a {LOCK} with libraries without hashes: {shown}", _LOCK_REMEDY))
    return found


def _entries(lock: str) -> list[str]:
    """Return the libraries that a lock names, each with its hashes in one line."""
    whole = re.sub(r"(^|\s)#.*$", "", lock, flags=re.MULTILINE)
    lines = (line.strip() for line in re.sub(r"\\\n", " ", whole).splitlines())
    # Other lines with a dash are options of the whole file.
    return [line for line in lines if line and (line[0] != "-" or line.startswith(("-e", "--e")))]


def _project(entry: str) -> str:
    found = _PROJECT.match(entry)
    return found[0].lower() if found else ""


def _patterns(folder: Path) -> tuple[GitIgnoreSpec, list[Refusal]]:
    file = folder / IGNORE_FILE
    lines = list(LEFT_OUT)
    refusals = []
    try:
        own = file.read_text(encoding="utf-8").splitlines() if os.path.lexists(file) else []
    except (OSError, UnicodeDecodeError) as error:
        remedy = "Make it a text file in UTF-8 with a pattern of .gitignore in each line"
        refusals.append(Refusal(f"has a {IGNORE_FILE} that cannot be read: {error}", remedy))
        own = []
    for number, line in enumerate(own, 1):
        try:
            _spec([line])
        except (ValueError, re.error):
            what = f"has a {IGNORE_FILE} whose line {number}, `{line}`, is no pattern"
            refusals.append(Refusal(what, "Mend it as git's manual says, gitignore(5)"))
        else:
            lines.append(line)
    return _spec(lines), refusals


def _spec(lines: list[str]) -> GitIgnoreSpec:
    # Python's own expressions, whatever else is installed: they take every name of a file.
    return GitIgnoreSpec.from_lines(lines, backend="simple")


class _Walk:
    """One look at a folder; it collects what is refused."""

    def __init__(self, root: Path, patterns: GitIgnoreSpec) -> None:
        self.root, self.patterns = root, patterns
        self.real = root.resolve()
        self.refusals: list[Refusal] = []

    def files(self, folder: Path, above: tuple[Path, ...]) -> Iterator[tuple[str, Path]]:
        """Yield the files below `folder`; `above` are the real folders that lead to it."""
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            self._refuse(folder, f"cannot be read: {error.strerror}", "Let your user read it")
            return
        for path in entries:
            is_folder = os.path.isdir(path)  # noqa: PTH112 - does not raise
            name = path.relative_to(self.root).as_posix()
            if self.patterns.match_file(f"{name}/" if is_folder else name) or (
                is_folder and os.path.lexists(path / "pyvenv.cfg")
            ):
                continue
            if fault := self._fault(path, is_folder, above):
                self._refuse(path, *fault)
            elif is_folder:
                yield from self.files(path, (*above, path.resolve()))
            elif path.is_file():
                yield name, path

    def _fault(
        self, path: Path, is_folder: bool, above: tuple[Path, ...]
    ) -> tuple[str, str] | None:
        if path.is_symlink():
            real = Path(os.path.realpath(path))
            if not real.is_relative_to(self.real):
                return "is a link out of the service's folder", "Put the file itself there"
            if not real.exists():
                return "is a link to nothing", "Remove it"
            if real in above:
                return "is a link to a folder that it is in", "Remove it"
        if not is_folder and not os.access(path, os.R_OK):
            return "cannot be read", "Let your user read it"
        try:
            path.name.encode()
        except UnicodeEncodeError:
            return "has a name that is no UTF-8", "Rename it"
        return None

    def _refuse(self, path: Path, what: str, remedy: str) -> None:
        shown = str(path).encode(errors="backslashreplace").decode()
        self.refusals.append(
            Refusal(f"{shown} {what}", f"{remedy}, or leave it out by a line in {IGNORE_FILE}")
        )
