"""The history of an inventory on the controller, and the record of a host that went back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.mesh import worlds
from vmesh.rollout import history


def line(run: int, **results: str) -> history.Line:
    hosts = {
        host: {"result": result, "from": run - 1, "to": run} for host, result in results.items()
    }
    return {
        "run": run,
        "when": "2026-11-25T22:27:37+00:00",
        "who": "root@controller",
        "asked": "apply",
        "hosts": hosts,
    }


def test_lines_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert (history.read(tmp_path), history.newest(tmp_path)) == ([], 0)
    lines = [line(1, web1="applied"), line(2, web1="failed")]
    for each in lines:
        history.append(tmp_path / "new", each)
    assert history.read(tmp_path / "new") == lines
    assert history.newest(tmp_path / "new") == 2


def test_a_line_that_was_cut_off_harms_no_other(tmp_path: Path) -> None:
    history.append(tmp_path, line(1, web1="applied"))
    with (tmp_path / history.FILE).open("a") as file:
        file.write('{"run": 2, "ho')
    history.append(tmp_path, line(3, web1="applied"))
    assert [each["run"] for each in history.read(tmp_path)] == [1, 3]


def test_the_last_three_records_of_a_host_are_kept(tmp_path: Path) -> None:
    states = worlds.states()
    for number in (2, 4, 5, 11):
        history.keep(tmp_path, "web/1", number, {**states["web1"], "left": [str(number)]})
    assert history.numbers(tmp_path, "web/1") == [4, 5, 11]
    found = history.state(tmp_path, "web/1", 5)
    assert found is not None and found["left"] == ["5"]
    assert history.state(tmp_path, "web/1", 2) is None
    assert history.numbers(tmp_path, "web2") == []


def test_a_record_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    history.keep(tmp_path, "web1", 1, worlds.states()["web1"])
    (tmp_path / "states/web1/1.json").write_text("[]")
    assert history.state(tmp_path, "web1", 1) is None


@pytest.mark.parametrize(
    ("hosts", "undoes"), [(None, 4), (["web1"], 4), (["web2"], 1), (["web3"], None)]
)
def test_the_last_run_that_changed_something_is_the_one_to_undo(
    hosts: list[str] | None, undoes: int | None
) -> None:
    lines = [
        line(1, web1="applied"),
        line(2, web1="applied", web2="applied"),
        line(4, web2="restored", web3="failed"),
        line(5, web1="rolled back", web2="not begun"),
        line(6, web1="failed"),
    ]
    assert history.before_last(lines, hosts) == undoes


def test_hashes_tell_states_apart() -> None:
    one, two = worlds.states()["shop1"], worlds.states()["store1"]
    assert history.short(one) == history.short(dict(reversed(one.items())))
    assert history.short(one) != history.short(two)
    assert history.versions(one) == {"envoy": "1.40.0", "shop": "aaaa"}


def both() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a host's record now and then; all differs."""
    edits = (
        ("mesh_services/shop/app/environment/COLOR", "green"),
        ("mesh_services/shop/calls/stock/timeout", 9),
    )
    now = worlds.states()["shop1"]
    then = worlds.states(
        worlds.inventory(worlds.changed(*edits)),
        bundles={"shop": "older", "stock-next": "x"},
        versions={"envoy": "1.39.0", "jaeger": "2"},
    )["shop1"]
    return now, then


def test_a_host_that_went_back_as_a_whole_has_its_record_of_then() -> None:
    now, then = both()
    assert history.rolled_back({**now, history.UNRECORDED: ["flask@shop"]}, then, []) == then


def test_a_part_that_went_back_has_its_record_of_then() -> None:
    now, then = both()
    found = history.rolled_back(now, then, ["flask@shop"])
    assert found["bundles"] == then["bundles"]
    assert found["host"]["flask_services"] == then["host"]["flask_services"]
    assert found["host"]["proxies"] == now["host"]["proxies"]
    assert found["versions"] == now["versions"], "the binary is everybody's"
    found = history.rolled_back(found, then, ["envoy@shop"])
    assert found["host"]["proxies"] == then["host"]["proxies"]
    assert found["files"] == then["files"]
    assert now == both()[0], "what was passed is as it was"


def test_a_part_that_was_not_there_then_is_gone() -> None:
    now, _ = both()
    bare = worlds.states()["store1"]
    found = history.rolled_back(now, bare, ["flask@shop", "envoy@shop", "jaeger"])
    assert found["host"]["flask_services"] == found["host"]["proxies"] == []
    assert (found["bundles"], found["files"]) == ({}, {})
    again = history.rolled_back(found, now, ["flask@shop", "envoy@shop"])
    assert again["host"] == {**now["host"]}


def test_what_went_back_to_a_state_of_which_there_is_no_record_is_marked() -> None:
    now, then = both()
    found = history.rolled_back(now, None, ["flask@shop"])
    assert found == {**now, "rolled_back": ["flask@shop"]}
    found = history.rolled_back(found, None, [])
    assert found["rolled_back"] == ["everything", "flask@shop"]
    marked = {**now, "rolled_back": ["envoy@shop", "flask@shop"]}
    assert history.rolled_back(marked, then, ["flask@shop"])["rolled_back"] == ["envoy@shop"]
