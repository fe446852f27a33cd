"""Writes down, at the end of a run, what was applied to which host and what was not."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ..plugin_utils import package  # noqa: F401 - makes vmesh importable

# isort: split
from vmesh.render.renderer import Renderer
from vmesh.rollout import change_report, changes, desired_state, history, record
from vmesh.rollout.record import State


@dataclass(frozen=True)
class Fate:
    """What became of a host: a result of vmesh.rollout.history, its states' numbers, and why."""

    result: str
    before: int = 0
    after: int = 0
    cause: str = ""
    removed: bool = False


@dataclass
class Run:
    """A run as it is written down. `earlier` are the hosts' records before it."""

    place: Path
    number: int
    who: str
    asked: str
    earlier: dict[str, State] = field(default_factory=dict)
    written: list[str] = field(default_factory=list)


def fate(variables: Mapping[str, Any], run: int, *, alive: bool) -> Fate:
    """Return what became of a host of site.yml, from the variables that its plays have set."""
    found = variables.get("vmesh_result") or {}
    newest = _newest(variables)
    if not found and "removed" in (left := variables.get("vmesh_removed") or {}):
        # A host that had a part in the mesh and has none any more.
        result = history.FAILED if _failed(left) else history.APPLIED
        return Fate(result, int(left.get("from", 0)), int(left.get("number", run)), removed=True)
    if found.get("result") == "applied":
        removed = variables.get("vmesh_removed") or {}
        last = {**(variables.get("vmesh_committed") or {}), **removed}
        number = int(last.get("number", newest))
        # Its state has this run's number when the run changed anything there.
        result = history.APPLIED if number == run else history.UNCHANGED
        gone = not _failed(removed) and "removed" in removed
        return Fate(result, int(last.get("from", newest)), number, removed=gone)
    if found.get("result") == "failed":
        restored = variables.get("vmesh_restored") or {}
        back = bool(restored) and not _failed(restored) and not restored.get("skipped")
        cause = str(found.get("cause", ""))
        return Fate(history.RESTORED if back else history.FAILED, newest, newest, cause)
    result = history.NOT_BEGUN if alive else history.UNREACHABLE
    return Fate(result, newest, newest)


def fate_of_rollback(variables: Mapping[str, Any], _run: int, *, alive: bool) -> Fate:
    """Return what became of a host of a rollback."""
    restored = variables.get("vmesh_restored") or {}
    newest = restored.get("from", _newest(variables))
    if _failed(restored):
        back = "back" in restored and not restored["back"]
        result = history.RESTORED if back else history.FAILED
        return Fate(result, newest, newest, str(restored.get("msg", "")))
    if "number" in restored:
        result = history.ROLLED_BACK if restored.get("restored") else history.UNCHANGED
        return Fate(result, newest, restored["number"])
    return Fate(history.NOT_BEGUN if alive else history.UNREACHABLE, newest, newest)


def _failed(result: Mapping[str, Any]) -> bool:
    return bool(result.get("failed") or result.get("unreachable"))


def _newest(variables: Mapping[str, Any]) -> int:
    """Return the number of a host's newest state: what it answered, or what it committed since."""
    committed = variables.get("vmesh_committed") or {}
    if committed.get("number"):
        return int(committed["number"])
    answer = variables.get("vmesh_answer") or {}
    return int(json.loads(answer.get("stdout") or "{}").get("newest", 0))


