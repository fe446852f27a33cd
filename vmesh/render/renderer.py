"""Render: a proxy's view in, the text of its configuration files out.

The files that go to the host and the one static bootstrap that the real Envoy validates
come from the same rendering: the static form is the files put together, so what was
validated is what is shipped.

Replicas of a service have nearly everything in common and a large mesh has thousands of
proxies, so each listener, route table, cluster and endpoints file is rendered once for all
the proxies whose views say the same.
"""

from __future__ import annotations

import functools
import hashlib
import ipaddress
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vmesh.base import paths
from vmesh.base.problems import Problem, Problems
from vmesh.compile.cluster_views import HEALTH_CHECK_HEADER
from vmesh.compile.host_spec import MeshSpec, ProxySpec, View, admin_socket
from vmesh.render.static_form import BOOTSTRAP, CLUSTERS, LISTENERS, StaticForms

TEMPLATES = paths.DATA / "files" / "envoy"
MAX_CONNECTIONS = 10_000  # downstream, per proxy; the unit's LimitNOFILE allows for twice that
STATIC_SUFFIX = ".static.json"

# The authorities that the hosts' own system trusts (package ca-certificates).
HOST_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"

_PAIR_OR_BACKSLASH = re.compile(r"\\\\|\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}")


@dataclass(frozen=True)
class Layout:
    """Where a proxy's files are on its host. Tests that start Envoy natively use their own."""

    config_root: str = "/etc/envoy"
    runtime_root: str = "/run/envoy"

    def config_dir(self, proxy: str) -> str:
        return f"{self.config_root}/{proxy}"

    def localised(self, path: str) -> str:
        """Return `path`, which the view has below /run/envoy, below this layout's root."""
        return path.replace("/run/envoy/", f"{self.runtime_root}/", 1)


def _watched(folder: str, name: str) -> dict[str, Any]:
    """Return the config source of one watched file.

    Envoy re-reads it when a file is moved into `folder` (envoy#35888).
    """
    return {
        "path_config_source": {"path": f"{folder}/{name}", "watched_directory": {"path": folder}},
        "resource_api_version": "V3",
    }


