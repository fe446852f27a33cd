"""What a run of `site.yml` gives its hosts: described once, and kept until it is recorded.

The first step of a run (the action mesh_plan) describes each host (vmesh.rollout.description),
before any of them changes. The second (mesh_rollout) adds what follows from the hosts' answers, and
what changes. The last (mesh_record) makes the same description the record of each host that has it.
In between, the description is in two files beside the build folder. They hold no secret, nor the
hash of one.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from vmesh.artifacts import envoy_binary
from vmesh.base import paths
from vmesh.base.files import write_whole
from vmesh.base.problems import Problems
from vmesh.compile.host_spec import MeshSpec, ProxySpec
from vmesh.model.inventory import Inventory, from_hostvars
from vmesh.model.parse import parse
from vmesh.model.types import RolloutPolicy
from vmesh.render.renderer import Renderer, write_files
from vmesh.render.validate import validate_all
from vmesh.rollout import description, record_secrets
from vmesh.rollout.change_report import Rerender
from vmesh.rollout.description import Hashes
from vmesh.rollout.record import HostRecord

_PLANNED, _DECIDED, _LOCK = "planned.json", "decided.json", "run.json"
# What `decide` adds to the state of a host.
_OF_THE_HOST = ("platform", "versions", "bundles")


class NoPlanError(Exception):
    """The earlier steps of this run have not left what a later one needs; the text says so."""


def build_folder(sources: Sequence[str | Path], *, check: bool = False) -> Path:
    """Return where the configuration made from these inventory sources goes.

    One source has the folder that `./mesh render` gives it; several together make another
    inventory than any of them, and have a folder of their own. So has check mode, which may not
    change what a run is applying.
    """
    folders = [paths.build_dir(Path(source)) for source in sources]
    name = "+".join(folder.name for folder in folders)
    return folders[0].with_name(f"{name}.check" if check else name)


class Rendered:
    """Collects the hashes of files while vmesh.render.renderer.write_files writes them."""

    def __init__(self) -> None:
        self.hashes: dict[str, dict[str, Hashes]] = {}

    def __call__(self, host: str, proxy: ProxySpec, files: Mapping[str, str]) -> None:
        self.hashes.setdefault(host, {})[proxy.name] = description.hashes_of(files)


def describe(inventory: Inventory, spec: MeshSpec, rendered: Rendered) -> dict[str, HostRecord]:
    """Return host -> the state it will have, but for what follows from the host's answer."""
    secrets, render = record_secrets.Secrets.of(inventory), Renderer().files
    return {
        name: description.describe(
            host,
            secrets,
            render,  # of views with a hidden value alone: the others have been rendered
            variables=inventory.hosts[name],
            rendered=rendered.hashes.get(name, {}),
        ).state
        for name, host in spec.hosts.items()
    }


def make(
    inventory: Inventory,
    spec: MeshSpec,
    folder: Path,
    took: Callable[[str], None] = lambda step: None,
) -> None:
    """Render a compiled mesh into `folder`, see it accepted, and keep what `load` returns.

    took: is told each step that has ended
    Raises Problems, vmesh.artifacts.ArtifactError without an Envoy that validates, and OSError.
    """
    rendered = Rendered()
    forms = write_files(spec, folder, seen=rendered)
    took("render")
    if wrong := validate_all(envoy_binary(version=spec.mesh.envoy_version), forms):
        raise Problems(wrong)
    took("validate")
    keep(folder, spec.mesh.rollout, describe(inventory, spec, rendered))
    took("describe")


def keep(folder: Path, policy: RolloutPolicy, states: Mapping[str, HostRecord]) -> None:
    """Write what `load` returns beside the build folder; raises OSError."""
    planned = {"policy": dataclasses.asdict(policy), "hosts": states}
    write_whole(_beside(folder, _PLANNED), json.dumps(planned))


def load(folder: Path) -> tuple[RolloutPolicy, dict[str, HostRecord]]:
    """Return how a change goes from host to host, and all hosts' states; raises NoPlanError."""
    kept = _read(_beside(folder, _PLANNED))
    return RolloutPolicy(**kept["policy"]), kept["hosts"]


