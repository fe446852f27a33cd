"""Carries the rendered files of one proxy from the controller to the module envoy_config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ..module_utils.envoy_documents import hide_secrets
from ..module_utils.envoy_files import CERTIFICATES
from ..plugin_utils.envoy_folder import FolderError, read


class ActionModule(ActionBase):  # type: ignore[misc]
    """Checks `config_dir` and hands its files over, so that a host needs one execution."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_diff = True

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        super().run(tmp, task_vars)
        options = dict(self._task.args)
        folder = Path(options.pop("config_dir"))
        keys = options.pop("private_keys", None) or {}
        only = options.get("only") or []
        try:
            documents = read(folder, options["path"], options["admin_socket"])
        except FolderError as error:
            raise AnsibleActionFail(str(error)) from None
        parts = {
            name: hide_secrets(document)
            for name, document in documents.items()
            if not only or name in only
        }
        # Ansible logs a module's options on the host, but for those that it is told not to.
        options["files"] = {name: document for name, (document, _) in parts.items()}
        options["secrets"] = {name: secrets for name, (_, secrets) in parts.items() if secrets}
        for name, key in keys.items():
            secrets = options["secrets"].get(f"{CERTIFICATES}/{name}.json", {})
            secrets.update(dict.fromkeys(secrets, key))
        result: dict[str, Any] = self._execute_module(
            module_name="vmesh.mesh.envoy_config", module_args=options, task_vars=task_vars
        )
        return result
