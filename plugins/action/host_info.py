"""Keeps what the module host_info tells of a host in a file, for who asked for that."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

from ..plugin_utils import package  # noqa: F401 - makes vmesh importable

# isort: split
from vmesh.remote import answers


def offset(clock: int, began: float, ended: float) -> int:
    """Return by how many seconds a host's clock is off at least; less than 0 is behind.

    clock: of the host at some moment between two of the controller
    """
    return round(clock - min(max(clock, began - 1), ended))


class ActionModule(ActionBase):  # type: ignore[misc]
    """Writes the answer to the folder `answers` and returns nothing of it, as it is long.

    Without `answers` it is returned.
    """

    MODULE = "vmesh.mesh.host_info"
    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_diff = False

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        super().run(tmp, task_vars)
        options = dict(self._task.args)
        folder = options.pop("answers", None)
        began = time.time()
        if anchor := options.get("anchor"):
            host = (task_vars or {})["inventory_hostname"]
            asked = {
                key: host in str(anchor.get(key, "")).split(",") for key in ("replace", "next")
            }
            options["anchor"] = {**anchor, **asked, "clock": began}
        result: dict[str, Any] = self._execute_module(
            module_name=self.MODULE, module_args=options, task_vars=task_vars
        )
        if certs := result.get("host", {}).get("certs"):
            certs["offset"] = offset(certs["clock"], began, time.time())
        if folder and (answer := self.answer(result)) is not None:
            answers.write(Path(folder), (task_vars or {})["inventory_hostname"], answer)
        return result

    def answer(self, result: dict[str, Any]) -> dict[str, Any] | None:
        """Take the answer out of what the module has returned; None where it has failed."""
        found: dict[str, Any] | None = result.pop("host", None)
        return found