def completed(
    states: Mapping[str, HostRecord],
    answers: Mapping[str, Mapping[str, Any]],
    artifacts: Mapping[str, Any],
) -> dict[str, HostRecord]:
    """Return the states of the hosts that answered, with what each gets for what it is.

    answers: host -> what it said of itself: arch, python
    artifacts: what the action `artifacts` found
    """
    found = {}
    for host, answer in answers.items():
        platform = {key: str(answer[key]) for key in ("arch", "python")}
        key = f"{platform['python']}/{platform['arch']}"
        found[host] = description.with_artifacts(
            states[host],
            versions={
                name: str(artifacts[name][platform["arch"]]["version"])
                for name in ("envoy", "jaeger")
                if platform["arch"] in artifacts.get(name, {})
            },
            bundles={
                service["name"]: artifacts["bundles"][service["name"]][key]["version"]
                for service in states[host]["host"]["flask_services"]
            },
            platform=platform,
        )
    return found


def decide(
    folder: Path, states: Mapping[str, HostRecord], sentences: Mapping[str, Sequence[str]]
) -> None:
    """Write what `load_decided` returns beside the build folder; raises OSError.

    states: those that `completed` returned, of which only the additions are written
    sentences: host -> what changes there (vmesh.rollout.changes.sentences)
    """
    decided = {
        host: {
            **{key: state[key] for key in _OF_THE_HOST},
            "sentences": list(sentences.get(host, ())),
        }
        for host, state in states.items()
    }
    write_whole(_beside(folder, _DECIDED), json.dumps(decided))


def load_decided(folder: Path) -> tuple[dict[str, HostRecord], dict[str, list[str]]]:
    """Return host -> the state that this run gives it, and host -> what changes there.

    Raises NoPlanError.
    """
    planned, decided = load(folder)[1], _read(_beside(folder, _DECIDED))
    states = {
        host: {**planned[host], **{key: more[key] for key in _OF_THE_HOST}}
        for host, more in decided.items()
    }
    return states, {host: more["sentences"] for host, more in decided.items()}


def forget(folder: Path) -> None:
    """Remove what a run has left beside the build folder."""
    for name in (_PLANNED, _DECIDED, _LOCK):
        _beside(folder, name).unlink(missing_ok=True)


def recorded_files(proxy: Mapping[str, Any], renderer: Renderer) -> dict[str, str] | None:
    """Return the files of a recorded proxy as today's templates write them, None if they cannot."""
    try:
        return renderer.files(description.proxy_from(proxy))
    except (Problems, jinja2.TemplateError, KeyError, TypeError, OSError):
        return None


def rerender(renderer: Renderer) -> Rerender:
    """Return what tells the hashes of a recorded proxy's files as today's templates write them."""

    def hashes(proxy: Mapping[str, Any]) -> Hashes | None:
        texts = recorded_files(proxy, renderer)
        return texts and description.hashes_of(texts)

    return hashes


def rollout_policy(sources: Sequence[Path], groups: Any, hostvars: Any) -> RolloutPolicy:
    """Return how a change goes from host to host, also where other things in the mesh are wrong."""
    given = _said("mesh_rollout", sources, groups, hostvars)
    try:
        return parse({"mesh_rollout": given or {}}, []).rollout
    except TypeError:
        return parse({}, []).rollout


def revoked(sources: Sequence[Path], groups: Any, hostvars: Any) -> set[str]:
    """Return the hosts that are to be trusted by nobody, also where other things are wrong."""
    given = _said("mesh_security", sources, groups, hostvars)
    names = given.get("revoked") if isinstance(given, Mapping) else None
    return set(map(str, names)) if isinstance(names, list) else set()


def _said(variable: str, sources: Sequence[Path], groups: Any, hostvars: Any) -> Any:
    """Return what the inventory says, as it stands there; None where nothing can be told."""
    try:
        return from_hostvars(sources[-1], groups, hostvars).mesh.get(variable)
    except Problems:
        return None


def lock(sources: Sequence[str | Path]) -> Path:
    """Return where it stands which run is changing the hosts (vmesh.rollout.run_lock)."""
    return _beside(build_folder(sources), _LOCK)


def _beside(folder: Path, name: str) -> Path:
    # Not in the folder: what rendering did not write there, it removes.
    return folder.with_name(f"{folder.name}.{name}")


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NoPlanError(
            f"{path} cannot be read ({error}). The first plays of site.yml write it for the later"
            " ones: run site.yml from its beginning."
        ) from None
    return found
