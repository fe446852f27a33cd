"""model -> compile -> render -> validate, once per run, on the controller."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from vmesh import paths
from vmesh.artifacts import ArtifactError, envoy_binary
from vmesh.compile import compile_mesh
from vmesh.inventory import from_hostvars
from vmesh.problems import Problems
from vmesh.render import write_plan
from vmesh.validate import validate_all


class ActionModule(ActionBase):  # type: ignore[misc]
    """Returns `hosts`: host name -> what runs there. That is a HostPlan as a mapping, with
    `proxies` by kind ("service", "edge"), each with the `config_dir` of its rendered files.

    Never "changed": it writes to the controller's build folder only. Fails with all
    problems of the inventory at once, before any host is touched.
    """

    _requires_connection = False
    _supports_check_mode = True

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        source = Path(variables["ansible_inventory_sources"][-1])
        folder = paths.build_dir(source)
        try:
            plan = compile_mesh(
                from_hostvars(source, variables["groups"], dict(variables["hostvars"]))
            )
            forms = write_plan(plan, folder)
            problems = validate_all(envoy_binary(), forms)
            if problems:
                raise Problems(problems)
        except Problems as found:
            raise AnsibleActionFail(
                f"{len(found.items)} problem(s) in {source}; no host was touched:\n{found}"
            ) from None
        except ArtifactError as missing:
            raise AnsibleActionFail(str(missing)) from None
        hosts = {name: dataclasses.asdict(host) for name, host in plan.hosts.items()}
        for name, host in hosts.items():
            host["proxies"] = {
                kind: [
                    {"name": proxy["name"], "config_dir": str(folder / name / proxy["name"])}
                    for proxy in host["proxies"]
                    if proxy["kind"] == kind
                ]
                for kind in ("service", "edge")
            }
        return {**result, "changed": False, "hosts": hosts}
