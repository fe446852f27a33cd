from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import change
from bench.change_report import Row
from bench.change_world import Rates
from vmesh import cli
from vmesh.base.exits import USAGE
from vmesh.cli import options


def test_rows_can_be_chosen_and_keep_their_order() -> None:
    assert change.chosen(None) == list(change.NAMES)
    assert change.chosen(["killed", "routes"]) == ["routes", "killed"]


def test_an_unknown_row_is_told_with_those_that_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["bench", "change", "--only", "rutes"]) == USAGE
    told = capsys.readouterr().err
    assert "rutes" in told
    assert "envoy-upgrade" in told


def test_all_rows_take_turns() -> None:
    assert list(change.turns(["routes", "release"], 2)) == [
        ("routes", 1),
        ("release", 1),
        ("routes", 2),
        ("release", 2),
    ]


def test_killed_runs_are_spread_over_the_turns() -> None:
    assert [change.share(30, 5, turn) for turn in range(1, 6)] == [6] * 5
    assert [change.share(7, 3, turn) for turn in (1, 2, 3)] == [2, 2, 3]
    assert [change.share(1, 2, turn) for turn in (1, 2)] == [1, 1]


def test_a_record_keeps_what_else_is_in_its_file(tmp_path: Path) -> None:
    path = tmp_path / "change.json"
    change.write(path, "scale", [1])
    change.write(path, "changes", {"rows": []})
    assert json.loads(path.read_text()) == {"scale": [1], "changes": {"rows": []}}


def test_a_measurement_goes_on_where_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "change.json"
    rows = [
        change.Made(key, turn, "2026-11-26", Row(key, 10, 0, 0, 1.0, failures=("one",)))
        for key, turn in (
            ("routes", 1),
            ("release", 1),
            ("release-rollback", 1),
            ("routes", 2),
            ("release", 2),
        )
    ]
    change.write(path, "changes", change.record(rows, Rates()))
    # What the second release did is not there any more, so it is made again and taken back.
    assert change.earlier(path, change.NAMES) == rows[:4]
    assert change.earlier(path, ["routes"]) == rows
    assert change.earlier(tmp_path / "none.json", ["routes"]) == []


def test_what_takes_a_row_back_comes_right_after_it() -> None:
    for back, made in change.TAKES_BACK.items():
        assert change.NAMES.index(back) == change.NAMES.index(made) + 1


def test_bench_refuses_several_inventories(capsys: pytest.CaptureFixture[str]) -> None:
    both = ["-i", "inventory/lab", "-i", "inventory/example-change"]
    assert cli.main(["bench", "change", *both]) == USAGE
    assert "over one inventory" in capsys.readouterr().err


def test_to_go_on_a_file_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "change", "--continue"]) == USAGE
    assert "-o" in capsys.readouterr().err


def test_the_example_is_what_is_changed_unless_another_is_named() -> None:
    parsed = options.parser().parse_args(["bench", "change"])
    assert parsed.inventory == (Path("inventory/example-change"),)
    assert options.parser().parse_args(["bench", "change", "-i", "x"]).inventory == (Path("x"),)
    assert options.parser().parse_args(["ps"]).inventory == (Path("inventory/lab"),)
