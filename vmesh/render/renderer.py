"""Render: a proxy's view in, its configuration files out.

The files that go to the host and the one static bootstrap that the real Envoy validates
come from the same documents: the static form is the documents put together, so what was
validated is what is shipped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmesh.base import paths
from vmesh.base.problems import Problem, Problems
from vmesh.compile.host_spec import MeshSpec, ProxySpec, View, admin_socket
from vmesh.render.certificates import bundle, secret, without_key
from vmesh.render.patches import patched
from vmesh.render.shared import JsonTexts, Shared
from vmesh.render.static_form import (
    ACME,
    BOOTSTRAP,
    CERTIFICATES,
    CLUSTERS,
    FILTERS,
    LISTENERS,
    LOCAL,
    STATIC_SUFFIX,
    TRUST,
    Document,
    StaticForm,
    StaticForms,
)
from vmesh.render.target_folder import TargetFolder
from vmesh.render.templates import JWT_FILTER, Templates

MAX_CONNECTIONS = 10_000  # downstream, per proxy; the unit's LimitNOFILE allows for twice that

_TYPE = "type.googleapis.com/envoy.config"
LISTENER, CLUSTER = f"{_TYPE}.listener.v3.Listener", f"{_TYPE}.cluster.v3.Cluster"
ROUTES = f"{_TYPE}.route.v3.RouteConfiguration"
ENDPOINTS = f"{_TYPE}.endpoint.v3.ClusterLoadAssignment"
EXTENSION = f"{_TYPE}.core.v3.TypedExtensionConfig"
JWT = "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"


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


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _without(view: View, *keys: str) -> View:
    return {key: value for key, value in view.items() if key not in keys}


class Renderer:
    """Renders proxies, and nothing twice.

    Raises Problems where a file that a view names cannot be read.
    """

    def __init__(self, layout: Layout | None = None) -> None:
        self.layout = layout or Layout()
        self.shared = Shared()
        self.templates = Templates(self.shared)
        self.texts = JsonTexts(self.shared, indent=2)
        self._read: dict[str, str] = {}

    def files(self, proxy: ProxySpec) -> dict[str, str]:
        """Return relative path -> content of every file of `proxy`."""
        return self.written(self.documents(proxy))

    def written(self, documents: Mapping[str, Document]) -> dict[str, str]:
        """Return path -> content of the files that hold `documents`."""
        return {path: f"{self.texts.text(each)}\n" for path, each in documents.items()}

    def documents(self, proxy: ProxySpec) -> dict[str, Document]:
        """Return relative path -> what is in it, of every file of `proxy`.

        What several proxies have in common is shared: nobody may change it.
        """
        view = proxy.view
        config_dir = self.layout.config_dir(proxy.name)
        tracing = {each["name"]: each["tracing"] for each in view["listeners"]}
        listeners = [self._listener(each, config_dir) for each in view["listeners"]]
        clusters = [self._cluster(each, config_dir) for each in view["clusters"]]
        documents = {
            BOOTSTRAP: self._bootstrap(proxy.name, view["node"]),
            LISTENERS: self._watched(listeners),
            CLUSTERS: self._shared(clusters),
        }
        for name, table in view["routes"].items():
            documents[f"routes/{name}.json"] = self._shared(
                [self._routes(name, table, tracing.get(name))]
            )
        for cluster in view["clusters"]:
            if cluster["type"] == "eds":
                documents[f"endpoints/{cluster['name']}.json"] = self._shared(
                    [self._endpoints(cluster)]
                )
        for name, certificate in view.get("certificates", {}).items():
            chain = self._text(certificate.get("certificate"), "tls.certificate")
            documents[certificate_file(name)] = self._watched([secret(name, certificate, chain)])
        if "jwt" in view:
            documents[f"{FILTERS}/{JWT_FILTER}.json"] = self._jwt(view["jwt"])
        for name, trusted in view.get("trust", {}).items():
            documents[f"{TRUST}/{name}.json"] = self._watched([bundle(name, trusted)])
        if "acme" in view:
            documents[ACME] = self._acme(view["acme"])
        if "local" in view:
            documents[LOCAL] = view["local"]
        patches = view.get("patches")
        return patched(documents, patches, self._version) if patches else documents

    def _version(self, content: Any) -> str:
        """Return the version of a file: the hash of what is in it."""
        return _digest(self.texts.text(content))

    def _watched(self, resources: list[Document]) -> Document:
        """Return the document of a watched file.

        Envoy reports the version that it accepted, so it follows from what is in the file.
        """
        return {"version_info": self._version(resources), "resources": resources}

    def _shared(self, resources: list[Document]) -> Document:
        """Return the document of a watched file that several proxies have."""
        return self.shared.once("document", lambda: self._watched(resources), *resources)

    def _resource(self, kind: str, template: str, values: View) -> Document:
        """Return the resource of type `kind` that `template` makes of `values`."""
        body = self.templates.read(template, values)
        return self.shared.once(kind, lambda: {"@type": kind, **body}, body)

    def _bootstrap(self, name: str, node: View) -> Document:
        """Return the bootstrap; the node's id is all that replicas of a service differ in."""
        values = {
            "node": _without(node, "id"),
            "config_dir": self.layout.config_dir(name),
            "admin_socket": self.layout.localised(admin_socket(name)),
            "max_connections": MAX_CONNECTIONS,
        }
        shared: Document = self.templates.read("bootstrap.yaml.j2", values)
        for each in shared.values():
            self.shared.add(each)
        document = {**shared, "node": {"id": node["id"], **shared["node"]}}
        # A running Envoy tells by this which bootstrap it was started from.
        document["node"]["metadata"] = {"bootstrap_version": self._version(document)}
        return document

    def _listener(self, listener: View, config_dir: str) -> Document:
        """Return one listener; its address is all that replicas of a service differ in."""
        chains = self.templates.read(
            "filter_chains.yaml.j2",
            {"listener": _without(listener, "address", "port"), "config_dir": config_dir},
        )
        body = self.templates.read("listener.yaml.j2", listener)
        return self.shared.once(
            LISTENER, lambda: {"@type": LISTENER, **body, "filter_chains": chains}, body, chains
        )

    def _routes(self, name: str, table: View, tracing: View | None) -> Document:
        """Return a route table; `tracing` is that of its listener."""
        domains = [domain for host in table["virtual_hosts"] for domain in host["domains"]]
        values = {
            **table,
            "name": name,
            "tracing": tracing,
            "ports_in_domains": any(":" in domain for domain in domains),
        }
        return self._resource(ROUTES, "routes.yaml.j2", values)

    def _cluster(self, cluster: View, config_dir: str) -> Document:
        """Return one cluster, with its endpoints where it has no file for them."""
        name, tls = cluster["name"], cluster["tls"]
        values: View = {"cluster": _without(cluster, "endpoints"), "config_dir": config_dir}
        values |= {"host": name, "groups": None, "authorities": None}
        if cluster["type"] == "dns":
            values |= {"host": cluster["endpoints"][0]["address"], "groups": self._groups(cluster)}
        if tls:
            values |= {"host": tls["sni"], "authorities": self._text(tls["ca_file"], "ca_file")}
        return self._resource(CLUSTER, "cluster.yaml.j2", values)

    def _endpoints(self, cluster: View) -> Document:
        """Return the endpoints of a cluster."""
        values = {"name": cluster["name"], "groups": self._groups(cluster)}
        return self._resource(ENDPOINTS, "endpoints.yaml.j2", values)

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

    def _acme(self, acme: View) -> Document:
        """Return the settings of the helper that orders an edge's certificate."""
        authorities = self._text(acme["directory_ca_file"], "directory_ca_file")
        return {**_without(acme, "directory_ca_file"), "directory_ca": authorities}

    def _jwt(self, issuers: View) -> Document:
        """Return the document of the filter that checks tokens."""
        told = {
            name: {
                **_without(each, "jwks_file"),
                "jwks": self._text(each.get("jwks_file"), "jwks_file"),
            }
            for name, each in issuers.items()
        }
        config = self._resource(JWT, "jwt.yaml.j2", {"issuers": told})
        return self._watched([{"@type": EXTENSION, "name": JWT_FILTER, "typed_config": config}])

    def _text(self, path: str | None, key: str) -> str | None:
        """Return the text of a PEM file on the controller, at `path`, which stands under `key`."""
        if path is None:
            return None
        if path not in self._read:
            try:
                self._read[path] = (paths.PROJECT / path).read_text()
            except (OSError, UnicodeDecodeError) as error:
                remedy = "Name a PEM file that can be read on the controller"
                raise Problems([Problem(key, path, str(error), remedy)]) from error
        return self._read[path]


