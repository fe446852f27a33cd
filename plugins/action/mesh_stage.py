"""Renders the next stage of a run that changes how proxies speak, and says who takes part in it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ..plugin_utils import package  # noqa: F401 - makes vmesh importable
from ..plugin_utils.run_security import course

# isort: split
from vmesh.artifacts import ArtifactError
from vmesh.base.problems import Problems
from vmesh.base.words import shortened
from vmesh.render.renderer import Renderer
from vmesh.rollout import anchors, changes, desired_state, record
from vmesh.rollout.batches import Member, batches
from vmesh.rollout.host_result import not_applied
from vmesh.rollout.security_run import NARROW, SPEAK


class ActionModule(ActionBase):  # type: ignore[misc]
    """Returns of a stage (vmesh.rollout.stages):

    hosts: host -> its parts that the stage changes
    removed: host -> its parts that are removed when they have changed
    order, batches: these hosts one after the other, and how many each batch has

    Arguments: `stage` (speak or narrow), `artifacts` as mesh_rollout takes them. A stage begins
    when all hosts that take part in the run have completed those before it: else `hosts` is empty,
    and a warning says why. What is rendered replaces the stage before in the build folder, and is
    validated. Before `narrow`, each host tells in `vmesh_plaintext` who spoke plaintext to it
    (module plaintext_callers); such a service stays permissive, and a warning names the callers.
    And `vmesh_signed` tells of each host that has taken its next anchor (module host_rollover);
    the former one is trusted no more after `narrow`.
    Never "changed".
    """

    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset(("stage", "artifacts"))

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        stage = str(self._task.args["stage"])
        if stage not in {SPEAK, NARROW}:
            raise AnsibleActionFail(f"stage is {stage!r}. Set it to {SPEAK} or {NARROW}.")
        hostvars, rollout = variables["hostvars"], variables["vmesh_rollout"]
        hosts = [str(host) for host in rollout["taking_part"]]
        nothing = {**result, "changed": False, "hosts": {}, "order": [], "batches": []}
        nothing["removed"] = {}
        if unfinished := not_applied(hosts, hostvars):
            self._display.warning(
                f"{shortened(unfinished)} did not complete what comes before, so how proxies speak"
                " with each other is not changed further. Run site.yml again."
            )
            return nothing
        try:
            return {**nothing, **self._prepared(stage, hosts, variables)}
        except (Problems, ArtifactError, desired_state.NoPlanError, ValueError, OSError) as error:
            raise AnsibleActionFail(
                f"The stage {stage} cannot be prepared, and was not begun: {error}"
            ) from None

    def _prepared(
        self, stage: str, hosts: Collection[str], variables: Mapping[str, Any]
    ) -> dict[str, Any]:
        hostvars = variables["hostvars"]
        sources = [Path(source) for source in variables["ansible_inventory_sources"]]
        place = record.folder(*sources)
        answers = {host: hostvars[host]["vmesh_answer"]["host"] for host in hosts}
        found = course(
            variables,
            answers,
            variables["vmesh_plan"]["leaving"],
            anchors.load(place),
            _plaintext(hosts, hostvars) if stage == NARROW else None,
            _turned(variables) if stage == NARROW else (),
        )
        if found is None:
            return {}
        if stage == NARROW:
            if not self._task.check_mode:
                anchors.keep(place, found.run.plan(NARROW).anchors)
            for sentence in found.run.stages.stays:
                self._display.warning(sentence)
        proxies = found.changed_by(stage, hosts)
        if not proxies:
            return {}
        folder = desired_state.build_folder(sources, check=self._task.check_mode)
        desired_state.make(found.inventory, found.compiled(stage), folder)
        policy, planned = desired_state.load(folder)
        wanted = desired_state.completed(planned, answers, self._task.args["artifacts"])
        before = record.earlier_of(place, wanted)
        rerender = desired_state.rerender(Renderer())
        desired_state.decide(folder, wanted, changes.sentences(before, wanted, rerender))
        groups = batches([Member(host, frozenset(proxies[host])) for host in proxies], policy)
        for host, names in proxies.items():
            self._display.v(f"mesh_stage: {stage}: {', '.join(names)} on {host}")
        parts = {host: found.parts(stage, host, names) for host, names in proxies.items()}
        return {
            "hosts": {host: changed for host, (changed, _) in parts.items()},
            "removed": {host: gone for host, (_, gone) in parts.items() if gone},
            "order": [host for group in groups for host in group],
            "batches": [len(group) for group in groups],
        }


def _turned(variables: Mapping[str, Any]) -> list[str]:
    """Return the hosts that sign by a new anchor since this run (module host_rollover)."""
    return [
        host
        for host in variables["vmesh_rollout"]["rollover"]
        if (variables["hostvars"][host].get("vmesh_signed") or {}).get("done")
    ]


def _plaintext(
    hosts: Collection[str], hostvars: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[str]]:
    """Return service -> addresses that spoke plaintext to it, of all its hosts."""
    found: dict[str, list[str]] = {}
    for host in hosts:
        told = (hostvars[host].get("vmesh_plaintext") or {}).get("callers") or {}
        for name, addresses in told.items():
            found[name] = sorted({*found.get(name, ()), *addresses})
    return found
