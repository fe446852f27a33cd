"""`./mesh up`: from an inventory to a mesh that answers, and what to look at then."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmesh.artifacts.sources import check_sources
from vmesh.base import paths
from vmesh.base.exits import FAILED, INTERRUPTED, OK, USAGE, CliError
from vmesh.base.problems import Problems, errors
from vmesh.base.progress import Steps, duration, new_log
from vmesh.cli import named, packages, problem_list, supplies
from vmesh.cli import ps as ps_command
from vmesh.cli import trace as trace_command
from vmesh.remote import playbook
from vmesh.remote.mesh import Mesh, read

if TYPE_CHECKING:
    from vmesh.lab import Lab

STEPS = 5
SITE = paths.playbook("site")
# Under this name the lab's preflight reports missing packages, which are installed here.
LAB_PACKAGES = "system packages"


@dataclass
class Result:
    """What a run of `up` has to show."""

    word: str = "failed"
    outcome: playbook.Outcome | None = None
    answer: trace_command.Answer | None = None
    more: dict[str, Any] = field(default_factory=dict)


def run(arguments: argparse.Namespace) -> int:
    """Do the five steps; the log and the phases' seconds stay in files it names."""
    steps = Steps(STEPS, new_log("up"))
    steps.note(f"log: {steps.log_path}")
    began = time.monotonic()
    result = Result()
    try:
        mesh = _do(arguments, steps, result)
        result.word = "ok" if result.outcome and result.outcome.code == 0 else "failed"
    except KeyboardInterrupt:
        result.word = "interrupted"
        steps.note(
            f"Interrupted while {steps.doing or 'beginning'}. VMs that run go on running; "
            f"the same command again finishes the job.\nlog: {steps.log_path}"
        )
        return INTERRUPTED
    finally:
        hosts = result.outcome.hosts if result.outcome else {}
        steps.record(
            "up",
            inventory=named(arguments.inventory),
            result=result.word,
            hosts=hosts,
            **result.more,
        )
    if result.word != "ok":
        return FAILED
    steps.note(f"done in {duration(time.monotonic() - began)}")
    return OK if _show(mesh, result) else FAILED


def _do(arguments: argparse.Namespace, steps: Steps, result: Result) -> Mesh:
    with steps.phase("preflight", "checking the inventory and this machine"):
        steps.status(f"reading {named(arguments.inventory)}")
        # site.yml reads and compiles it again in its own process: Ansible's variables count there,
        # and what this step needs to know, it needs before Ansible and the VMs are there.
        mesh = read(*arguments.inventory)
        if wrong := errors(check_sources(mesh.spec)):
            raise Problems(wrong)
        lab = _lab(mesh)
        release = supplies.jaeger_release(mesh)
        envoy_version = mesh.spec.mesh.envoy_version
        # What no installation can mend comes first, all of it, before anything is touched.
        problems = [p for p in (lab.preflight() if lab else []) if p.variable != LAB_PACKAGES]
        if problems:
            raise CliError(f"this machine is not ready: {problem_list(problems)}", USAGE)
        making = supplies.packages_for_making(release, envoy_version)
        wanted = [*_missing_packages(mesh), *making]
        packages.install(wanted, steps, no_install=arguments.no_install)
    with steps.phase("artifacts", "seeing to Envoy, Jaeger"):
        supplies.provide(
            steps, release=release, envoy_version=envoy_version, offline=arguments.offline
        )
    if lab is None:
        steps.skip("lab", "this inventory has no group `lab`: its VMs are yours to start")
    else:
        with steps.phase("lab", f"starting the VMs {', '.join(mesh.inventory.lab)}"):
            lab.up(steps)
    with steps.phase("site", f"applying the inventory with {SITE}"):
        fast = lab is not None and not arguments.plain
        playbooks = (SITE, *(lab.spec.apps if lab else ()))
        outcome, last = apply_all(arguments.inventory, steps, playbooks, fast=fast)
        result.outcome = outcome
    for line in playbook.summary(outcome):
        steps.note(f"      {line}")
    if outcome.code != 0:
        steps.note(f"{last} failed (exit code {outcome.code}); log: {steps.log_path}")
        return mesh
    if not mesh.spec.mesh.edges:
        steps.skip("request", "this inventory has no edge to send one through")
        return mesh
    with steps.phase("request", "sending a request through the edge"):
        result.answer = trace_command.request(mesh)
    return mesh


def apply_all(
    inventory: Sequence[Path], steps: Steps, playbooks: Sequence[str], *, fast: bool
) -> tuple[playbook.Outcome, str]:
    """Run playbooks one after the other, until one fails.

    Returns what became of them, as one run, and the name of the last one that was run.
    """
    first, *others = playbooks
    outcome, last = playbook.apply(inventory, steps, fast=fast, playbook=first), first
    for name in others:
        if outcome.code != 0:
            break
        outcome.followed_by(playbook.apply(inventory, steps, fast=fast, playbook=name))
        last = name
    return outcome, last


def _lab(mesh: Mesh) -> Lab | None:
    if not mesh.has_lab:
        return None
    from vmesh.lab import Lab  # noqa: PLC0415 - only where there is a lab

    return Lab.from_inventory(mesh.inventory)


def _missing_packages(mesh: Mesh) -> Iterable[str]:
    yield from packages.missing(packages.ANSIBLE)
    if mesh.has_lab:
        from vmesh.lab import missing_requirements  # noqa: PLC0415 - only where there is a lab

        yield from (requirement.package for requirement in missing_requirements())


def _show(mesh: Mesh, result: Result) -> bool:
    """Print the URLs, the table and the trace; tell whether all is as it should be."""
    rows = ps_command.ask(mesh)
    runs = all(row.running for row in rows)
    answer = result.answer
    if answer is None:
        print()
        ps_command.show(rows)
        return runs
    print()
    # On loopback of its host, it is no address for this machine.
    jaeger = f"{paths.COMMAND} jaeger" if mesh.jaeger_is_local() else mesh.jaeger_url()
    print("\n".join(links(answer.url, jaeger, mesh.admin_url())))
    print()
    ps_command.show(rows)
    print()
    trace_command.show_answer(answer)
    traced = trace_command.show_trace(mesh, answer, wait=15.0)
    # What the request was chosen for is the way through the mesh; what an app thinks of its
    # path is the app's affair, and not every mesh keeps every trace.
    return (
        answer.status < 500
        and runs
        and (traced or not trace_command.traces_everything(mesh.spec.mesh))
    )


def links(edge: str, jaeger: str | None, admin: str | None) -> list[str]:
    """Return the lines that say where to look."""
    urls = [(edge, "the mesh, through its edge: try curl -v")]
    if jaeger:
        urls.append((jaeger, "Jaeger: choose a service, press Find Traces"))
    if admin:
        urls.append((admin, "the edge Envoy's admin pages, read-only"))
    width = max(len(url) for url, _ in urls)
    return [f"{url:<{width}}  {text}" for url, text in urls]
