"""Writes down, at the end of a run, what was applied to the hosts that got that far."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from vmesh import record
from vmesh.compile import compile_mesh
from vmesh.inventory import from_hostvars
from vmesh.render import Renderer


class ActionModule(ActionBase):  # type: ignore[misc]
    """Writes applied/<inventory>/<host>.json for each of `hosts`; see vmesh.record.

    `artifacts` is what the action `artifacts` found for this run. Never "changed": a record says
    what a run has done and does nothing itself. Does nothing in check mode.
    """

    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset(("hosts", "artifacts"))

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        if self._task.check_mode:
            return {**result, "skipped": True, "msg": "nothing is applied in check mode"}
        variables = task_vars or {}
        sources = [Path(source) for source in variables["ansible_inventory_sources"]]
        inventory = from_hostvars(sources[-1], variables["groups"], variables["hostvars"])
        plan = compile_mesh(inventory)
        secrets, render = record.Secrets.of(inventory), Renderer().files
        place = record.folder(*sources)
        artifacts = self._task.args["artifacts"]
        written = []
        for host in self._task.args["hosts"]:
            answer = json.loads(variables["hostvars"][host]["vmesh_answer"]["stdout"])
            platform = {key: str(answer[key]) for key in ("arch", "python")}
            described = record.describe(
                plan.hosts[host],
                secrets,
                render,
                versions=_versions(artifacts, platform["arch"]),
                bundles={
                    service.name: artifacts["bundles"][service.name][_key(platform)]["version"]
                    for service in plan.hosts[host].flask_services
                },
                platform=platform,
                variables=inventory.hosts[host],
            )
            state = described.state
            state["left"] = record.left_behind(record.earlier(place, str(host)), state)
            try:
                if record.write(place, str(host), state):
                    written.append(str(host))
            except OSError as error:
                raise AnsibleActionFail(
                    f"All is applied, but {place} cannot be written ({error.strerror}), so"
                    " `./mesh plan` will compare with what was there before. Make it writable"
                    " and run site.yml again."
                ) from None
        return {**result, "changed": False, "folder": str(place), "written": written}


def _key(platform: dict[str, str]) -> str:
    return f"{platform['python']}/{platform['arch']}"


def _versions(artifacts: dict[str, Any], arch: str) -> dict[str, str]:
    return {
        name: str(artifacts[name][arch]["version"])
        for name in ("envoy", "jaeger")
        if arch in artifacts.get(name, {})
    }
