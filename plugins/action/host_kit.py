"""Sends the sources of the host kit to a host that lacks them."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

SOURCES = Path(__file__).resolve().parents[1] / "module_utils"


@functools.cache
def kit() -> tuple[str, dict[str, str]]:
    """Return the version of the host kit, and the text of each of its modules by name."""
    sources = {path.stem: path.read_text("utf-8") for path in sorted(SOURCES.glob("*.py"))}
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()[:12], sources


class ActionModule(ActionBase):  # type: ignore[misc]
    """Runs the module host_kit; once more, with the sources, where the host lacks the version."""

    MODULE = "vmesh.mesh.host_kit"
    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_diff = False
    _VALID_ARGS = frozenset({"users"})

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        super().run(tmp, task_vars)
        version, sources = kit()
        given: dict[str, Any] = {**self._task.args, "version": version}
        result: dict[str, Any] = self._module(given, task_vars)
        if result.get("missing") and not self._task.check_mode:
            result = self._module({**given, "sources": sources}, task_vars)
        return result

    def _module(self, given: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(
            module_name=self.MODULE, module_args=given, task_vars=task_vars
        )
        return result
