"""What is changed: settings laid over an inventory, and services copied and altered. Pure but for
the copies that it writes.

A layer is never a change of a file of the inventory itself, so a person's own stays as it is.
"""

from __future__ import annotations

import copy
import shutil
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vmesh.artifacts.archives import Member, sha256_of, write_archive
from vmesh.artifacts.cache import Artifact
from vmesh.rollout import record

Values = Mapping[str, Any]

LAYER = "zz-layer.yml"  # the last of an inventory's files wins
EDGE = "front-proxy"
BACK = "streams-back"
# What a version of services/streams says of itself, in its code.
_SAYS_VERSION = '"version": version,'
_ANSWERS_HELLO = "told: dict[str, Any] = {"
_ANSWERS_HEALTH = 'return "ok\\n"'


@dataclass(frozen=True)
class Layer:
    """Variables of all hosts, and those of some. A later layer's win."""

    every: Values = field(default_factory=dict)
    hosts: Mapping[str, Values] = field(default_factory=dict)

    def __or__(self, later: Layer) -> Layer:
        names = {*self.hosts, *later.hosts}
        return Layer(
            {**self.every, **later.every},
            {name: {**self.hosts.get(name, {}), **later.hosts.get(name, {})} for name in names},
        )


def text(layer: Layer, hosts: Iterable[str]) -> str:
    """Return an inventory file that gives `hosts` the layer, whatever the files before it say."""
    given = {host: {**layer.every, **layer.hosts.get(host, {})} for host in hosts}
    return yaml.safe_dump({"all": {"hosts": given}}, sort_keys=True)


def lay(base: Path, folder: Path, name: str = "") -> Path:
    """Make an inventory below `folder` that is `base` and can be laid over; return its place.

    Without a `name` it has the one under which `base` is recorded, so what was applied to `base`
    counts for it.
    """
    place = folder / (name or record.folder(base).name)
    place.mkdir(parents=True)
    for entry in sorted(base.iterdir()):
        (place / entry.name).symlink_to(entry.resolve())
    return place


# --- the demo of inventory/example-change, changed


def _edges(mesh: Values) -> dict[str, Any]:
    edges: dict[str, Any] = copy.deepcopy(dict(mesh["mesh_edges"]))
    return edges


def _services(mesh: Values) -> dict[str, Any]:
    services: dict[str, Any] = copy.deepcopy(dict(mesh["mesh_services"]))
    return services


def _route(edges: Values, prefix: str) -> dict[str, Any]:
    routes: list[dict[str, Any]] = edges[EDGE]["routes"]
    return next(route for route in routes if route.get("prefix") == prefix)


def over(mesh: Values, layer: Layer) -> Values:
    """Return what a layer makes of the mesh."""
    return {**mesh, **layer.every}


def routes(mesh: Values, prefix: str) -> Layer:
    """Return one more route, another timeout and other weights."""
    edges = _edges(mesh)
    _route(edges, "/back/")["timeout"] += 1
    weights = _route(edges, "/both/")["to"]
    _route(edges, "/both/")["to"] = {"streams": weights["streams"] - 5, BACK: weights[BACK] + 5}
    edges[EDGE]["routes"].append(
        {"prefix": prefix, "to": "streams", "rewrite": {"prefix": "/streams/"}, "timeout": 20}
    )
    return Layer({"mesh_edges": edges})


def timeout(mesh: Values, prefix: str, seconds: float) -> Layer:
    """Return another timeout of one route."""
    edges = _edges(mesh)
    _route(edges, prefix)["timeout"] = seconds
    return Layer({"mesh_edges": edges})


def mtls(mode: str) -> Layer:
    """Return a way in which the proxies speak with each other: off, permissive or strict."""
    return Layer({"mesh_security": {"mtls": mode}})


def firewall(operators: str) -> Layer:
    """Return a firewall on the hosts; operators: the network of those who look at pages."""
    return Layer({"mesh_firewall": {"enabled": True, "operators": [operators]}})


