"""What a host is told about its anchor, from what a run was told for all hosts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from plugins.action.host_info import ActionModule


class Action(ActionModule):
    """The action without Ansible: it keeps what the module would be given."""

    def __init__(self, **arguments: Any) -> None:
        self._task = SimpleNamespace(
            args=arguments, check_mode=False, async_val=0, action="", diff=False
        )
        self.given: dict[str, Any] = {}

    def _execute_module(self, **options: Any) -> dict[str, Any]:
        self.given = options["module_args"]
        return {"host": {"certs": {"clock": 0}}}


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"replace": "", "next": ""}, (False, False)),
        ({"replace": "web2", "next": "web1,web3"}, (False, True)),
        ({"replace": "web1,web2", "next": "web11"}, (True, False)),
        ({"replace": "web1"}, (True, False)),
    ],
)
def test_only_the_hosts_that_are_named_get_another_anchor(
    asked: dict[str, str], told: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ansible.plugins.action.ActionBase.run", lambda *_: {})
    action = Action(anchor={"name": "web1.shop.mesh", **asked})
    action.run(None, {"inventory_hostname": "web1"})
    anchor = action.given["anchor"]
    assert (anchor["replace"], anchor["next"]) == told
    assert anchor["clock"] > 0
