"""Filters that pick from the plan what a playbook hands to a role."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Plan = Mapping[str, Any]


def mesh_groups(host: Plan) -> list[str]:
    """Return the groups of a host of the plan: mesh_hosts, and one for each kind of part."""
    groups = {
        "mesh_hosts": True,
        "mesh_jaeger": host["jaeger"] is not None,
        "mesh_services": bool(host["proxies"]["service"]),
        "mesh_edges": bool(host["proxies"]["edge"]),
    }
    return [name for name, member in groups.items() if member]


def with_groups(hosts: Mapping[str, Plan], play_hosts: Sequence[str]) -> list[dict[str, Any]]:
    """Return each host of the play that the plan knows, with its groups."""
    return [
        {"name": name, "groups": mesh_groups(hosts[name])} for name in play_hosts if name in hosts
    ]


def wanted_artifacts(
    hosts: Mapping[str, Plan], hostvars: Mapping[str, Any], play_hosts: Sequence[str]
) -> dict[str, Any]:
    """Return the binaries and bundles that the reachable hosts of the plan need.

    Takes the plan's hosts, Ansible's hostvars with each host's own answer (`vmesh_answer`, see
    playbooks/prepare.yml), and the hosts still in the play.
    """
    binaries: dict[str, set[str]] = {"envoy": set(), "jaeger": set()}
    bundles: dict[tuple[str, ...], dict[str, str]] = {}
    for name in play_hosts:
        host = hosts[name]
        answer = json.loads(hostvars[name]["vmesh_answer"]["stdout"])
        arch = answer["arch"]
        if any(host["proxies"].values()):
            binaries["envoy"].add(arch)
        if host["jaeger"]:
            binaries["jaeger"].add(arch)
        for service in host["flask_services"]:
            bundle = {
                "name": service["name"],
                "source": service["source"],
                "python": answer["python"],
                "arch": arch,
            }
            bundles[tuple(bundle.values())] = bundle
    return {
        "binaries": {name: sorted(archs) for name, archs in binaries.items()},
        "bundles": list(bundles.values()),
    }


def with_bundles(
    services: Sequence[Plan], bundles: Mapping[str, Any], host: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return what the role flask_service takes of the host's services, with their bundles."""
    key = f"{host['python']}/{host['arch']}"
    keys = ("name", "wsgi", "workers", "threads", "environment")
    return [
        {
            **{each: service[each] for each in keys},
            "version": bundles[service["name"]][key]["version"],
            "archive": bundles[service["name"]][key]["archive"],
        }
        for service in services
    ]


class FilterModule:
    """Offers the filters to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "wanted_artifacts": wanted_artifacts,
            "with_bundles": with_bundles,
            "with_groups": with_groups,
        }