@functools.cache
def _environment() -> Environment:
    """Return the templates; a process reads and compiles them once."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
        auto_reload=False,
    )
    # Jinja's own tojson escapes <, >, & and ' for HTML; YAML wants them plain.
    environment.filters.update(
        tojson=_tojson,
        seconds=_seconds,
        fraction=_fraction,
        with_final_dot=_with_final_dot,
        literal=_literal,
    )
    environment.tests["ipv4"] = _is_ipv4
    environment.globals.update(
        watched=_watched,
        HEALTH_CHECK_HEADER=HEALTH_CHECK_HEADER,
        HOST_AUTHORITIES=HOST_AUTHORITIES,
    )
    return environment


def _tojson(value: Any) -> str:
    """Return `value` as JSON, which is YAML without any of its implicit types.

    One thing of JSON's is none of YAML's: an emoji as a pair of surrogates.
    """
    return _PAIR_OR_BACKSLASH.sub(_without_pair, json.dumps(value, sort_keys=True))


def _without_pair(found: re.Match[str]) -> str:
    escaped = found[0]
    if escaped == r"\\":
        return escaped
    character: str = json.loads(f'"{escaped}"')
    return rf"\U{ord(character):08x}"


def _seconds(value: float) -> str:
    """Return a Duration of `value` seconds; its JSON has no exponent and at most nine decimals."""
    return _tojson(f"{value:.9f}".rstrip("0").rstrip(".") + "s")


def _fraction(percent: float) -> str:
    """Return a FractionalPercent of `percent`."""
    return _tojson({"numerator": round(percent * 10_000), "denominator": "MILLION"})


def _with_final_dot(origin: str) -> str:
    """Return the origin of the same site when its visitor wrote the dot of the root, too."""
    scheme, _, place = origin.partition("://")
    name, colon, port = place.partition(":")
    return f"{scheme}://{name}.{colon}{port}"


def _literal(value: str) -> str:
    """Return `value` for a field in which Envoy replaces commands as in `%REQ(x)%`."""
    return value.replace("%", "%%")


def _is_ipv4(value: str) -> bool:
    try:
        ipaddress.IPv4Address(value)
    except ValueError:
        return False
    return True


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _stamped(body: str) -> str:
    """Put the hash of `body` before it; Envoy reports it as the version it accepted."""
    return f'version_info: "{_digest(body)}"\n{body}'


def _without(view: View, *keys: str) -> View:
    return {key: value for key, value in view.items() if key not in keys}


class Renderer:
    """Renders proxies with one set of loaded templates, and nothing twice.

    Raises Problems where a file that a view names cannot be read.
    """

    def __init__(self, layout: Layout | None = None) -> None:
        self.layout = layout or Layout()
        self.environment = _environment()
        self._rendered: dict[tuple[str, str], str] = {}
        self._read: dict[str, str] = {}

    def _render(self, template: str, values: Mapping[str, Any]) -> str:
        return self.environment.get_template(template).render(values)

    def _text(self, template: str, values: Mapping[str, Any]) -> str:
        """Return what `template` makes of `values`, which are plain data; once for the same."""
        key = (template, json.dumps(values))
        if key not in self._rendered:
            self._rendered[key] = self._render(template, values)
        return self._rendered[key]

    def files(self, proxy: ProxySpec) -> dict[str, str]:
        """Return relative path -> content of every file of `proxy`."""
        view = proxy.view
        config_dir = self.layout.config_dir(proxy.name)
        tracing = {each["name"]: each["tracing"] for each in view["listeners"]}
        listeners = [self._listener(each, config_dir) for each in view["listeners"]]
        clusters = [self._cluster(each, config_dir) for each in view["clusters"]]
        files = {
            BOOTSTRAP: self._bootstrap(proxy.name, view["node"]),
            LISTENERS: _stamped("resources:\n" + "".join(listeners)),
            CLUSTERS: _stamped("resources:\n" + "".join(clusters)),
        }
        for name, table in view["routes"].items():
            files[f"routes/{name}.yaml"] = self._routes(name, table, tracing.get(name))
        for cluster in view["clusters"]:
            if cluster["type"] == "eds":
                files[f"endpoints/{cluster['name']}.yaml"] = self._endpoints(cluster)
        return files

    def _bootstrap(self, name: str, node: View) -> str:
        values = {
            "node": node,
            "config_dir": self.layout.config_dir(name),
            "admin_socket": self.layout.localised(admin_socket(name)),
            "max_connections": MAX_CONNECTIONS,
        }
        version = _digest(self._render(f"{BOOTSTRAP}.j2", {**values, "version": ""}))
        return self._render(f"{BOOTSTRAP}.j2", {**values, "version": version})

    def _listener(self, listener: View, config_dir: str) -> str:
        """Return one listener; its address is all that replicas of a service differ in."""
        shared = _without(listener, "address", "port")
        chains = self._text("filter_chains.yaml.j2", {"listener": shared, "config_dir": config_dir})
        return self._render("listener.yaml.j2", {**listener, "filter_chains": chains})

    def _routes(self, name: str, table: View, tracing: View | None) -> str:
        """Return the file of a route table; `tracing` is that of its listener."""
        domains = [domain for host in table["virtual_hosts"] for domain in host["domains"]]
        values = {
            **table,
            "name": name,
            "tracing": tracing,
            "ports_in_domains": any(":" in domain for domain in domains),
        }
        return _stamped(self._text("routes.yaml.j2", values))

    def _cluster(self, cluster: View, config_dir: str) -> str:
        """Return one cluster, with its endpoints where it has no file for them."""
        name, tls = cluster["name"], cluster["tls"]
        values: View = {"cluster": _without(cluster, "endpoints"), "config_dir": config_dir}
        values |= {"host": name, "groups": None, "authorities": None}
        if cluster["type"] == "dns":
            values |= {"host": cluster["endpoints"][0]["address"], "groups": self._groups(cluster)}
        if tls:
            values |= {"host": tls["sni"], "authorities": self._authorities(tls["ca_file"])}
        return self._text("cluster.yaml.j2", values)

    def _endpoints(self, cluster: View) -> str:
        """Return the file of a cluster's endpoints."""
        values = {"name": cluster["name"], "groups": self._groups(cluster)}
        return _stamped(self._text("endpoints.yaml.j2", values))

    def _groups(self, cluster: View) -> list[View]:
        """Return the endpoints of `cluster` by priority and zone."""
        groups: dict[tuple[int, str], list[View]] = {}
        for endpoint in cluster["endpoints"]:
            key = (endpoint.get("priority", 0), endpoint.get("zone") or "")
            groups.setdefault(key, []).append(self._where(endpoint))
        return [
            {"priority": priority, "zone": zone or None, "endpoints": groups[priority, zone]}
            for priority, zone in sorted(groups)
        ]

    def _where(self, endpoint: View) -> View:
        """Return the address alone of `endpoint`, in this layout."""
        if "pipe" in endpoint:
            return {"pipe": self.layout.localised(endpoint["pipe"])}
        return {"address": endpoint["address"], "port": endpoint["port"]}

    def _authorities(self, ca_file: str | None) -> str | None:
        """Return the text of `ca_file`, a path on the controller."""
        if ca_file is None:
            return None
        if ca_file not in self._read:
            try:
                self._read[ca_file] = (paths.PROJECT / ca_file).read_text()
            except (OSError, UnicodeDecodeError) as error:
                remedy = "Name a PEM file that can be read on the controller"
                raise Problems([Problem("ca_file", ca_file, str(error), remedy)]) from error
        return self._read[ca_file]


