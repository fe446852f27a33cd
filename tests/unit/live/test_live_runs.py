"""Comparing what a check announced with what the run then did."""

from __future__ import annotations

import json
from pathlib import Path

from tests.live.runs import Run, read_runs, untruths


def run(*tasks: tuple[str, str], check: bool = False) -> Run:
    changed = sum(status == "changed" for _, status in tasks)
    return Run(check, 1.0, {"web1": tasks}, {"web1": {"changed": changed, "ok": len(tasks)}})


def test_equal_runs_and_skipped_tasks_are_true() -> None:
    check = run(("Install", "changed"), ("Unpack", "skipped"), ("Look", "ok"), check=True)
    real = run(
        ("Install", "changed"), ("Unpack", "changed"), ("Look", "ok"), ("Restart", "changed")
    )
    assert untruths(check, real) == []


def test_change_that_was_not_announced_is_told() -> None:
    told = untruths(
        run(("Install", "changed"), ("Write", "ok"), check=True),
        run(("Install", "changed"), ("Write", "changed")),
    )
    assert told == ["web1: Write: check said ok, the run then: changed"]


def test_announced_change_that_does_not_come_is_told() -> None:
    told = untruths(run(("Write", "changed"), check=True), run(("Write", "ok")))
    assert told == ["web1: Write: check said changed, the run then: ok"]
    told = untruths(run(("Write", "changed"), check=True), run())
    assert told == ["web1: Write: check said changed, the run then: not run"]


def test_silent_check_is_told() -> None:
    told = untruths(run(("Write", "skipped"), check=True), run(("Write", "changed")))
    assert told == ["web1: check said that nothing would change"]


def test_task_of_one_name_is_told_apart_by_its_turn() -> None:
    check = run(("Link", "changed"), ("Link", "ok"), check=True)
    assert untruths(check, run(("Link", "changed"), ("Link", "ok"))) == []
    assert len(untruths(check, run(("Link", "ok"), ("Link", "changed")))) == 2


def test_record_is_read_back(tmp_path: Path) -> None:
    record = tmp_path / "runs.jsonl"
    assert read_runs(record) == []
    line = {
        "check": True,
        "seconds": 2.5,
        "tasks": {"web1": [["Write", "ok"]]},
        "counts": {"web1": {"ok": 1, "changed": 0}},
    }
    record.write_text(json.dumps(line) + "\n")
    (found,) = read_runs(record)
    assert found == Run(True, 2.5, {"web1": (("Write", "ok"),)}, {"web1": {"ok": 1, "changed": 0}})
