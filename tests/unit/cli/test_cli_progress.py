from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest

from vmesh.base import progress


def test_steps_are_numbered_and_their_seconds_recorded(tmp_path: Path) -> None:
    out = io.StringIO()
    steps = progress.Steps(3, tmp_path / "up.log", out)
    with steps.phase("one", "doing one"):
        steps.step("a part")
    steps.skip("two", "nothing to do")
    with pytest.raises(ValueError, match="no"), steps.phase("three", "doing three"):
        raise ValueError("no")
    lines = out.getvalue().splitlines()
    assert lines[0] == "[1/3] doing one ..."
    assert "a part" in lines[1]
    assert lines[2].startswith("[1/3] doing one  ")
    assert lines[3] == "[2/3] skipped: nothing to do"
    assert lines[-1].endswith("not finished")
    record = json.loads(steps.record("up", result="failed").read_text())
    assert [(phase["name"], phase["finished"]) for phase in record["phases"]] == [
        ("one", True),
        ("two", True),
        ("three", False),
    ]
    assert record["result"] == "failed"


def test_without_a_terminal_long_work_is_mentioned_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress.Steps, "HEARTBEAT", 0.4)
    out = io.StringIO()
    steps = progress.Steps(1, tmp_path / "log", out)
    with steps.phase("long", "doing much"):
        steps.status("the third of nine")
        monkeypatch.setattr(steps, "_spoke", 0.0)
        for _ in range(50):
            if "still at it" in out.getvalue():
                break
            time.sleep(0.1)
    assert "the third of nine" in out.getvalue()


def test_old_logs_are_removed_with_what_lies_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    folder = tmp_path / "vmesh" / "logs"
    folder.mkdir(parents=True)
    for day in range(10, 15):
        (folder / f"up-202001{day}-000000.log").touch()
        (folder / f"up-202001{day}-000000.json").touch()
    log = progress.new_log("up", keep=2)
    assert log.exists()
    assert sorted(path.name for path in folder.glob("up-2020*.json")) == [
        "up-20200113-000000.json",
        "up-20200114-000000.json",
    ]


def test_a_log_survives_the_logs_of_a_command_whose_name_begins_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    running = progress.new_log("test")
    for day in range(10, 15):
        (running.parent / f"test-site-202001{day}-000000.log").touch()
    progress.new_log("test", keep=2)
    assert running.exists()
    progress.new_log("test-site", keep=2)
    assert running.exists()
    assert len(list(running.parent.glob("test-site-2020*"))) == 2


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (59, "59 s"), (125, "2 min 05 s"), (3725, "1 h 02 min")]
)
def test_durations_read_as_people_say_them(seconds: float, said: str) -> None:
    assert progress.duration(seconds) == said
