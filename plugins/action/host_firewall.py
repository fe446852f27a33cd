"""Changes a host's firewall, and proves by a new connection that nobody is locked out."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

LOCKED_OUT = (
    "The new rules of the firewall let no new ssh connection in, so the host puts the earlier ones"
    " back within 60 seconds. See mesh_firewall.ssh_from, and whether the controller comes from"
    " another address now. The connection failed so: "
)


class ActionModule(ActionBase):  # type: ignore[misc]
    """Runs the module host_firewall; where its rules wait for a proof, once more.

    The second time goes by a connection of its own: `reset` ends the one that is kept open
    (ControlPersist), which the rules would let pass for as long as it lives.
    """

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_diff = False
    _VALID_ARGS = frozenset({"operation", "rules"})

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        super().run(tmp, task_vars)
        result = self._module(self._task.args, task_vars)
        if not result.get("pending"):
            return result
        self._connection.reset()
        try:
            return self._module({**self._task.args, "confirm": True}, task_vars)
        except AnsibleConnectionFailure as error:
            return {"failed": True, "msg": f"{LOCKED_OUT}{error}"}

    def _module(self, given: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(
            module_name="vmesh.mesh.host_firewall", module_args=given, task_vars=task_vars
        )
        return result
