"""Keeps what the module mutual_requests tells in a file, for `./mesh certs verify`."""

from __future__ import annotations

from typing import Any

from . import host_info


class ActionModule(host_info.ActionModule):
    """Writes the answer to the folder `answers`, if there is one."""

    MODULE = "vmesh.mesh.mutual_requests"

    def answer(self, result: dict[str, Any]) -> dict[str, Any] | None:
        return {"found": result["found"]} if "found" in result else None
