"""The action plugin proves new rules by a connection of its own, and says when there is none."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

from plugins.action import host_firewall


class Connection:
    """Counts how often it was ended."""

    def __init__(self) -> None:
        self.ended = 0

    def reset(self) -> None:
        self.ended += 1


class Task:
    """What Ansible tells an action of its task."""

    args = {"operation": "close", "rules": [{"port": "ssh"}]}  # noqa: RUF012 - Ansible's own
    async_val = 0
    check_mode = False
    diff = False


class Played(host_firewall.ActionModule):
    """Answers as the module would, and keeps what it was given."""

    def __init__(self, *answers: Any) -> None:
        self._task, self._connection = Task(), Connection()
        self.answers, self.given = list(answers), list[dict[str, Any]]()

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        return super().run(tmp, task_vars)

    def _module(self, given: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        self.given.append(given)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        found: dict[str, Any] = answer
        return found


@pytest.fixture(autouse=True)
def no_preparation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ActionBase, "run", lambda *_: {})


PENDING = {"changed": True, "pending": True, "more": True}
KEPT = {"changed": True, "pending": False, "more": True}


def test_rules_that_wait_are_confirmed_by_a_new_connection() -> None:
    action = Played(PENDING, KEPT)
    assert action.run() == KEPT
    assert action._connection.ended == 1
    assert action.given == [Task.args, {**Task.args, "confirm": True}]


@pytest.mark.parametrize("answer", [{"changed": False, "pending": False}, {"failed": True}])
def test_without_new_rules_the_connection_stays(answer: dict[str, Any]) -> None:
    action = Played(answer)
    assert action.run() == answer
    assert action._connection.ended == 0


def test_a_host_that_lets_no_connection_in_is_told_with_what_happens_now() -> None:
    found = Played(PENDING, AnsibleConnectionFailure("timed out")).run()
    assert found["failed"]
    assert "puts the earlier ones back within 60 seconds" in found["msg"]
    assert found["msg"].endswith("The connection failed so: timed out")
