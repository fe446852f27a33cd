"""Keeps what the module host_uninstall finds on a host in a file, for `./mesh remove`."""

from __future__ import annotations

from typing import Any

from . import host_info

KEYS = ("removed", "kept", "interrupted")


class ActionModule(host_info.ActionModule):
    """Returns what the module does, and writes it to the folder `answers`, if there is one."""

    MODULE = "vmesh.mesh.host_uninstall"

    def answer(self, result: dict[str, Any]) -> dict[str, Any] | None:
        return {key: result[key] for key in KEYS} if "removed" in result else None
