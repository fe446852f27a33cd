"""Action plugin `artifacts`: the release archives that a play will put on its hosts.

It runs on the controller alone and never counts as a change. Arguments:

  wanted: {envoy: [architectures], jaeger: [architectures]}
  bundles: [{name, source, python, arch}]
  programs: {hotrod: [architectures]}, the applications of the examples
  jaeger_release: {path or url, sha256}, by default the variable of that name
  envoy_version: one of the pinned versions; none or empty for the default

Result: `artifacts`, by name and architecture, each with version, archive, sha256,
contents and compiled; bundles as `artifacts.bundles[name]["<python>/<arch>"]`, programs as
`artifacts.programs[name][arch]`. Envoy and Jaeger must be in the cache; bundles and programs are
built when they are not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ..plugin_utils import package  # noqa: F401 - makes vmesh importable

# isort: split
from vmesh import artifacts
from vmesh.base import paths

_ARGUMENTS = ("wanted", "bundles", "programs", "jaeger_release", "envoy_version")


class _Shown:
    """Progress as lines of Ansible's own output."""

    def __init__(self) -> None:
        self.log_path = paths.log_dir() / "artifacts.log"
        self.steps: list[str] = []

    def step(self, text: str) -> None:
        self.steps.append(text)
        Display().display(f"  {text}")


class ActionModule(ActionBase):  # type: ignore[misc]
    _supports_check_mode = True
    _supports_diff = False
    _requires_connection = False
    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset(_ARGUMENTS)

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> Any:
        result = super().run(tmp, task_vars)
        arguments = self._task.args
        named = arguments.get("jaeger_release")
        if named is None and (variable := (task_vars or {}).get("jaeger_release")) is not None:
            named = self._templar.template(variable)
        progress = _Shown()
        try:
            release = artifacts.JaegerRelease.from_variable(named)
            releases = artifacts.require(
                arguments.get("wanted") or {}, release, arguments.get("envoy_version") or None
            )
            found: dict[str, Any] = {
                name: {arch: _described(artifact) for arch, artifact in by_arch.items()}
                for name, by_arch in releases.items()
            }
            found["bundles"] = _bundles(arguments.get("bundles") or [], progress)
            found["programs"] = _programs(arguments.get("programs") or {}, progress)
        except artifacts.ArtifactError as error:
            # Ansible prints a chain of causes one after the other; this one says it all.
            raise AnsibleActionFail(str(error)) from None
        return result | {
            "changed": False,
            "artifacts": found,
            "msg": "; ".join(progress.steps) or "everything is in the cache",
        }


def _bundles(wanted: list[Mapping[str, Any]], progress: _Shown) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in wanted:
        name, python, arch = item["name"], str(item["python"]), item["arch"]
        source = (paths.PROJECT / item["source"]).resolve()
        bundle = artifacts.build_bundle(source, name, python, arch, progress)
        found.setdefault(name, {})[f"{python}/{arch}"] = _described(bundle)
    return found


def _programs(
    wanted: Mapping[str, Sequence[str]], progress: _Shown
) -> dict[str, dict[str, dict[str, Any]]]:
    return {
        name: {
            arch: _described(artifacts.build_program(name, arch, progress))
            for arch in architectures
        }
        for name, architectures in wanted.items()
    }


def _described(artifact: artifacts.Artifact) -> dict[str, Any]:
    return {
        "version": artifact.version,
        "archive": str(artifact.path),
        "sha256": artifact.sha256,
        "contents": list(artifact.contents),
        "compiled": artifact.compiled,
        "origin": artifact.origin,
    }
