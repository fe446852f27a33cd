"""The persistent cache of artifacts: one folder per name, version and architecture.

A folder appears by a single rename when it is complete, and its archive's hash is
checked before it is used, so neither an interrupted run nor a damaged disk can get
something incomplete onto a VM.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from vmesh.artifacts.archives import sha256_of
from vmesh.artifacts.errors import ArtifactError
from vmesh.base import paths
from vmesh.base.progress import Progress

_RECORD = "entry.json"


@dataclass(frozen=True)
class Artifact:
    """A release archive (.tar.gz) in the cache, ready for the role `release`.

    contents: the names at the archive's top, e.g. `bin`, `ui`
    compiled: whether a bundle carries byte code for its Python version
    origin: where it comes from, for people
    """

    name: str
    version: str
    arch: str
    path: Path
    sha256: str
    contents: tuple[str, ...] = ()
    compiled: bool = False
    origin: str = ""


@dataclass(frozen=True)
class Slot:
    """The place of one artifact in the cache, whether it is there or not.

    option: what `./mesh fetch` must be told to get this one, with a blank before it
    """

    kind: str
    name: str
    version: str
    arch: str
    option: str = ""

    @property
    def folder(self) -> Path:
        return paths.cache_dir() / self.kind / self.name / self.version / self.arch

    @property
    def remedy(self) -> str:
        """What a user does when it is missing."""
        if self.kind != "artifacts":
            return "Run the command again: it is built anew"
        arch = "" if self.arch == "x86_64" else f" --arch {self.arch}"
        return f"Run `{paths.COMMAND} fetch{arch}{self.option}`"

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.arch})"


# Files whose hash this process has already checked, with what tells that they changed since.
_checked: set[tuple[Path, str, int, int, int]] = set()


def check(path: Path, sha256: str) -> bool:
    """Tell whether the file `path` has the given hash; read at most once per process."""
    stat = path.stat()
    key = (path, sha256, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    if key not in _checked:
        if sha256_of(path) != sha256:
            return False
        _checked.add(key)
    return True


def damaged(slot: Slot, what: str) -> ArtifactError:
    """Delete the entry of `slot`; return the error that says so."""
    shutil.rmtree(slot.folder, ignore_errors=True)
    return ArtifactError(
        f"{slot} in the cache is damaged: {what}. It has been deleted; nothing was installed",
        slot.remedy,
    )


def read(slot: Slot) -> Artifact | None:
    """Return the artifact in `slot`, or None when there is none.

    Raises ArtifactError when the entry is damaged, after deleting it.
    """
    if not slot.folder.is_dir():
        return None
    try:
        record = json.loads((slot.folder / _RECORD).read_text(encoding="utf-8"))
        path = slot.folder / record.pop("file")
        artifact = Artifact(path=path, **{**record, "contents": tuple(record["contents"])})
        intact = check(path, artifact.sha256)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(slot, f"its record cannot be used ({error})") from error
    if not intact:
        raise damaged(slot, f"{path.name} does not have the SHA-256 {artifact.sha256}")
    return artifact


def get_or_make(slot: Slot, progress: Progress, make: Callable[[Path, Path], Artifact]) -> Artifact:
    """Return the artifact in `slot`, made first when it is missing.

    make: called with a scratch folder and the folder of the new entry; writes the
        archive (and what else belongs to it) into the latter and describes it.
        Its `sha256` is filled in here.
    Two runs that need the same artifact do not make it twice: one waits.
    """
    if found := read(slot):
        return found
    with _locked(slot, progress):
        # The run that held the lock may have made it.
        if found := read(slot):
            return found
        with _scratch(slot, progress) as scratch:
            entry = scratch / "entry"
            entry.mkdir()
            made = make(scratch, entry)
            made = replace(made, sha256=sha256_of(made.path))
            _record(entry, made)
            entry.rename(slot.folder)
    return replace(made, path=slot.folder / made.path.name)


def copy(artifact: Artifact, slot: Slot, progress: Progress) -> Artifact:
    """Make `slot` hold the same as the entry of `artifact`, whatever it held before."""
    with _locked(slot, progress), _scratch(slot, progress) as scratch:
        entry = scratch / "entry"
        shutil.copytree(artifact.path.parent, entry)
        shutil.rmtree(slot.folder, ignore_errors=True)
        entry.rename(slot.folder)
    return replace(artifact, path=slot.folder / artifact.path.name)


def _record(entry: Path, artifact: Artifact) -> None:
    record = asdict(artifact) | {"file": artifact.path.name}
    del record["path"]
    (entry / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _locked(slot: Slot, progress: Progress) -> Iterator[None]:
    slot.folder.parent.mkdir(parents=True, exist_ok=True)
    with slot.folder.with_name(f".{slot.arch}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.step(f"waiting for another run that is making {slot}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _scratch(slot: Slot, progress: Progress) -> Iterator[Path]:
    """Yield an empty folder beside the entry; what a killed run left there is removed."""
    folder = slot.folder.with_name(f".{slot.arch}.work")
    if folder.exists():
        progress.step(f"removing what an interrupted run left of {slot}")
        shutil.rmtree(folder)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
