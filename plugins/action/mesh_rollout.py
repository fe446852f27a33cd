"""Decides, on the controller, which hosts take part in a run, in which order and batches."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase

from ..plugin_utils import (
    package,  # noqa: F401 - makes vmesh importable
    run_security,
)
from ..plugin_utils.run_security import Course

# isort: split
from vmesh.artifacts import ArtifactError
from vmesh.base.pem import certificates_in
from vmesh.base.problems import Problems
from vmesh.base.words import shortened
from vmesh.compile.host_spec import GUARD, JAEGER
from vmesh.compile.security import callees, target
from vmesh.model.types import RolloutPolicy
from vmesh.render.renderer import Renderer
from vmesh.rollout import (
    anchors,
    changes,
    desired_state,
    firewall_preflight,
    history,
    record,
    run_lock,
)
from vmesh.rollout.batches import RolloutPlan, in_the_way, rollback, rollout
from vmesh.rollout.decision_table import decision_lines
from vmesh.rollout.security_run import (
    NARROW,
    ROLLOUT,
    SPEAK,
    distrusted,
    same,
    seen_in,
    trusting,
)
from vmesh.rollout.stages import Seen

_HAND_OVER = (
    "What is new begins before anything that is there ends, so two Envoys would want the same port."
    " Keep the name, or give the new one another port, or run site.yml without the new one first,"
    " so that the port is free. Nothing was changed."
)


@dataclass(frozen=True)
class Known:
    """What there is to decide by.

    answers: host -> what host_info told of it; recorded: host -> its record, of those that have one
    variables: Ansible's own, of the task
    """

    sources: list[Path]
    answers: Mapping[str, Any]
    recorded: Mapping[str, record.HostRecord]
    variables: Mapping[str, Any]


class ActionModule(ActionBase):  # type: ignore[misc]
    """Returns the rollout (vmesh.rollout.batches) of a run, for the playbooks:

    run: its number; who: runs it; observe, max_fail, ...: as in mesh_rollout
    order: the hosts of all batches, one after the other, those on which nothing should change last
    batches: how many hosts each batch has; the last one has those too on which nothing changes
    firewall: the hosts that have a firewall of vmesh, or are to have one
    new, removed: host -> parts; changing: hosts on which something that runs changes
    rollover: hosts that have a next anchor, and are to sign by it in this run
    forget: hosts whose keys and leaves are removed
    taking_part: the hosts of this run
    stages: of a run that changes how proxies speak with each other (vmesh.rollout.stages):
        `grant`, `speak` and `narrow`, each host -> the proxies that the stage changes
    meanwhile: host -> what runs there until the stage narrow, where that is other than in the end

    `hosts` are the hosts that answered (vmesh_answer), `artifacts` what they get, `leaving` what
    mesh_plan returned. mesh_plan has left what each host will have; what changes there is added to
    it for mesh_record. With `rollback` (any mapping) the hosts go back to what they had, which they
    know themselves. Fails, with nothing done, where another run goes on (vmesh.rollout.run_lock),
    except in check mode; where a host that takes no part would refuse a new caller; and where a
    rollback would have proxies speak in another way than their peers. Never "changed". With -v it
    tells which host takes part, when and why.
    """

    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset(("hosts", "artifacts", "leaving", "rollback"))

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        sources = [Path(source) for source in variables["ansible_inventory_sources"]]
        answers = {
            str(host): variables["hostvars"][host]["vmesh_answer"]["host"]
            for host in self._task.args["hosts"]
        }
        place = record.folder(*sources)
        known = Known(sources, answers, record.earlier_of(place, answers), variables)
        decide = self._rollback if "rollback" in self._task.args else self._rollout
        try:
            if not self._task.check_mode:
                self._refuse_second_run(known)
            course = self._course(known, place)
            plan, policy, walled = decide(known)
        except (desired_state.NoPlanError, ArtifactError) as error:
            raise AnsibleActionFail(str(error)) from None
        except Problems as error:
            raise AnsibleActionFail(f"{error}\nNothing was changed.") from None
        except ValueError as error:
            raise AnsibleActionFail(f"{error}. Nothing was changed.") from None
        except OSError as error:
            raise AnsibleActionFail(f"The build folder cannot be written: {error}") from None
        changing = [host for batch in plan.batches for host in batch]
        sizes = [len(batch) for batch in plan.batches] or [0]
        # They add to what the last batch takes less than a batch of their own would.
        sizes[-1] += len(plan.steady)
        newest = max((answer["newest"] for answer in answers.values()), default=0)
        return {
            **result,
            "_ansible_verbose_override": True,  # the table says the same for a person
            "changed": False,
            "run": 1 + max(newest, history.newest(place)),
            "who": run_lock.current_user(),
            "observe": policy.observe,
            "max_fail": policy.max_fail,
            "max_error_increase": policy.max_error_increase,
            "max_slowdown": policy.max_slowdown,
            "order": [*changing, *plan.steady],
            "batches": [size for size in sizes if size],
            "firewall": walled,
            "new": {host: list(parts) for host, parts in plan.new.items()},
            "changing": changing,
            "removed": {host: list(parts) for host, parts in plan.removed.items()},
            "rollover": list(course.run.turned) if course else [],
            "forget": self._forgetting(known, place, course),
            "taking_part": list(answers),
            "stages": self._stages(known, course),
            "meanwhile": self._meanwhile(known, course),
        }

    def _rollout(self, known: Known) -> tuple[RolloutPlan, RolloutPolicy, list[str]]:
        """Return how hosts get what mesh_plan has left, and those with a firewall now or then."""
        folder = desired_state.build_folder(known.sources, check=self._task.check_mode)
        policy, planned = desired_state.load(folder)
        wanted = desired_state.completed(planned, known.answers, self._task.args["artifacts"])
        there = {host: answer["parts"] for host, answer in known.answers.items()}
        if locked := firewall_preflight.refusals(wanted, known.answers):
            raise AnsibleActionFail(" ".join([*locked, "Nothing was changed."]))
        if conflicts := in_the_way(wanted, known.recorded, there):
            raise AnsibleActionFail(f"{' '.join(conflicts)} {_HAND_OVER}")
        interrupted_on = {host for host, answer in known.answers.items() if answer["interrupted"]}
        plan = rollout(wanted, known.recorded, there, policy, interrupted_on)
        leaving = {host: tuple(parts) for host, parts in self._task.args["leaving"].items()}
        plan = dataclasses.replace(plan, removed={**plan.removed, **leaving})
        sentences = changes.sentences(known.recorded, wanted, desired_state.rerender(Renderer()))
        desired_state.decide(folder, wanted, sentences)
        picked = set(known.variables["groups"].get("mesh_hosts", ()))
        absent = {
            host: "did not answer" if host in picked else "left out by --limit"
            for host in planned
            if host not in known.answers
        }
        self._tell(decision_lines(plan, sentences, interrupted_on, absent))
        return plan, policy, firewall_preflight.with_firewall(wanted, known.answers)

    def _rollback(self, known: Known) -> tuple[RolloutPlan, RolloutPolicy, list[str]]:
        """Return how hosts go back to what they had, and those with a firewall."""
        # A rollback has no mesh_plan: the inventory may have the mistake.
        policy = desired_state.rollout_policy(
            known.sources, known.variables["groups"], known.variables["hostvars"]
        )
        if other := self._of_another_mode(known):
            raise AnsibleActionFail("\n".join([*other, "Nothing was changed."]))
        plan = rollback(known.recorded, policy)
        self._tell(decision_lines(plan, {host: ["goes back"] for host in known.recorded}))
        return plan, policy, firewall_preflight.with_firewall({}, known.answers)

    def _of_another_mode(self, known: Known) -> list[str]:
        """Return, in sentences, what a rollback would have speak in another way than its peers."""
        wanted, place = self._task.args["rollback"], record.folder(*known.sources)
        trusted, found = anchors.load(place), []
        revoked = desired_state.revoked(
            known.sources, known.variables["groups"], known.variables["hostvars"]
        )
        for host, answer in known.answers.items():
            number = max(
                (n for n in history.numbers(place, host) if n <= int(wanted["to"])), default=0
            )
            then = history.state(place, host, number)
            for proxy in then["host"]["proxies"] if then else ():
                name, was = proxy["name"], seen_in(proxy["view"])
                told = answer["security"].get(name)
                picked = not wanted["parts"] or f"envoy@{name}" in wanted["parts"]
                if picked and told and not was.speaks_like(Seen.told(told)):
                    found.append(
                        f"{name} on {host} spoke with others in another way in state {number} than"
                        " now (mesh_security.mtls), so one of them could not understand the other."
                        " Correct the inventory and run site.yml, which changes both."
                    )
                elif picked and (back := revoked & trusting(proxy["view"]).keys()):
                    found.append(
                        f"{name} on {host} trusted {shortened(sorted(back))} in state {number},"
                        " which mesh_security.revoked has now. Correct the inventory and run"
                        " site.yml."
                    )
                elif picked and (others := distrusted(proxy["view"], trusted)):
                    found.append(
                        f"{name} on {host} did not know in state {number} the anchors that"
                        f" {shortened(others)} has now, so it would refuse what is there. Correct"
                        " the inventory and run site.yml."
                    )
            if then and self._turns_guard(then, answer):
                stood = "did not stand" if JAEGER in answer["security"] else "stood"
                found.append(
                    f"Jaeger on {host} {stood}"
                    f" behind an Envoy in state {number}, other than now (mesh_security.mtls), so"
                    " spans would not reach it. Correct the inventory and run site.yml."
                )
        return found

    def _turns_guard(self, then: record.HostRecord, answer: Mapping[str, Any]) -> bool:
        """Tell whether a rollback of a host would take Jaeger's guard away, or bring it back."""
        picked = self._task.args["rollback"]["parts"]
        guarded = any(proxy["kind"] == GUARD for proxy in then["host"]["proxies"])
        return (
            bool(then["host"]["jaeger"])
            and JAEGER in answer["parts"]
            and guarded != (JAEGER in answer["security"])
            and (not picked or JAEGER in picked or f"envoy@{JAEGER}" in picked)
        )

    def _course(self, known: Known, place: Path) -> Course | None:
        """Return how this run changes the way proxies speak; None where it does not.

        Where the mesh gets there in stages, the first of them replaces what mesh_plan has rendered.
        """
        if "rollback" in self._task.args:
            return None
        rendered = anchors.load(place)
        found = self._see_anchors(known, place, rendered)
        course = run_security.course(
            *(known.variables, known.answers, self._task.args["leaving"], found),
            turned=self._turning(known),
        )
        if course is None:
            return None
        stages = course.run.stages
        if stages.refused:
            raise AnsibleActionFail("\n".join([*stages.refused, "Nothing was changed."]))
        for sentence in stages.stays:
            self._display.warning(sentence)
        called = callees(course.spec.mesh)
        if not same(course.run.plan(ROLLOUT), target(course.spec.mesh, rendered), called):
            folder = desired_state.build_folder(known.sources, check=self._task.check_mode)
            desired_state.make(course.inventory, course.compiled(ROLLOUT), folder)
        return course

    def _turning(self, known: Known) -> list[str]:
        """Return the hosts with a next anchor, by which they can sign once this run is through.

        None where a host of the mesh takes no part: it would refuse them then.
        """
        turning = [
            host
            for host in self._identities(known)
            if host in known.answers
            and len(certificates_in(known.answers[host]["certs"]["anchor"] or "")) > 1
        ]
        absent = sorted(known.variables["vmesh_plan"]["hosts"].keys() - known.answers.keys())
        if turning and absent:
            self._display.warning(
                f"{shortened(turning)} goes on with its old anchor, and the new one is trusted"
                f" beside it: {shortened(absent)} took no part, and may not know the new one. Run"
                " site.yml again when all hosts answer."
            )
            return []
        return turning

    @staticmethod
    def _stages(known: Known, course: Course | None) -> dict[str, Any]:
        if course is None:
            return {"grant": {}, SPEAK: {}, NARROW: {}}
        changed = {stage: course.changed_by(stage, known.answers) for stage in (SPEAK, NARROW)}
        # Also where nobody trusts them: from that stage on, one anchor is known.
        changed[NARROW] = {**{host: [] for host in course.run.turned}, **changed[NARROW]}
        return {"grant": {h: list(p) for h, p in course.run.stages.grant.items()}, **changed}

    def _meanwhile(self, known: Known, course: Course | None) -> dict[str, Any]:
        folder = desired_state.build_folder(known.sources, check=self._task.check_mode)
        return course.meanwhile(folder) if course else {}

    def _see_anchors(
        self, known: Known, place: Path, before: Mapping[str, str]
    ) -> Mapping[str, str]:
        """Keep the anchors that the hosts have told, and return those that are known now.

        Fails where one is refused. Raises OSError, and ValueError where the list is damaged.
        """
        names = {host: identity["name"] for host, identity in self._identities(known).items()}
        if not names:
            return before
        told = {host: answer["certs"]["anchor"] for host, answer in known.answers.items()}
        # A run that left a host without identities has removed its anchor there.
        without = {h for h, state in known.recorded.items() if not state["host"].get("identity")}
        found, refused = anchors.seen(
            {host: pem for host, pem in before.items() if host not in without},
            told,
            {host: name for host, name in names.items() if host in told},
            datetime.datetime.now(datetime.UTC),
            str(known.variables.get(anchors.NEW_ANCHOR, "")).split(","),
            {host: answer["certs"].get("voucher", "") for host, answer in known.answers.items()},
        )
        if refused:
            raise AnsibleActionFail("\n".join([*refused, "Nothing was changed."]))
        # A host that leaves may call for as long as it is there.
        staying = {*names, *self._task.args["leaving"]}
        found = {host: pem for host, pem in found.items() if host in staying}
        if not self._task.check_mode:
            anchors.keep(place, found)
        return found

    @staticmethod
    def _identities(known: Known) -> dict[str, Any]:
        """Return what the hosts of the mesh need to renew identities, of those that have some."""
        hosts = known.variables.get("vmesh_plan", {}).get("hosts", {})
        return {host: spec["identity"] for host, spec in hosts.items() if spec["identity"]}

    def _forgetting(self, known: Known, place: Path, course: Course | None) -> list[str]:
        """Return the hosts that have what proves identities, and whose proxies have none."""
        if "rollback" in self._task.args:
            return []
        identities = self._identities(known)
        found = [
            host
            for host, answer in known.answers.items()
            if answer["certs"]["installed"] and host not in identities
        ]
        if found and course:
            needing = course.needing_identities()
            found = [host for host in found if host not in needing]
        for host in self._task.args["leaving"]:
            state = record.earlier(place, host)
            if state and state["host"].get("identity"):
                found.append(host)
        return found

    def _tell(self, lines: list[str]) -> None:
        for line in lines:
            self._display.v(f"mesh_rollout: {line}")

    @staticmethod
    def _refuse_second_run(known: Known) -> None:
        """Note that this run goes on; fail where another one does. Raises OSError."""
        # Also for a rollback, which has no mesh_plan.
        take_over = boolean(known.variables.get(run_lock.TAKE_OVER, False))
        reason = run_lock.held_locally(desired_state.lock(known.sources)) or run_lock.held_on_hosts(
            known.answers, run_lock.current_user(), take_over=take_over
        )
        if reason:
            raise AnsibleActionFail(reason)