def admin_port(mesh: Values, port: int) -> Layer:
    """Return another port of the edge's admin pages."""
    edges = _edges(mesh)
    edges[EDGE]["admin_port"] = port
    return Layer({"mesh_edges": edges})


def only_on(mesh: Values, service: str, group: str | None) -> Layer:
    """Return a service on the hosts of another group; of its own without one."""
    services = _services(mesh)
    services[service].pop("group", None)
    services[service] |= {"group": group} if group else {}
    return Layer({"mesh_services": services})


def call_timeout(mesh: Values, seconds: float) -> Layer:
    """Return another timeout of the call from streams to streams-back: on all its hosts."""
    services = _services(mesh)
    services["streams"]["calls"][BACK] = {"timeout": seconds}
    return Layer({"mesh_services": services})


def release(mesh: Values, folders: Mapping[str, Path], environment: Values) -> Layer:
    """Return other code (folders by service) and other settings of the services."""
    services = _services(mesh)
    for name, folder in folders.items():
        app = services[name]["app"]
        services[name]["app"] = {
            **app,
            "flask": str(folder),
            "environment": {**app.get("environment", {}), **environment},
        }
    return Layer({"mesh_services": services})


def envoy(version: str) -> Layer:
    """Return another version of all Envoys."""
    return Layer({"mesh_envoy_version": version})


def zone(name: str, hosts: Iterable[str]) -> Layer:
    """Return the zone that all hosts are in, which stands in their Envoys' bootstrap."""
    return Layer(hosts={host: {"mesh_zone": name} for host in hosts})


def retention(hours: int) -> Layer:
    """Return how long Jaeger keeps its traces."""
    return Layer({"jaeger_retention_hours": hours})


def built_jaeger() -> Layer:
    """Return the Jaeger that is built here."""
    return Layer({"jaeger_release": None})


def named_jaeger(built: Artifact, folder: Path) -> Layer:
    """Return another release of Jaeger: the program of `built` as an official archive, by name.

    An official archive has other contents, and its version on the hosts is another one.
    """
    top = f"jaeger-{built.version}-linux-amd64"
    archive = folder / f"{top}.tar.gz"
    with tarfile.open(built.path) as tar:
        program = tar.extractfile("bin/jaeger")
        assert program is not None  # a regular file
        write_archive(archive, [Member(f"{top}/jaeger", program.read(), executable=True)])
    return Layer({"jaeger_release": {"path": str(archive), "sha256": sha256_of(archive)}})


# --- releases of services/streams


def _altered(app: Path, folder: Path, before: str, after: str) -> Path:
    """Return a copy of a service's folder with a piece of its code replaced; it must be there."""
    target = folder / app.name
    shutil.copytree(app, target, ignore=shutil.ignore_patterns("__pycache__"))
    code = (target / "app.py").read_text(encoding="utf-8")
    if before not in code:
        raise ValueError(f"{app}/app.py has changed: there is no {before!r} in it")
    (target / "app.py").write_text(code.replace(before, after, 1), encoding="utf-8")
    return target


def newer(app: Path, folder: Path, mark: str) -> Path:
    """Return a release whose code adds `+mark` to the version that it is told."""
    return _altered(app, folder, _SAYS_VERSION, f'"version": version + "+{mark}",')


def crashing(app: Path, folder: Path) -> Path:
    """Return a release that cannot be imported."""
    return _altered(app, folder, "\nlog = ", "\nimport no_such_module_anywhere\n\nlog = ")


def unhealthy(app: Path, folder: Path) -> Path:
    """Return a release that starts, and answers 500 when asked for its health."""
    return _altered(app, folder, _ANSWERS_HEALTH, 'raise RuntimeError("not healthy at all")')


def failing(app: Path, folder: Path) -> Path:
    """Return a release that is healthy and answers 500 to its users."""
    return _altered(app, folder, _ANSWERS_HELLO, f"abort(500)\n        {_ANSWERS_HELLO}")
