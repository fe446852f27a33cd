"""Render: a proxy's view in, the text of its configuration files out.

The files that go to the host and the one static bootstrap that the real Envoy validates
come from the same rendering: the static form is the files put together, so what was
validated is what is shipped.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vmesh import paths
from vmesh.compile import Plan, ProxyPlan, admin_socket

TEMPLATES = paths.PROJECT / "files" / "envoy"
MAX_CONNECTIONS = 10_000  # downstream, per proxy; the unit's LimitNOFILE allows for twice that
STATIC_SUFFIX = ".static.yaml"


@dataclass(frozen=True)
class Layout:
    """Where a proxy's files are on its host. Tests that start Envoy natively use their own."""

    config_root: str = "/etc/envoy"
    runtime_root: str = "/run/envoy"

    def config_dir(self, proxy: str) -> str:
        return f"{self.config_root}/{proxy}"

    def localised(self, path: str) -> str:
        """Return `path`, which the plan has below /run/envoy, below this layout's root."""
        return path.replace("/run/envoy/", f"{self.runtime_root}/", 1)


def _watched(folder: str, name: str) -> dict[str, Any]:
    """Return the config source of one watched file.

    Envoy re-reads it when a file is moved into `folder` (envoy#35888).
    """
    return {
        "path_config_source": {"path": f"{folder}/{name}", "watched_directory": {"path": folder}},
        "resource_api_version": "V3",
    }


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    # Jinja's own tojson escapes <, >, & and ' for HTML; YAML wants them plain.
    environment.filters["tojson"] = _tojson
    environment.globals["watched"] = _watched
    return environment


def _tojson(value: Any) -> str:
    """Return `value` as JSON, which is YAML without any of its implicit types."""
    return json.dumps(value, sort_keys=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _stamped(body: str) -> str:
    """Put the hash of `body` before it; Envoy reports it as the version it accepted."""
    return f'version_info: "{_digest(body)}"\n{body}'


class Renderer:
    """Renders proxies with one set of loaded templates."""

    def __init__(self, layout: Layout | None = None) -> None:
        self.layout = layout or Layout()
        self.environment = _environment()

    def _text(self, template: str, values: Mapping[str, Any]) -> str:
        return self.environment.get_template(template).render(values)

    def _bootstrap(self, name: str, node: Mapping[str, str]) -> str:
        values = {
            "node": node,
            "config_dir": self.layout.config_dir(name),
            "admin_socket": self.layout.localised(admin_socket(name)),
            "max_connections": MAX_CONNECTIONS,
        }
        version = _digest(self._text("bootstrap.yaml.j2", {**values, "version": ""}))
        return self._text("bootstrap.yaml.j2", {**values, "version": version})

    def files(self, proxy: ProxyPlan) -> dict[str, str]:
        """Return relative path -> content of every file of `proxy`."""
        view = copy.deepcopy(proxy.view)
        config_dir = self.layout.config_dir(proxy.name)
        traced = {listener["name"] for listener in view["listeners"] if listener["tracing"]}
        files = {
            "bootstrap.yaml": self._bootstrap(proxy.name, view["node"]),
            "listeners/listeners.yaml": _stamped(
                self._text(
                    "listeners.yaml.j2",
                    {"listeners": view["listeners"], "config_dir": config_dir},
                )
            ),
            "clusters/clusters.yaml": _stamped(
                self._text(
                    "clusters.yaml.j2", {"clusters": view["clusters"], "config_dir": config_dir}
                )
            ),
        }
        for name, table in view["routes"].items():
            files[f"routes/{name}.yaml"] = _stamped(
                self._text("route.yaml.j2", {**table, "name": name, "traced": name in traced})
            )
        for cluster in view["clusters"]:
            for endpoint in cluster["endpoints"]:
                if "pipe" in endpoint:
                    endpoint["pipe"] = self.layout.localised(endpoint["pipe"])
            files[f"endpoints/{cluster['name']}.yaml"] = _stamped(
                self._text(
                    "endpoints.yaml.j2",
                    {"name": cluster["name"], "endpoints": cluster["endpoints"]},
                )
            )
        return files


def _resources(text: str) -> list[dict[str, Any]]:
    resources: list[dict[str, Any]] = yaml.safe_load(text)["resources"]
    for resource in resources:
        resource.pop("@type")
    return resources


def static_form(files: Mapping[str, str]) -> dict[str, Any]:
    """Return one static bootstrap that says the same as the dynamic `files` of a proxy.

    `envoy --mode validate` opens no file that a path_config_source names, so faults in
    them would pass; in this form it sees them all.
    """
    bootstrap: dict[str, Any] = yaml.safe_load(files["bootstrap.yaml"])
    del bootstrap["dynamic_resources"]
    listeners = _resources(files["listeners/listeners.yaml"])
    clusters = _resources(files["clusters/clusters.yaml"])
    for listener in listeners:
        for chain in listener["filter_chains"]:
            manager = chain["filters"][0]["typed_config"]
            name = manager.pop("rds")["route_config_name"]
            (manager["route_config"],) = _resources(files[f"routes/{name}.yaml"])
    for cluster in clusters:
        del cluster["eds_cluster_config"]
        cluster["type"] = "STATIC"
        (cluster["load_assignment"],) = _resources(files[f"endpoints/{cluster['name']}.yaml"])
    bootstrap["static_resources"] = {"listeners": listeners, "clusters": clusters}
    return bootstrap


def _write_if_changed(path: Path, content: str) -> None:
    if path.is_file() and path.read_text() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(content)
    temporary.replace(path)


def write_plan(plan: Plan, folder: Path, layout: Layout | None = None) -> list[Path]:
    """Write every proxy's files to `folder`/<host>/<proxy>/ and return the static forms.

    The static form is beside the proxy's folder, as <proxy>.static.yaml, since it does not
    go to the host. What an earlier run wrote and this one does not is removed.
    """
    renderer = Renderer(layout)
    written: set[Path] = set()
    static_forms: list[Path] = []
    for host, host_plan in plan.hosts.items():
        for proxy in host_plan.proxies:
            files = renderer.files(proxy)
            target = folder / host / proxy.name
            for name, content in files.items():
                _write_if_changed(target / name, content)
                written.add(target / name)
            static = folder / host / f"{proxy.name}{STATIC_SUFFIX}"
            _write_if_changed(static, yaml.safe_dump(static_form(files), sort_keys=True))
            written.add(static)
            static_forms.append(static)
    _remove_all_but(written, folder)
    return static_forms


def _remove_all_but(kept: set[Path], folder: Path) -> None:
    if not folder.is_dir():
        return
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            if not any(path.iterdir()):
                shutil.rmtree(path)
        elif path not in kept:
            path.unlink()
