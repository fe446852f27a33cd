"""model -> compile -> render -> validate, once per run, on the controller."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ..plugin_utils import package  # noqa: F401 - makes vmesh importable
from ..plugin_utils.host_plan import what_runs_on

# isort: split
from vmesh.artifacts import ArtifactError
from vmesh.artifacts.sources import check_sources
from vmesh.base.problems import WARNING, Problem, Problems, errors
from vmesh.base.words import plural
from vmesh.compile.compiler import compile_mesh
from vmesh.compile.host_spec import MeshSpec
from vmesh.model.inventory import from_hostvars
from vmesh.rollout import anchors, desired_state, record, run_lock


def summary(spec: MeshSpec, folder: Path) -> str:
    """Return what was compiled, in a line."""
    hosts = spec.hosts.values()
    counts = (
        (len(spec.mesh.services), "service"),
        (len(spec.mesh.edges), "edge"),
        (sum(len(host.proxies) for host in hosts), "Envoy"),
        (sum(len(host.flask_services) for host in hosts), "Flask app"),
        (sum(len(host.external_apps) for host in hosts), "external app"),
        (sum(host.jaeger is not None for host in hosts), "Jaeger"),
    )
    words = ", ".join(f"{count} {plural(word, count)}" for count, word in counts if count)
    return f"{words}; Envoys' files are in {folder}"


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


class ActionModule(ActionBase):  # type: ignore[misc]
    """Compiles and renders the mesh, the one time in a run. Returns:

    hosts: host name -> what runs there (plugins/plugin_utils/host_plan.py)
    leaving: host -> the parts it was recorded with, of hosts of this play that have none any more
    envoy_version: empty for the default

    What each host will have is kept beside the build folder for the later steps
    (vmesh.rollout.desired_state). Never "changed": it writes to the controller's build folder
    only. Fails with all problems of the inventory at once, before any host is touched, and where
    another run goes on (vmesh.rollout.run_lock), except in check mode. With -v it tells what it
    compiled and how long each step took.
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
        folder = desired_state.build_folder(sources, check=check)
        watch = Stopwatch()
        try:
            inventory = from_hostvars(Path(sources[-1]), variables["groups"], variables["hostvars"])
            watch.took("inventory")
            place = record.folder(*map(Path, sources))
            # What is rendered is where the mesh is to be in the end. A run that must take it there
            # in stages renders each of these: see mesh_rollout.
            spec = compile_mesh(inventory, anchors=anchors.load(place))
            watch.took("compile")
            sources_said = check_sources(spec)
            if missing_sources := errors(sources_said):
                raise Problems(missing_sources)
            if not check and (reason := run_lock.held_locally(desired_state.lock(sources))):
                raise AnsibleActionFail(reason)
            desired_state.make(inventory, spec, folder, watch.took)
        except Problems as found:
            self._warn(found.items)
            wrong = errors(found.items)
            raise AnsibleActionFail(
                f"{len(wrong)} problem(s) in {', '.join(sources)}; no host was touched:"
                f"\n{Problems(wrong)}"
            ) from None
        except ArtifactError as missing:
            raise AnsibleActionFail(str(missing)) from None
        except ValueError as error:  # of the anchors
            raise AnsibleActionFail(f"{error}. Nothing was changed.") from None
        except OSError as error:
            raise AnsibleActionFail(f"The build folder cannot be written: {error}") from None
        self._warn([*spec.warnings, *sources_said])
        self._display.v(f"mesh_plan: {summary(spec, folder)}")
        self._display.v(f"mesh_plan: {len(spec.hosts)} hosts: {watch}")
        hosts = {name: what_runs_on(host, folder / name) for name, host in spec.hosts.items()}
        # -v shows the lines above instead: this is long, and what a service is given may be secret.
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
        for host in variables["ansible_play_hosts"]:
            if host not in spec.hosts and (state := record.earlier(place, str(host))):
                found[str(host)] = sorted({*record.parts_of(state), *state["left"]})
        return found

    def _warn(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            if problem.severity == WARNING:
                self._display.warning(str(problem))
