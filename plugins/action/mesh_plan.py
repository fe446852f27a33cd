"""model -> compile -> render -> validate, once per run, on the controller."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from vmesh import paths
from vmesh.artifacts import ArtifactError, envoy_binary
from vmesh.compile import compile_mesh
from vmesh.inventory import from_hostvars
from vmesh.plan import HostPlan
from vmesh.problems import ERROR, WARNING, Problem, Problems
from vmesh.render import write_plan
from vmesh.sources import check_sources
from vmesh.validate import validate_all


def build_folder(sources: Sequence[str]) -> Path:
    """Return where the configuration made from these inventory sources goes.

    One source has the folder that `./mesh render` gives it; several together make another
    inventory than any of them, and have a folder of their own.
    """
    folders = [
        paths.build_dir(Path("hosts" if "," in source and not Path(source).exists() else source))
        for source in sources
    ]
    return folders[0].with_name("+".join(folder.name for folder in folders))


def what_runs_on(host: HostPlan, folder: Path) -> dict[str, Any]:
    """Return what the playbooks and roles take of `host`, whose files are in `folder`.

    The proxies' views stay behind: they are nearly all of a plan, rendered by now, and every
    host's variables hold what this returns.
    """
    return {
        **dataclasses.asdict(dataclasses.replace(host, proxies=())),
        "proxies": {
            kind: [
                {"name": proxy.name, "config_dir": str(folder / proxy.name)}
                for proxy in host.proxies
                if proxy.kind == kind
            ]
            for kind in ("service", "edge")
        },
    }


class Stopwatch:
    """Takes the seconds of one step after the other."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.monotonic()

    def took(self, step: str) -> None:
        now = time.monotonic()
        self.seconds[step] = now - self.last
        self.last = now

    def __str__(self) -> str:
        return ", ".join(f"{step} {seconds:.2f} s" for step, seconds in self.seconds.items())


def _stop_at(problems: list[Problem]) -> None:
    if problems:
        raise Problems(problems)


class ActionModule(ActionBase):  # type: ignore[misc]
    """Returns `hosts`: host name -> what runs there. That is a HostPlan as a mapping, with
    `proxies` by kind ("service", "edge"), each with the `config_dir` of its rendered files.

    Never "changed": it writes to the controller's build folder only. Fails with all
    problems of the inventory at once, before any host is touched. With -v it tells how long
    each step took.
    """

    _requires_connection = False
    _supports_check_mode = True

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        sources: list[str] = variables["ansible_inventory_sources"]
        folder = build_folder(sources)
        watch = Stopwatch()
        try:
            inventory = from_hostvars(Path(sources[-1]), variables["groups"], variables["hostvars"])
            watch.took("inventory")
            plan = compile_mesh(inventory)
            watch.took("compile")
            _stop_at(check_sources(plan))
            forms = write_plan(plan, folder)
            watch.took("render")
            _stop_at(validate_all(envoy_binary(), forms))
            watch.took("validate")
        except Problems as found:
            self._warn(found.items)
            errors = [item for item in found.items if item.severity == ERROR]
            raise AnsibleActionFail(
                f"{len(errors)} problem(s) in {', '.join(sources)}; no host was touched:"
                f"\n{Problems(errors)}"
            ) from None
        except ArtifactError as missing:
            raise AnsibleActionFail(str(missing)) from None
        self._warn(plan.warnings)
        self._display.v(f"mesh_plan: {len(plan.hosts)} hosts: {watch}")
        hosts = {name: what_runs_on(host, folder / name) for name, host in plan.hosts.items()}
        # Not shown with -v: it is long, and what a service is given may be a secret.
        return {**result, "_ansible_verbose_override": True, "changed": False, "hosts": hosts}

    def _warn(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            if problem.severity == WARNING:
                self._display.warning(str(problem))
