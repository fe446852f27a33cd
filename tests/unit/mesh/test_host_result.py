"""What became of a host, from the variable that the playbooks set."""

from __future__ import annotations

from typing import Any

import pytest

from vmesh.rollout import history
from vmesh.rollout.host_result import HostResult, restoration

RUN, NEWEST = 7, 5


def result(**noted: Any) -> HostResult:
    return HostResult.of(noted, NEWEST, RUN, alive=True)


def test_a_host_is_unchanged_where_it_has_no_snapshot_of_this_run() -> None:
    applied = {"result": "applied", "from": 5}
    assert result(**applied, number=7) == HostResult(history.APPLIED, 5, 7)
    assert result(**applied, number=5) == HostResult(history.UNCHANGED, 5, 5)


def test_parts_that_left_are_only_gone_where_they_were_removed() -> None:
    applied = {"result": "applied", "from": 5, "number": 7}
    assert result(**applied, removed=True).removed
    assert not result(**applied).removed


def test_a_rollback_names_the_snapshot_that_it_restored() -> None:
    there = {"from": 5, "number": 7, "snapshot": 3}
    assert result(result="rolled back", **there) == HostResult("rolled back", 5, 7, snapshot=3)
    assert result(result="unchanged", **there).result == history.UNCHANGED


@pytest.mark.parametrize(("restored", "word"), [(True, "restored"), (False, "failed")])
def test_a_failed_host_says_why_and_what_it_has(restored: bool, word: str) -> None:
    noted = {"number": 6, "task": "Try it", "cause": "no room", "restored": restored}
    assert result(result="failed", **noted) == HostResult(word, 6, 6, "no room")


def test_a_host_with_its_new_parts_alone_has_not_begun_with_the_rollout() -> None:
    added = result(result="added", **{"from": 5}, number=7)
    assert added == HostResult(history.NOT_BEGUN, 7, 7), "the next state follows the new parts"


@pytest.mark.parametrize(("alive", "word"), [(True, "not begun"), (False, "unreachable")])
def test_a_host_without_a_result_took_no_part(alive: bool, word: str) -> None:
    assert HostResult.of(None, NEWEST, RUN, alive=alive) == HostResult(word, 5, 5)


@pytest.mark.parametrize(
    ("module", "restored", "told"),
    [
        ({"restored": ["envoy@a"], "errors": {}}, True, "The state of before is back"),
        ({"begun": False, "restored": []}, True, "Nothing had been changed yet."),
        ({"failed": True, "back": {}, "msg": "no"}, True, "The state of before is back"),
        ({"failed": True, "back": {"envoy@a": "x"}, "msg": "no"}, False, "put back: no"),
        ({"failed": True, "errors": {"envoy@a": "x"}, "msg": "no"}, False, "put back: no"),
        ({"unreachable": True, "msg": "no route"}, False, "put back: no route"),
        ({"skipped": True}, False, "Nothing was put back."),
        ({}, False, "Nothing was put back."),
    ],
)
def test_whether_the_state_of_before_is_back(
    module: dict[str, Any], restored: bool, told: str
) -> None:
    found = restoration(module)
    assert found["restored"] is restored
    assert told in found["told"]
