"""Filters that pick from the hosts' specs what a playbook hands to a role."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..plugin_utils import package  # noqa: F401 - makes vmesh importable

# isort: split
from vmesh.base.failures import cause
from vmesh.rollout import history
from vmesh.rollout.host_result import not_applied, restoration, skipped, summary_lines

# A host's spec, or a part of one, as the action mesh_plan returns it.
Spec = Mapping[str, Any]


def play_groups(rollout: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return each host with the groups of the plays it is in, in the order of their batches.

    rollout: what mesh_rollout returned
    """
    found: dict[str, list[str]] = {host: ["mesh_rollout"] for host in rollout["order"]}
    for group, hosts in (
        ("mesh_firewall", rollout["firewall"]),
        ("mesh_grant", rollout["stages"]["grant"]),
        ("mesh_add", rollout["new"]),
        ("mesh_remove", rollout["removed"]),
        ("mesh_sign", rollout["rollover"]),
        ("mesh_speak", rollout["stages"]["speak"]),
        ("mesh_narrow", rollout["stages"]["narrow"]),
        ("mesh_forget", rollout["forget"]),
    ):
        for host in hosts:
            found.setdefault(host, []).append(group)
    return [{"name": host, "groups": groups} for host, groups in found.items()]


def failed_hosts(hosts: Sequence[str], hostvars: Mapping[str, Any]) -> list[str]:
    """Return those of `hosts` whose `vmesh_result` says that they failed.

    Ansible itself counts a host as failed no more once a rescue has restored it.
    """
    results = {host: hostvars[host].get("vmesh_result") or {} for host in hosts}
    return [host for host, result in results.items() if result.get("result") == history.FAILED]


def failure_summary(result: Mapping[str, Any], hosts: Mapping[str, Sequence[str]]) -> str:
    """Return what to say at the end of a host that failed: why, who has what, and what to do.

    result: its `vmesh_result`; hosts: as mesh_record returns them
    """
    return "\n".join(summary_lines(result, hosts))


def wanted_artifacts(
    hosts: Mapping[str, Spec], hostvars: Mapping[str, Any], play_hosts: Sequence[str]
) -> dict[str, Any]:
    """Return the binaries and bundles that the reachable hosts need.

    Takes the hosts' specs, Ansible's hostvars with each host's own answer (`vmesh_answer`, see
    playbooks/prepare.yml), and the hosts still in the play.
    """
    binaries: dict[str, set[str]] = {"envoy": set(), "jaeger": set()}
    bundles: dict[tuple[str, ...], dict[str, str]] = {}
    for name in play_hosts:
        host = hosts[name]
        answer = hostvars[name]["vmesh_answer"]["host"]
        arch = answer["arch"]
        if host["proxies"]:
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
    services: Sequence[Spec], bundles: Mapping[str, Any], host: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return what the role flask_service takes of the host's services, with their bundles."""
    key = f"{host['python']}/{host['arch']}"
    keys = (
        "name",
        "wsgi",
        "workers",
        "threads",
        "preload",
        "grace",
        "health",
        "network",
        "address",
        "port",
        "environment",
    )
    return [
        {
            **{each: service[each] for each in keys},
            "version": bundles[service["name"]][key]["version"],
            "archive": bundles[service["name"]][key]["archive"],
        }
        for service in services
    ]


def callers_of(hosts: Mapping[str, Spec], host: str) -> list[dict[str, Any]]:
    """Return who calls the Flask services of `host`, of those that other hosts have too.

    As the role flask_service takes it (flask_service_callers).
    """
    found = []
    for service in hosts[host]["flask_services"]:
        name = service["name"]
        for other, spec in hosts.items():
            proxies = [proxy for proxy, upstreams in spec["balanced"].items() if name in upstreams]
            if proxies:
                found.append(
                    {
                        "cluster": name,
                        "address": service["address"],
                        "port": service["port"],
                        "host": other,
                        "proxies": proxies,
                    }
                )
    return found


def left_by_callers(drained: Mapping[str, Any]) -> list[str]:
    """Return the services that all their callers leave out.

    drained: the result of envoy_endpoint in a loop over what `callers_of` returns. A caller that is
    not there or of an earlier release (`left_alone`), or that cannot be reached, may go on.
    """
    told, lost = set(), set()
    for result in drained.get("results", ()):
        name = result["item"]["cluster"]
        told.add(name)
        if any(result.get(key) for key in ("skipped", "unreachable", "failed", "left_alone")):
            lost.add(name)
    return sorted(told - lost)


class FilterModule:
    """Offers the filters to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "callers_of": callers_of,
            "cause": cause,
            "failed_hosts": failed_hosts,
            "failure_summary": failure_summary,
            "left_by_callers": left_by_callers,
            "not_applied": not_applied,
            "play_groups": play_groups,
            "restoration": restoration,
            "skipped": skipped,
            "wanted_artifacts": wanted_artifacts,
            "with_bundles": with_bundles,
        }
