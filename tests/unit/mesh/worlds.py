"""Meshes for the tests of what is recorded, planned and drawn."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vmesh.compile.compiler import compile_mesh
from vmesh.compile.host_spec import MeshSpec, ProxySpec
from vmesh.compile.security import SecurityPlan
from vmesh.model.inventory import Inventory
from vmesh.rollout import description
from vmesh.rollout.description import Described, describe
from vmesh.rollout.record_secrets import Secrets

MESH: dict[str, Any] = {
    "mesh_services": {
        "shop": {
            "port": 9001,
            "app": {"flask": "services/shop", "environment": {"COLOR": "blue"}},
            "calls": {
                "stock": {"timeout": 3},
                "bank": {"host": "api.bank.example", "port": 443, "tls": {}},
            },
        },
        "stock": {"port": 9002, "group": "stores", "app": {"external": "127.0.0.1:7001"}},
        "stock-next": {"port": 9003, "group": "jaeger1", "app": {"flask": "services/stock"}},
    },
    "mesh_edges": {
        "front": {
            "group": "web",
            "port": 8000,
            "routes": [
                {"prefix": "/", "to": "shop"},
                {"path": "/stock", "methods": ["GET"], "to": "stock"},
            ],
        }
    },
    "mesh_tracing": {"group": "tracing"},
}
HOSTS: dict[str, dict[str, Any]] = {
    "web1": {"ansible_host": "10.0.0.1"},
    "web2": {"ansible_host": "10.0.0.2"},
    "shop1": {"ansible_host": "10.0.0.3"},
    "store1": {"ansible_host": "10.0.0.4"},
    "store2": {"ansible_host": "10.0.0.5"},
    "jaeger1": {"ansible_host": "10.0.0.6"},
}
GROUPS: dict[str, tuple[str, ...]] = {
    "web": ("web1", "web2"),
    "shop": ("shop1",),
    "stores": ("store1", "store2"),
    "tracing": ("jaeger1",),
}
VERSIONS = {"envoy": "1.40.0", "jaeger": "2.13.0"}
PLATFORM = {"arch": "x86_64", "python": "3.11"}
BUNDLES = {"shop": "aaaa", "stock-next": "bbbb"}


def changed(*edits: tuple[str, Any]) -> dict[str, Any]:
    """Return MESH with the values at paths like `mesh_services/shop/port`; `...` removes one."""
    mesh = copy.deepcopy(MESH)
    for path, value in edits:
        *parents, last = path.split("/")
        target: Any = mesh
        for key in parents:
            target = target[int(key)] if isinstance(target, list) else target.setdefault(key, {})
        if isinstance(target, list):
            target[int(last) : int(last) + 1] = [] if value is ... else [value]
        elif value is ...:
            del target[last]
        else:
            target[last] = copy.deepcopy(value)
    return mesh


def inventory(
    mesh: dict[str, Any] | None = None,
    hosts: dict[str, dict[str, Any]] | None = None,
    groups: dict[str, tuple[str, ...]] | None = None,
    hidden: tuple[tuple[str, ...], ...] = (),
) -> Inventory:
    return Inventory(
        Path("inventory"), groups or GROUPS, hosts or HOSTS, mesh or MESH, frozenset(hidden)
    )


def plan(of: Inventory, security: SecurityPlan | None = None) -> MeshSpec:
    return compile_mesh(of, security)


def render(proxy: ProxySpec) -> dict[str, str]:
    """Stand in for the templates: a bootstrap that hardly changes, and all else in one file."""
    return {
        "bootstrap.json": json.dumps(proxy.view["node"]["id"]),
        "rest.yaml": json.dumps(proxy.view, sort_keys=True),
    }


def rerender(proxy: Any) -> dict[str, str]:
    """Return the digests of the files of a proxy as a record has it."""
    texts = render(description.proxy_from(proxy))
    return {path: description.digest(text) for path, text in texts.items()}


def described(of: Inventory, **more: Any) -> dict[str, Described]:
    """Return the state of every host of an inventory."""
    options: dict[str, Any] = {
        "render": render,
        "versions": VERSIONS,
        "platform": PLATFORM,
        "bundles": BUNDLES,
        **more,
    }
    rendering, security = options.pop("render"), options.pop("security", None)
    bundles: Mapping[str, str] = options.pop("bundles")
    return {
        host: describe(
            each,
            Secrets.of(of),
            rendering,
            bundles={s.name: bundles[s.name] for s in each.flask_services if s.name in bundles},
            variables=of.hosts[host],
            **options,
        )
        for host, each in plan(of, security).hosts.items()
    }


def states(of: Inventory | None = None, **more: Any) -> dict[str, Any]:
    return {host: each.state for host, each in described(of or inventory(), **more).items()}
