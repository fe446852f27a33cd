"""`./mesh plan`: what the inventory means, and what applying it would change on which host."""

from __future__ import annotations

import argparse
import difflib
import functools
import json
import secrets as random
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vmesh import artifacts
from vmesh.artifacts import bundles, envoy, jaeger, pins
from vmesh.base import paths
from vmesh.base.exits import FAILED, OK, CliError
from vmesh.base.problems import Problems
from vmesh.base.progress import Steps, new_log
from vmesh.base.words import plural, shortened
from vmesh.cli import packages, problem_list, supplies
from vmesh.cli.output.plan import Result, as_data, show
from vmesh.compile.topology import topology
from vmesh.remote import answers, playbook
from vmesh.remote.mesh import Mesh, read
from vmesh.render.renderer import Renderer
from vmesh.rollout import anchors, changes, description, desired_state, record, record_secrets
from vmesh.rollout.description import Described
from vmesh.rollout.drift import drift, environments
from vmesh.rollout.record import HostRecord

REFRESH = paths.playbook("refresh")


def run(arguments: argparse.Namespace) -> int:
    """Print what the inventory means and what would change."""
    place = record.folder(*arguments.inventory)
    try:
        mesh = read(*arguments.inventory, anchors=anchors.load(place))
    except ValueError as damaged:
        raise CliError(f"{damaged}.") from None
    try:
        recorded = record.read(place)
        renderer = Renderer()
        wanted = describe(mesh, recorded, renderer)
        result = compare(mesh, recorded, wanted, renderer)
        if arguments.diff:
            result.diffs = list(differences(result, renderer))
        if arguments.refresh:
            refresh(mesh, arguments, result)
    except Problems as found:
        # What the renderer cannot read is a mistake in the inventory, told as all others.
        print(problem_list(found.items), file=sys.stderr)
        return FAILED
    if arguments.json:
        print(json.dumps(as_data(result), indent=2))
    else:
        show(result, arguments)
    differs = bool(result.pending or result.drifts)
    failed = bool(result.silent) or (arguments.exit_code and differs)
    return FAILED if failed else OK


def describe(
    mesh: Mesh, recorded: Mapping[str, HostRecord], renderer: Renderer
) -> dict[str, Described]:
    """Return host -> its state as the inventory has it now; nothing is built for it.

    Versions of bundles follow from the services' folders and from what a host said it is when it
    was recorded; a host without a record gets all of it new anyway.
    """
    hidden = record_secrets.Secrets.of(mesh.inventory)
    versions = functools.cache(functools.partial(_versions, mesh))
    bundle = functools.cache(bundles.version)  # many hosts have the same service
    found = {}
    for host, spec in mesh.spec.hosts.items():
        platform = (recorded.get(host) or {}).get("platform")
        arch = platform["arch"] if platform else artifacts.ARCHITECTURES[0]
        found[host] = description.describe(
            spec,
            hidden,
            renderer.files,
            versions=versions(arch),
            bundles={
                service.name: bundle(
                    (paths.PROJECT / service.source).resolve(), platform["python"], arch
                )
                for service in spec.flask_services
            }
            if platform
            else {},
            platform=platform,
            variables=mesh.variables(host),
        )
    return found


def _versions(mesh: Mesh, arch: str) -> dict[str, str]:
    """Return the versions of the binaries that site.yml would install."""
    committed = pins.load()
    named = mesh.spec.mesh.envoy_version
    versions = {"envoy": envoy.slot(committed, arch, named).version}
    if any(spec.jaeger for spec in mesh.spec.hosts.values()):
        release = supplies.jaeger_release(mesh)
        try:
            # Only the archive in the cache knows the whole version of one that the user named.
            there = artifacts.cached("jaeger", arch, release)
        except artifacts.ArtifactError:
            there = None
        slot = jaeger.slot(committed, arch, release)
        versions["jaeger"] = there.version if there else slot.version
    return versions