def certificate_file(name: str) -> str:
    """Return the path of the file with the certificate `name` below a proxy's folder."""
    return f"{CERTIFICATES}/{name}.json"


def _unreadable(proxy: ProxySpec, error: Exception) -> list[Problem]:
    """Return what to say where patches leave no configuration; raises `error` without patches."""
    patches = proxy.view.get("patches")
    if not patches:
        raise error
    return [
        Problem(
            " and ".join(patch["variable"] for patch in patches),
            proxy.name,
            "leaves a value of another kind than Envoy's API has"
            f" ({type(error).__name__}: {error})",
            "Compare the patched fields with Envoy's API reference",
        )
    ]


def write_files(
    spec: MeshSpec,
    folder: Path,
    layout: Layout | None = None,
    seen: Callable[[str, ProxySpec, Mapping[str, str]], None] | None = None,
) -> list[StaticForm]:
    """Write every proxy's files to `folder`/<host>/<proxy>/ and return the static forms.

    The static form is beside the proxy's folder, as <proxy>.static.json, since it does not
    go to the host. What an earlier run wrote and this one does not is removed. Private keys are not
    written: the module envoy_config takes them from elsewhere. `seen` is called
    with each host, proxy, and path -> content of its files, for further use.
    Raises Problems where a file that `spec` names cannot be read.
    """
    renderer, target = Renderer(layout), TargetFolder(folder)
    forms = StaticForms(renderer.shared)
    static_forms: list[StaticForm] = []
    problems: dict[str, Problem] = {}  # by their text: replicas have the same
    for host, host_spec in spec.hosts.items():
        for proxy in host_spec.proxies:
            try:
                documents = renderer.documents(proxy)
            except Problems as found:
                problems |= {str(each): each for each in found.items}
                continue
            files = renderer.written(documents)
            if seen:
                seen(host, proxy, files)
            kept = {
                name: without_key(documents[name])
                for name in map(certificate_file, proxy.view.get("certificates", ()))
            }
            for name, content in {**files, **renderer.written(kept)}.items():
                target.write(f"{host}/{proxy.name}/{name}", content)
            try:
                form = forms.form(documents)
            except (AttributeError, KeyError, TypeError) as error:
                # Only a patch can put one kind of value where another belongs.
                unreadable = _unreadable(proxy, error)
                problems |= {str(each): each for each in unreadable}
                continue
            path = target.write(f"{host}/{proxy.name}{STATIC_SUFFIX}", forms.text(form))
            patches = tuple(each["variable"] for each in proxy.view.get("patches", ()))
            static_forms.append(StaticForm(path, forms.essence(form), patches))
    if problems:
        raise Problems(problems.values())
    target.sweep()
    return static_forms
