"""What a run of `site.yml` gives its hosts, described once and kept until it is recorded.

The description (vmesh.rollout.record) is made before any host changes, to see which ones do; when a
host has it, the same description becomes its record. No secret, nor a hash of one, is in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from vmesh.base import paths
from vmesh.base.problems import Problems
from vmesh.compile.compiler import compile_mesh
from vmesh.model.inventory import from_hostvars
from vmesh.model.parse import parse
from vmesh.model.types import RolloutPolicy
from vmesh.render.renderer import Renderer
from vmesh.rollout import record
from vmesh.rollout.change_report import Rerender
from vmesh.rollout.record import State

STATES, LOCK = "states.json", "run.json"


def build_folder(sources: Sequence[str | Path], *, check: bool = False) -> Path:
    """Return where the configuration made from these inventory sources goes.

    One source has the folder that `./mesh render` gives it; several together make another
    inventory than any of them, and have a folder of their own. So has check mode, which may not
    change what a run is applying.
    """
    folders = [paths.build_dir(Path(source)) for source in sources]
    name = "+".join(folder.name for folder in folders)
    return folders[0].with_name(f"{name}.check" if check else name)


def describe(
    sources: Sequence[Path],
    groups: Mapping[str, Any],
    hostvars: Mapping[str, Any],
    answers: Mapping[str, Mapping[str, Any]],
    artifacts: Mapping[str, Any],
) -> tuple[dict[str, State], RolloutPolicy]:
    """Return host -> the state it will have, for the hosts of `answers`, and how to get there.

    groups, hostvars: Ansible's own
    answers: host -> what it said of itself: arch, python
    artifacts: what the action `artifacts` found
    """
    inventory = from_hostvars(sources[-1], groups, hostvars)
    spec = compile_mesh(inventory)
    secrets, render = record.Secrets.of(inventory), Renderer().files
    found = {}
    for host, answer in answers.items():
        platform = {key: str(answer[key]) for key in ("arch", "python")}
        key = f"{platform['python']}/{platform['arch']}"
        found[host] = record.describe(
            spec.hosts[host],
            secrets,
            render,
            versions={
                name: str(artifacts[name][platform["arch"]]["version"])
                for name in ("envoy", "jaeger")
                if platform["arch"] in artifacts.get(name, {})
            },
            bundles={
                service.name: artifacts["bundles"][service.name][key]["version"]
                for service in spec.hosts[host].flask_services
            },
            platform=platform,
            variables=inventory.hosts[host],
        ).state
    return found, spec.mesh.rollout


def recorded_files(proxy: Mapping[str, Any], renderer: Renderer) -> dict[str, str] | None:
    """Return the files of a recorded proxy as today's templates write them, None if they cannot."""
    try:
        return renderer.files(record.proxy_from(proxy))
    except (Problems, jinja2.TemplateError, KeyError, TypeError, OSError):
        return None


def rerender(renderer: Renderer) -> Rerender:
    """Return what tells the hashes of a recorded proxy's files as today's templates write them."""

    def hashes(proxy: Mapping[str, Any]) -> dict[str, str] | None:
        texts = recorded_files(proxy, renderer)
        return texts and {path: record.digest(text) for path, text in texts.items()}

    return hashes


def rollout_settings(sources: Sequence[Path], groups: Any, hostvars: Any) -> RolloutPolicy:
    """Return how a change goes from host to host, also where other things in the mesh are wrong."""
    try:
        given = from_hostvars(sources[-1], groups, hostvars).mesh.get("mesh_rollout")
    except Problems:
        given = None
    try:
        return parse({"mesh_rollout": given or {}}, []).rollout
    except TypeError:
        return parse({}, []).rollout


def keep(sources: Sequence[Path], states: Mapping[str, State]) -> None:
    """Write the states of a run where `kept` finds them; raises OSError."""
    path = _file(sources, STATES)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(states), encoding="utf-8")
    temporary.replace(path)


def kept(sources: Sequence[Path]) -> dict[str, State]:
    """Return host -> the state that the present run gives it; raises OSError without one."""
    states: dict[str, State] = json.loads(_file(sources, STATES).read_text(encoding="utf-8"))
    return states


def lock(sources: Sequence[str | Path]) -> Path:
    """Return where it stands which run is changing the hosts (vmesh.rollout.run_lock)."""
    return _file(sources, LOCK)


def _file(sources: Sequence[str | Path], name: str) -> Path:
    # Beside the folder: what rendering did not write there, it removes.
    folder = build_folder(sources)
    return folder.with_name(f"{folder.name}.{name}")
