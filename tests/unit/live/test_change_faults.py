from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from bench import change_faults as faults
from bench.change_world import Change


@pytest.fixture(scope="module")
def dead(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Envoy that dies at start, unpacked as the role does it."""
    folder = tmp_path_factory.mktemp("dead")
    with tarfile.open(faults.dead_archive(folder)) as archive:
        archive.extractall(folder, filter="fully_trusted")
    return folder / "bin" / "envoy"


def said(binary: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run([binary, *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_dead_envoy_passes_every_look_at_it_and_dies_when_started(dead: Path) -> None:
    code, told = said(dead, "--version")
    assert (code, faults.DEAD_VERSION in told) == (0, True)
    assert said(dead, "--hot-restart-version") == (0, "11.104\n")
    assert said(dead, "--mode", "validate", "--config-path", "x")[0] == 0
    assert said(dead, "--config-path", "/etc/envoy/x/bootstrap.json", "--base-id", "1") == (
        1,
        f"{faults.LAST_WORDS}\n",
    )


def event(kind: str, at: float, task: str) -> dict[str, Any]:
    return {"event": kind, "at": at, "host": "one", "task": task, "name": task}


def test_requests_may_fail_from_the_change_until_it_is_taken_back_and_no_longer() -> None:
    events = (
        event("task", 10.0, faults.TAKES_OVER),
        event("changed", 15.0, faults.TAKES_OVER),
        event("task", 30.0, faults.IS_BACK),
        event("changed", 34.0, faults.IS_BACK),
    )
    change = Change(2, 60.0, Path("log"), events)
    assert faults.exposed(change, "one", faults.TAKES_OVER, 2.0) == 48
    assert faults.exposed(change, "two", faults.TAKES_OVER, 2.0) == 0, "it was never given to two"


def test_filling_a_disk_is_python() -> None:
    compile(faults.FILL, "fill", "exec")
    assert "'" not in faults.FILL, "it goes into quotes"
