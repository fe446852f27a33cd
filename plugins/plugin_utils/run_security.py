"""How a run takes the proxies from one way of speaking to another: for the actions of its steps."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import package  # noqa: F401 - makes vmesh importable
from .host_plan import what_runs_on

# isort: split
from vmesh.compile.compiler import compile_mesh
from vmesh.compile.host_spec import MeshSpec
from vmesh.compile.security import is_guarded
from vmesh.model.access_types import OFF
from vmesh.model.inventory import Inventory, from_hostvars
from vmesh.rollout import record
from vmesh.rollout.security_run import (
    NARROW,
    ROLLOUT,
    SPEAK,
    SecurityRun,
    all_plaintext,
    differing,
    needs_identity,
    reports,
)

_BEFORE = {SPEAK: ROLLOUT, NARROW: SPEAK}


@dataclass(frozen=True)
class Course:
    """What a run does about how proxies speak.

    spec: the mesh as it is to be in the end
    """

    inventory: Inventory
    spec: MeshSpec
    run: SecurityRun
    _compiled: dict[str, MeshSpec] = field(default_factory=dict)

    def compiled(self, stage: str) -> MeshSpec:
        """Return the mesh as a stage leaves it, compiled once."""
        if stage not in self._compiled:
            self._compiled[stage] = compile_mesh(self.inventory, self.run.plan(stage))
        return self._compiled[stage]

    def changed_by(self, stage: str, hosts: Collection[str]) -> dict[str, list[str]]:
        """Return host -> the proxies that a stage changes after the one before, of `hosts`."""
        if self.run.plan(stage) == self.run.plan(_BEFORE[stage]):
            return {}
        # To compile a thousand hosts takes seconds, and in most runs no stage differs.
        found = differing(self.compiled(_BEFORE[stage]), self.compiled(stage))
        return {host: names for host, names in found.items() if host in hosts}

    def parts(self, stage: str, host: str, proxies: Iterable[str]) -> tuple[list[str], list[str]]:
        """Return the parts of a host that a stage changes with these proxies, and removes.

        Where Jaeger's guard leaves, Jaeger takes its ports.
        """
        there = {proxy.name for proxy in self.compiled(stage).hosts[host].proxies}
        changed = [f"envoy@{name}" if name in there else name for name in proxies]
        return changed, [f"envoy@{name}" for name in proxies if name not in there]

    def meanwhile(self, folder: Path) -> dict[str, dict[str, Any]]:
        """Return what runs on Jaeger's host until the stage narrow, where its guard leaves then.

        folder: the one of all rendered files
        """
        if not is_guarded(self.run.plan(ROLLOUT)) or self.spec.mesh.security.mtls != OFF:
            return {}
        return {
            host: what_runs_on(spec, folder / host)
            for host, spec in self.compiled(ROLLOUT).hosts.items()
            if spec.jaeger is not None
        }

    def needing_identities(self) -> set[str]:
        """Return the hosts with proxies that speak mTLS when the run is over."""
        hosts = self.compiled(NARROW).hosts
        return {host for host, spec in hosts.items() if needs_identity(spec.proxies)}


def course(  # noqa: PLR0913, PLR0917 - what a run is decided by
    variables: Mapping[str, Any],
    answers: Mapping[str, Mapping[str, Any]],
    leaving: Iterable[str],
    anchors: Mapping[str, str],
    plaintext: Mapping[str, Collection[str]] | None = None,
    turned: Collection[str] = (),
) -> Course | None:
    """Return what a run does; None where all proxies speak plaintext, and are to.

    variables: Ansible's own, of the task
    answers: host -> what host_info told, of those that take part
    leaving: hosts that have parts and that the inventory has no part for
    anchors: host -> PEM
    plaintext: service -> addresses that still speak plaintext to it, once that is known
    turned: the hosts that sign by their newest anchor before the stage narrow
    Raises Problems.
    """
    sources = [Path(source) for source in variables["ansible_inventory_sources"]]
    planned = variables["vmesh_plan"]["hosts"]
    recorded = record.earlier_of(record.folder(*sources), {*planned, *leaving})
    has_identities = any(spec["identity"] for spec in planned.values())
    if not has_identities and all_plaintext(reports(answers, recorded)):
        return None
    inventory = from_hostvars(sources[-1], variables["groups"], variables["hostvars"])
    spec = compile_mesh(inventory, anchors=anchors)
    found = SecurityRun.of(spec, anchors, answers, recorded, plaintext, turned)
    return Course(inventory, spec, found)
