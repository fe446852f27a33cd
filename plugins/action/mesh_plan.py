"""model -> compile -> render -> validate, once per run, on the controller."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ..plugin_utils import package  # noqa: F401 - makes vmesh importable

# isort: split
from vmesh.artifacts import ArtifactError, envoy_binary
from vmesh.artifacts.sources import check_sources
from vmesh.base.problems import ERROR, WARNING, Problem, Problems
from vmesh.compile.compiler import compile_mesh
from vmesh.compile.host_spec import HostSpec, MeshSpec
from vmesh.model.inventory import from_hostvars
from vmesh.render.renderer import write_files
from vmesh.render.validate import validate_all
from vmesh.rollout import record, run_lock
from vmesh.rollout.desired_state import build_folder, lock


def what_runs_on(host: HostSpec, folder: Path) -> dict[str, Any]:
    """Return what the playbooks and roles take of `host`, whose files are in `folder`.

    The proxies' views stay behind: they are nearly all of a spec, rendered by now, and every
    host's variables hold what this returns.
    """
    return {
        **dataclasses.asdict(dataclasses.replace(host, proxies=())),
        "proxies": {
            kind: [
                {
                    "name": proxy.name,
                    "config_dir": str(folder / proxy.name),
                    # The upstreams of which one instance can be left out.
                    "balanced": [
                        cluster["name"]
                        for cluster in proxy.view["clusters"]
                        if cluster["type"] == "eds" and len(cluster["endpoints"]) > 1
                    ],
                }
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
    """Returns `hosts`: host name -> what runs there. That is a HostSpec as a mapping, with
    `proxies` by kind ("service", "edge"), each with the `config_dir` of its rendered files; and
    `envoy_version`, empty for the default; and `leaving`: host -> the parts it was recorded with,
    of hosts that have none any more.

    Never "changed": it writes to the controller's build folder only. Fails with all
    problems of the inventory at once, before any host is touched, and where another run goes on
    (vmesh.rollout.run_lock), except in check mode. With -v it tells how long each step took.
    """

    _requires_connection = False
    _supports_check_mode = True

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        sources: list[str] = variables["ansible_inventory_sources"]
        check = self._task.check_mode
        folder = build_folder(sources, check=check)
        watch = Stopwatch()
        try:
            inventory = from_hostvars(Path(sources[-1]), variables["groups"], variables["hostvars"])
            watch.took("inventory")
            spec = compile_mesh(inventory)
            watch.took("compile")
            _stop_at(check_sources(spec))
            if not check and (reason := run_lock.refused_here(lock(sources))):
                raise AnsibleActionFail(reason)
            forms = write_files(spec, folder)
            watch.took("render")
            _stop_at(validate_all(envoy_binary(version=spec.mesh.envoy_version), forms))
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
        except OSError as error:
            raise AnsibleActionFail(f"The build folder cannot be written: {error}") from None
        self._warn(spec.warnings)
        self._display.v(f"mesh_plan: {len(spec.hosts)} hosts: {watch}")
        hosts = {name: what_runs_on(host, folder / name) for name, host in spec.hosts.items()}
        # Not shown with -v: it is long, and what a service is given may be a secret.
        return {
            **result,
            "_ansible_verbose_override": True,
            "changed": False,
            "hosts": hosts,
            "leaving": self._leaving(spec, variables),
            "envoy_version": spec.mesh.envoy_version or "",
        }

    @staticmethod
    def _leaving(spec: MeshSpec, variables: dict[str, Any]) -> dict[str, list[str]]:
        place = record.folder(*map(Path, variables["ansible_inventory_sources"]))
        found = {}
        for host in variables["groups"]["all"]:
            if host not in spec.hosts and (state := record.earlier(place, str(host))):
                found[str(host)] = sorted({*record.parts_of(state), *state["left"]})
        return found

    def _warn(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            if problem.severity == WARNING:
                self._display.warning(str(problem))
