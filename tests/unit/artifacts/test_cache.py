"""The cache: complete entries only, checked before use, made once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.unit.artifacts.conftest import Recorded
from vmesh.artifacts import cache
from vmesh.artifacts.archives import Member, write_archive
from vmesh.artifacts.cache import Artifact, Slot
from vmesh.artifacts.errors import ArtifactError

SLOT = Slot("artifacts", "thing", "1.0", "x86_64")


def make(scratch: Path, entry: Path) -> Artifact:
    archive = entry / "thing.tar.gz"
    contents = write_archive(archive, [Member("bin/thing", b"thing", executable=True)])
    return Artifact("thing", "1.0", "x86_64", archive, "", contents, origin="a test")


def unexpected(scratch: Path, entry: Path) -> Artifact:
    raise AssertionError("made although the cache has it")


def test_what_was_made_once_is_found_again(progress: Recorded) -> None:
    made = cache.get_or_make(SLOT, progress, make)
    assert cache.read(SLOT) == made
    assert cache.get_or_make(SLOT, progress, unexpected) == made
    assert made.path.is_file()
    assert made.contents == ("bin",)


def test_a_damaged_archive_is_deleted_and_named(progress: Recorded) -> None:
    made = cache.get_or_make(SLOT, progress, make)
    made.path.write_bytes(made.path.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"thing 1\.0 .*damaged.*thing\.tar\.gz.*deleted"):
        cache.read(SLOT)
    assert not made.path.exists()
    assert cache.get_or_make(SLOT, progress, make).path.is_file()


def test_damage_is_seen_after_a_successful_check(progress: Recorded) -> None:
    made = cache.get_or_make(SLOT, progress, make)
    assert cache.read(SLOT)
    made.path.write_bytes(b"something else")
    with pytest.raises(ArtifactError):
        cache.read(SLOT)


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"file": "gone", "contents": []}'])
def test_a_damaged_record_is_deleted_and_named(progress: Recorded, record: str) -> None:
    made = cache.get_or_make(SLOT, progress, make)
    (made.path.parent / "entry.json").write_text(record)
    with pytest.raises(ArtifactError, match=r"thing 1\.0 .*damaged.*deleted"):
        cache.read(SLOT)
    assert cache.read(SLOT) is None


def test_an_interrupted_run_leaves_nothing_and_the_next_one_finishes(progress: Recorded) -> None:
    def interrupted(scratch: Path, entry: Path) -> Artifact:
        make(scratch, entry)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.get_or_make(SLOT, progress, interrupted)
    assert cache.read(SLOT) is None
    # What a killed run could not tidy up is in nobody's way.
    leftover = SLOT.folder.with_name(".x86_64.work") / "entry"
    leftover.mkdir(parents=True)
    (leftover / "half").write_text("half")
    assert cache.get_or_make(SLOT, progress, make).path.is_file()
    assert not leftover.exists()
    assert sorted(path.name for path in SLOT.folder.iterdir()) == ["entry.json", "thing.tar.gz"]


def test_two_runs_make_it_once(tmp_path: Path) -> None:
    calls = []
    started = threading.Event()
    waiting = threading.Event()

    class Second(Recorded):
        def step(self, text: str) -> None:
            super().step(text)
            waiting.set()

    def slow(scratch: Path, entry: Path) -> Artifact:
        calls.append(1)
        started.set()
        assert waiting.wait(5)
        return make(scratch, entry)

    first = threading.Thread(
        target=cache.get_or_make, args=(SLOT, Recorded(tmp_path / "log"), slow)
    )
    first.start()
    assert started.wait(5)
    second = Second(tmp_path / "log")
    assert cache.get_or_make(SLOT, second, slow).path.is_file()
    first.join()
    assert len(calls) == 1
    assert second.steps == ["waiting for another run that is making thing 1.0 (x86_64)"]