def compare(
    mesh: Mesh, recorded: dict[str, HostRecord], wanted: dict[str, Described], renderer: Renderer
) -> Result:
    """Return what would change since the states that were recorded."""
    return Result(
        topology({host: described.state["host"] for host, described in wanted.items()}),
        mesh.spec.warnings,
        recorded,
        wanted,
        changes.compare(
            recorded,
            {host: described.state for host, described in wanted.items()},
            desired_state.rerender(renderer),
            mesh.inventory.hosts.keys(),
        ),
    )


def differences(result: Result, renderer: Renderer) -> Iterator[str]:
    """Yield the unified diff of each file that changes; the same diff of several hosts once."""
    found: dict[tuple[str, str], list[str]] = {}
    for host, described in result.wanted.items():
        old = result.recorded.get(host)
        if old is None:
            continue
        before = {proxy["name"]: proxy for proxy in old["host"]["proxies"]}
        for proxy in described.state["host"]["proxies"]:
            name = proxy["name"]
            was = before.get(name)
            if was is None or old["files"].get(name) == described.state["files"][name]:
                continue
            old_texts = desired_state.recorded_files(was, renderer)
            if old_texts is None:
                continue
            new_texts = renderer.files(description.proxy_from(proxy))
            for path in sorted(old_texts.keys() | new_texts.keys()):
                text = _unified(old_texts.get(path, ""), new_texts.get(path, ""), path)
                if text:
                    found.setdefault((name, text), []).append(host)
    for (name, text), hosts in found.items():
        yield f"{name} on {shortened(hosts, 2)}:\n{text}"


def _unified(old: str, new: str, path: str) -> str:
    """Return a diff without the version stamp, which changes with every line."""
    lines = difflib.unified_diff(
        _without_stamp(old), _without_stamp(new), f"before/{path}", f"after/{path}", lineterm=""
    )
    return "\n".join(lines)


def _without_stamp(text: str) -> list[str]:
    return [line for line in text.splitlines() if '"version_info": ' not in line]


def refresh(mesh: Mesh, arguments: argparse.Namespace, result: Result) -> None:
    """Ask the hosts what is there; put what differs from the recorded states into `result`."""
    steps = Steps(1, new_log("plan"))
    packages.install(packages.missing(packages.ANSIBLE), steps, no_install=arguments.no_install)
    asked = sorted(
        host
        for host in result.wanted.keys() | result.recorded.keys()
        if host in mesh.inventory.hosts
    )
    key = random.token_hex(16)
    with (
        steps.phase("refresh", f"asking {len(asked)} {plural('host', len(asked))} what is there"),
        tempfile.TemporaryDirectory(prefix="vmesh-") as folder,
    ):
        answers, outcome = _ask(Path(folder), asked, key, arguments.inventory, mesh, steps)
    result.drifts = []
    for host in asked:
        answer = answers.get(host)
        if answer is None:
            result.silent[host] = _why(host, outcome)
            continue
        spec = mesh.spec.hosts.get(host)
        result.drifts += drift(
            host,
            result.recorded.get(host),
            result.wanted.get(host),
            answer,
            environments(spec) if spec else {},
            key=key,
        )


def _ask(  # noqa: PLR0913, PLR0917 - a run of Ansible
    folder: Path,
    hosts: Sequence[str],
    key: str,
    inventory: Sequence[Path],
    mesh: Mesh,
    steps: Steps,
) -> tuple[dict[str, dict[str, Any]], playbook.Outcome]:
    """Run the playbook; return host -> what it answered."""
    variables = playbook.extra_vars(folder, vmesh_key=key, vmesh_answers=str(folder))
    limit = folder / "hosts"
    limit.write_text("".join(f"{host}\n" for host in hosts))
    outcome = playbook.apply(
        inventory,
        steps,
        fast=mesh.has_lab,
        playbook=REFRESH,
        extra=(f"--limit=@{limit}", variables),
    )
    return answers.read(folder, hosts), outcome


def _why(host: str, outcome: playbook.Outcome) -> str:
    reasons = [failure.message for failure in outcome.failures if failure.host == host]
    text = outcome.unreachable.get(host) or "".join(reasons) or "no answer"
    return text.strip().splitlines()[0] if text.strip() else "no answer"
