"""Carries the rendered files of one proxy from the controller to the module envoy_config."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ..module_utils.envoy_documents import Document, document_of, hide_secrets


def _read(path: Path) -> Document:
    """Return what is in a rendered file; raises AnsibleActionFail when it is no JSON object."""
    document = document_of(path.read_text("utf-8"))
    if not document:
        raise AnsibleActionFail(f"{path} is no JSON object; render it anew or correct it")
    return document


class ActionModule(ActionBase):  # type: ignore[misc]
    """Reads `config_dir` and hands its files over, so that a host needs one execution."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_diff = True

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        super().run(tmp, task_vars)
        options = dict(self._task.args)
        folder = Path(options.pop("config_dir"))
        parts = {
            str(path.relative_to(folder)): hide_secrets(_read(path))
            for path in sorted(folder.rglob("*.json"))
        }
        if not parts:
            raise AnsibleActionFail(f"{folder} holds no rendered configuration; run site.yml whole")
        # Ansible logs a module's options on the host, but for those that it is told not to.
        options["files"] = {name: document for name, (document, _) in parts.items()}
        options["secrets"] = {name: secrets for name, (_, secrets) in parts.items() if secrets}
        result: dict[str, Any] = self._execute_module(
            module_name="vmesh.mesh.envoy_config", module_args=options, task_vars=task_vars
        )
        return result