def _write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read: headers to a collector are secrets."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)


class _Folder:
    """A folder that is to hold certain files in the end and no others."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folders: set[str] = set()
        self.sizes: dict[str, int] = {}  # of the files that are there, by their path
        self.written: set[str] = set()
        self._look(str(path))

    def _look(self, folder: str) -> None:
        """Note what is there: to list folders is cheaper than to ask for every file."""
        try:
            entries = list(os.scandir(folder))
        except FileNotFoundError:
            return
        self.folders.add(folder)
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                self._look(entry.path)
            else:
                self.sizes[entry.path] = entry.stat(follow_symlinks=False).st_size

    def write(self, name: str, text: str) -> Path:
        """Make `text` the content of the file `name`; return its path.

        A file that is there already is replaced whole. One that an interrupted run left
        incomplete has another size, and so does not stay.
        """
        path, content = self.path / name, text.encode()
        known = str(path)
        self.written.add(known)
        if self.sizes.get(known) == len(content) and path.read_bytes() == content:
            return path
        folder = path.parent
        if str(folder) not in self.folders:
            folder.mkdir(parents=True, exist_ok=True)
            self.folders.add(str(folder))
        if known in self.sizes:
            temporary = Path(f"{known}.{os.getpid()}")
            _write_private(temporary, content)
            temporary.replace(path)
        else:
            _write_private(path, content)
        return path

    def sweep(self) -> None:
        """Remove the files that were not written, and the folders that are empty then."""
        for path in self.sizes.keys() - self.written:
            Path(path).unlink()
        for folder in sorted(self.folders - {str(self.path)}, reverse=True):
            if not any(Path(folder).iterdir()):
                Path(folder).rmdir()


def write_files(
    spec: MeshSpec,
    folder: Path,
    layout: Layout | None = None,
    seen: Callable[[str, ProxySpec, Mapping[str, str]], None] | None = None,
) -> list[Path]:
    """Write every proxy's files to `folder`/<host>/<proxy>/ and return the static forms.

    The static form is beside the proxy's folder, as <proxy>.static.json, since it does not
    go to the host. What an earlier run wrote and this one does not is removed. `seen` is called
    with each host, proxy, and path -> content of its files, for further use.
    Raises Problems where a file that `spec` names cannot be read.
    """
    renderer, forms, target = Renderer(layout), StaticForms(), _Folder(folder)
    static_forms: list[Path] = []
    for host, host_spec in spec.hosts.items():
        for proxy in host_spec.proxies:
            files = renderer.files(proxy)
            if seen:
                seen(host, proxy, files)
            for name, content in files.items():
                target.write(f"{host}/{proxy.name}/{name}", content)
            static = f"{host}/{proxy.name}{STATIC_SUFFIX}"
            static_forms.append(target.write(static, forms.text(files)))
    target.sweep()
    return static_forms
