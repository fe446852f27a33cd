"""Writes down, at the end of a run, what was applied to which host and what was not."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ..plugin_utils import package  # noqa: F401 - makes vmesh importable

# isort: split
from vmesh.rollout import desired_state, record
from vmesh.rollout.host_result import HostResult, skipped
from vmesh.rollout.recording import MeshRun, by_result


class ActionModule(ActionBase):  # type: ignore[misc]
    """Writes applied/<inventory>/: <host>.json (vmesh.rollout.record) for each host that has the
    state of this run, and a line of the history (vmesh.rollout.history). Arguments:

    run, who, asked: its number, who runs it, and what was asked for in a word or two
    hosts: those still in the play
    rollback: {parts: [...]}, of a rollback; without it, what site.yml was to apply is recorded

    What became of a host is in its variable `vmesh_result` (vmesh.rollout.host_result). A run with
    --tags or --skip-tags has applied some of a state, so it writes its line and no record.

    Returns `hosts`, the hosts by what became of them: applied, restored, failed, not_begun,
    unreachable, unchanged, rolled_back. (Ansible itself makes something of some of these words.)
    Never "changed": a record says what a run has done and does nothing itself. Does nothing in
    check mode.
    """

    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset(("run", "who", "asked", "hosts", "rollback"))

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        if self._task.check_mode:
            return {**result, "skipped": True, "msg": "nothing is applied in check mode"}
        variables, arguments = task_vars or {}, self._task.args
        sources = [Path(source) for source in variables["ansible_inventory_sources"]]
        tags = _tags(variables)
        run = MeshRun(
            record.folder(*sources),
            int(arguments["run"]),
            arguments["who"],
            " ".join([arguments.get("asked", "apply"), *tags]),
            whole=not tags,
        )
        rollback = arguments.get("rollback")
        groups = variables["groups"]
        alive = {str(host) for host in arguments["hosts"]}
        hosts = {str(host) for host in groups.get("mesh_hosts", alive)}
        if rollback is None:
            hosts |= {str(host) for host in groups.get("mesh_remove", ())}
        results = _results(hosts, alive, run.number, variables["hostvars"])
        try:
            run.load_earlier(results)
            if rollback is None:
                decided = desired_state.load_decided(desired_state.build_folder(sources))
                run.applied(results, *decided)
            else:
                run.rolled_back(results, [part for part in rollback.get("parts") or () if part])
        except desired_state.NoPlanError as error:
            raise AnsibleActionFail(str(error)) from None
        except OSError as error:
            raise AnsibleActionFail(
                f"All is done, but {run.place} cannot be written ({error.strerror}), so"
                " `./mesh plan` will compare with what was there before. Make it writable"
                " and run site.yml again."
            ) from None
        return {
            **result,
            "changed": False,
            "folder": str(run.place),
            "run": run.number,
            "written": run.written,
            "hosts": by_result(results),
        }


def _tags(variables: Mapping[str, Any]) -> list[str]:
    """Return the options by which Ansible was told to leave tasks out."""
    only = ",".join(variables.get("ansible_run_tags") or ())
    without = ",".join(skipped(variables.get("ansible_skip_tags") or ()))
    found = [f"--tags {only}"] if only not in {"", "all"} else []
    return [*found, *([f"--skip-tags {without}"] if without else [])]


def _results(
    hosts: Collection[str], alive: Collection[str], run: int, hostvars: Mapping[str, Any]
) -> dict[str, HostResult]:
    """Return what the run has made of each host."""
    found = {}
    for host in sorted(hosts):
        variables = hostvars[host]
        answer = (variables.get("vmesh_answer") or {}).get("host") or {}
        found[host] = HostResult.of(
            variables.get("vmesh_result"), int(answer.get("newest", 0)), run, alive=host in alive
        )
    return found
