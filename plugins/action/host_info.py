"""Keeps what the module host_info tells of a host in a file, for who asked for that."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):  # type: ignore[misc]
    """Writes the answer to <answers>/<host>.json and returns nothing of it, as it is long.

    Without `answers` it is returned.
    """

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_diff = False

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        super().run(tmp, task_vars)
        options = dict(self._task.args)
        folder = options.pop("answers", None)
        result: dict[str, Any] = self._execute_module(
            module_name="vmesh.mesh.host_info", module_args=options, task_vars=task_vars
        )
        host = result.pop("host", None) if folder else None
        if host is not None:
            name = quote((task_vars or {})["inventory_hostname"], safe="")
            path = Path(folder) / f"{name}.json"
            # Nobody else on the controller needs to see what is configured.
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
                json.dump(host, file)
        return result