class ActionModule(ActionBase):  # type: ignore[misc]
    """Writes applied/<inventory>/: <host>.json (vmesh.rollout.record) for each host that has the
    state of this run, and a line of the history (vmesh.rollout.history). Arguments:

    run, who, asked: its number, who runs it, and what was asked for in a word or two
    hosts: those still in the play
    rollback: {parts: [...]}, of a rollback; without it, what site.yml was to apply is recorded

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
        place = record.folder(*sources)
        alive = {str(host) for host in arguments["hosts"]}
        rollback = arguments.get("rollback")
        hostvars = variables["hostvars"]
        groups = variables["groups"]
        leaving = set(groups.get("mesh_remove", ())) if rollback is None else set()
        taking_part = sorted({str(host) for host in (*groups.get("mesh_hosts", alive), *leaving)})
        of = fate if rollback is None else fate_of_rollback
        number = int(arguments["run"])
        fates = {host: of(hostvars[host], number, alive=host in alive) for host in taking_part}
        run = Run(place, number, arguments["who"], arguments.get("asked", "apply"))
        try:
            run.earlier = {h: state for h in fates if (state := record.earlier(place, h))}
            if rollback is None:
                states = _applied(run, fates, desired_state.kept(sources))
            else:
                states = _rolled_back(run, fates, hostvars, list(rollback.get("parts") or ()))
            line = _line(run, fates, states)
            if line is not None:
                history.append(place, line)
        except OSError as error:
            raise AnsibleActionFail(
                f"All is done, but {place} cannot be written ({error.strerror}), so"
                " `./mesh plan` will compare with what was there before. Make it writable"
                " and run site.yml again."
            ) from None
        return {
            **result,
            "changed": False,
            "folder": str(place),
            "run": run.number,
            "written": run.written,
            "hosts": _by_result(fates),
        }


def _applied(run: Run, fates: Mapping[str, Fate], wanted: Mapping[str, State]) -> dict[str, State]:
    """Record the hosts that have what the run was to give them; return their states."""
    states = {}
    for host, what in fates.items():
        if what.result not in {history.APPLIED, history.UNCHANGED}:
            continue
        if host not in wanted:  # it has left the mesh, and nothing of it is there any more
            record.forget(run.place, [host])
            continue
        state = dict(wanted[host])
        left = record.left_behind(run.earlier.get(host), state)
        state["left"] = [] if what.removed else left
        states[host] = state
        _write(run, host, what, state)
    return states


def _rolled_back(
    run: Run, fates: Mapping[str, Fate], hostvars: Mapping[str, Any], parts: list[str]
) -> dict[str, State]:
    """Record the hosts that went back to an earlier state, as they were recorded then."""
    states = {}
    for host, what in fates.items():
        present = run.earlier.get(host)
        if what.result != history.ROLLED_BACK or present is None:
            continue
        to = hostvars[host]["vmesh_restored"].get("state", 0)
        here = [part for part in parts if part]
        state = history.rolled_back(present, history.state(run.place, host, to), here)
        states[host] = state
        _write(run, host, what, state)
    return states


def _write(run: Run, host: str, what: Fate, state: State) -> None:
    earlier = run.earlier.get(host)
    if (
        earlier is not None
        and what.before == 0 < what.after
        and not history.numbers(run.place, host)
    ):
        # The host calls 0 what was there before it kept states.
        history.keep(run.place, host, 0, earlier)
    if record.write(run.place, host, state):
        run.written.append(host)
    if history.UNRECORDED not in state and what.after:
        history.keep(run.place, host, what.after, state)


def _line(run: Run, fates: Mapping[str, Fate], states: Mapping[str, State]) -> history.Line | None:
    """Return the line of the run; None when it changed nothing and nothing went wrong."""
    told = {host: each for host, each in fates.items() if each.result != history.UNCHANGED}
    if not any(each.result != history.NOT_BEGUN for each in told.values()):
        return None
    words = _words(run.earlier, {host: states[host] for host in told if host in states})
    hosts = {}
    for host, each in told.items():
        state = states.get(host)
        hosts[host] = {
            "from": each.before,
            "to": each.after,
            "result": each.result,
            **({"cause": each.cause} if each.cause else {}),
            **({"what": words[host]} if words.get(host) else {}),
            **(
                {"versions": history.versions(state), "state": history.short(state)}
                if state
                else {}
            ),
        }
    return {
        "run": run.number,
        "when": _now(),
        "who": run.who,
        "asked": run.asked,
        "hosts": hosts,
    }


def _words(before: Mapping[str, State], after: Mapping[str, State]) -> dict[str, list[str]]:
    """Return host -> what changed there, in words."""
    renderer = Renderer()  # one for all: it renders nothing twice

    def rerender(proxy: Mapping[str, Any]) -> dict[str, str] | None:
        try:
            texts = renderer.files(record.proxy_from(proxy))
        except Exception:  # of an older version, which is no reason to fail now
            return None
        return {path: record.digest(text) for path, text in texts.items()}

    found: dict[str, list[str]] = {}
    for change in change_report.pending(changes.compare(before, {**before, **after}, rerender)):
        found.setdefault(change.host, []).append(f"{change.part}: {change.text}")
    return found


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _by_result(fates: Mapping[str, Fate]) -> dict[str, list[str]]:
    return {
        result.replace(" ", "_"): [host for host, each in fates.items() if each.result == result]
        for result in (
            history.APPLIED,
            history.RESTORED,
            history.FAILED,
            history.NOT_BEGUN,
            history.UNREACHABLE,
            history.UNCHANGED,
            history.ROLLED_BACK,
        )
    }
