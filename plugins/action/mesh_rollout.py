"""Decides, on the controller, which hosts take part in a run, in which order and batches."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase

from ..plugin_utils import package  # noqa: F401 - makes vmesh importable

# isort: split
from vmesh.model.types import RolloutPolicy
from vmesh.rollout import desired_state, history, record, run_lock
from vmesh.rollout.batches import RolloutPlan, in_the_way, rollback, rollout

_HAND_OVER = (
    "What is new begins before anything that is there ends, so two Envoys would want the same port."
    " Keep the name, or give the new one another port, or run site.yml without the new one first,"
    " so that the port is free. Nothing was changed."
)


class ActionModule(ActionBase):  # type: ignore[misc]
    """Returns the rollout (vmesh.rollout.batches) of a run, for the playbooks:

    run: its number; who: runs it; observe, max_fail, ...: as in mesh_rollout
    order: the hosts of all batches, one after the other, those on which nothing should change last
    batches: how many hosts each batch has; the last one has those too on which nothing changes
    new, removed: host -> parts; changing: hosts on which something that runs changes

    `hosts` are the hosts that answered (vmesh_answer), `artifacts` what they get. What the hosts
    will have then is written to the build folder, where mesh_record finds it. With `rollback` (any
    mapping) they go back to what they had, which they know themselves. Fails, with nothing done,
    where another run goes on (vmesh.rollout.run_lock), except in check mode. Never "changed".
    """

    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset(("hosts", "artifacts", "rollback"))

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        sources = [Path(source) for source in variables["ansible_inventory_sources"]]
        hostvars = variables["hostvars"]
        answers = {
            str(host): json.loads(hostvars[host]["vmesh_answer"]["stdout"])
            for host in self._task.args["hosts"]
        }
        place = record.folder(*sources)
        recorded = {host: state for host in answers if (state := record.earlier(place, host))}
        try:
            if not self._task.check_mode and (reason := _refusal(sources, answers, variables)):
                raise AnsibleActionFail(reason)
            if self._task.args.get("rollback") is not None:
                settings = desired_state.rollout_settings(sources, variables["groups"], hostvars)
                found = rollback(recorded, settings)
                return {**result, **self._told(found, settings, answers, place)}
            wanted, settings = desired_state.describe(
                sources, variables["groups"], hostvars, answers, self._task.args["artifacts"]
            )
            there = {host: answer["parts"] for host, answer in answers.items()}
            if conflicts := in_the_way(wanted, recorded, there):
                raise AnsibleActionFail(f"{' '.join(conflicts)} {_HAND_OVER}")
            found = rollout(
                wanted,
                recorded,
                there,
                settings,
                {host for host, answer in answers.items() if answer["interrupted"]},
            )
            if not self._task.check_mode:
                desired_state.keep(sources, wanted)
        except OSError as error:
            raise AnsibleActionFail(f"The build folder cannot be written: {error}") from None
        return {**result, **self._told(found, settings, answers, place)}

    @staticmethod
    def _told(
        found: RolloutPlan, settings: RolloutPolicy, answers: Mapping[str, Any], place: Path
    ) -> dict[str, Any]:
        order = [host for batch in found.batches for host in batch]
        sizes = [len(batch) for batch in found.batches] or [0]
        # They add to what the last batch takes less than a batch of their own would.
        sizes[-1] += len(found.steady)
        newest = max((answer["newest"] for answer in answers.values()), default=0)
        return {
            "changed": False,
            "run": 1 + max(newest, history.newest(place)),
            "who": run_lock.me(),
            "observe": settings.observe,
            "max_fail": settings.max_fail,
            "max_error_increase": settings.max_error_increase,
            "max_slowdown": settings.max_slowdown,
            "order": [*order, *found.steady],
            "batches": [size for size in sizes if size],
            "new": {host: list(parts) for host, parts in found.new.items()},
            "changing": order,
            "removed": {host: list(parts) for host, parts in found.removed.items()},
        }


def _refusal(
    sources: Sequence[Path], answers: Mapping[str, Any], variables: Mapping[str, Any]
) -> str:
    """Return why this run may not change the hosts; empty if it may, which is noted then.

    Raises OSError.
    """
    # Also for a rollback, which has no mesh_plan.
    if reason := run_lock.refused_here(desired_state.lock(sources)):
        return reason
    take_over = boolean(variables.get(run_lock.TAKE_OVER, False))
    return run_lock.refused_there(answers, run_lock.me(), take_over=take_over)
