"""Filters that pick from the hosts' specs what a playbook hands to a role."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# A host's spec, or a part of one, as a mapping (vmesh.compile.host_spec).
Spec = Mapping[str, Any]


def parts_of(host: Spec) -> list[str]:
    """Return the parts of a host, by the names of vmesh.rollout.record.parts_of."""
    every = [*host["proxies"]["service"], *host["proxies"]["edge"]]
    parts = [f"envoy@{proxy['name']}" for proxy in every]
    parts += [f"flask@{service['name']}" for service in host["flask_services"]]
    return [*parts, *(["jaeger"] if host["jaeger"] else [])]


def with_turns(rollout: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return each host with the groups of the plays it is in, in the order of their batches."""
    turns: dict[str, list[str]] = {host: ["mesh_rollout"] for host in rollout["order"]}
    for group, hosts in (("mesh_add", rollout["new"]), ("mesh_remove", rollout["removed"])):
        for host in hosts:
            turns.setdefault(host, []).append(group)
    return [{"name": host, "groups": groups} for host, groups in turns.items()]


def cause(result: Mapping[str, Any]) -> str:
    """Return why a task failed, from its result: the messages of all that failed in it."""
    # Here, as the filters that roles use need no package.
    from vmesh.base import failures  # noqa: PLC0415

    from ..plugin_utils import package  # noqa: F401, PLC0415 - makes vmesh importable

    return failures.cause(result)


def was_restored(result: Mapping[str, Any] | None) -> str:
    """Return a sentence on whether the previous state is back, from a result of host_snapshot."""
    if not result or result.get("skipped"):
        return "Nothing was put back."
    if result.get("begun") is False:
        return "Nothing had been changed yet."
    if result.get("failed") and result.get("back") != {}:
        return f"The state of before could not be put back: {cause(result)}"
    return "The state of before is back, and serves."


def failed_hosts(hosts: Sequence[str], hostvars: Mapping[str, Any]) -> list[str]:
    """Return those of `hosts` of which playbooks/tasks/transaction.yml noted that they failed."""
    return [
        host
        for host in hosts
        if (hostvars[host].get("vmesh_result") or {}).get("result") == "failed"
    ]


def as_told(result: Mapping[str, Any], recorded: Mapping[str, Any]) -> str:
    """Return what to say at the end of a host that failed, and of the others.

    result: what playbooks/tasks/transaction.yml noted
    recorded: the hosts by what became of them, as mesh_record returns them
    """
    lines = [f"{result['task']}: {result['cause']}", result.get("restored", "")]
    for key, text in (
        ("applied", "With the new state"),
        ("not_begun", "Not begun, with the old state"),
    ):
        if hosts := recorded.get(key):
            lines.append(f"{text}: {', '.join(hosts)}.")
    lines.append("Mend the cause and run site.yml again: it goes on from here.")
    return "\n".join(line for line in lines if line)


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


def with_keys(items: Sequence[Spec], *keys: str) -> list[dict[str, Any]]:
    """Return each mapping with only these of its keys."""
    return [{key: item[key] for key in keys if key in item} for item in items]


def callers_of(hosts: Mapping[str, Spec], host: str) -> list[dict[str, Any]]:
    """Return who calls the Flask services of `host`, of those that other hosts have too.

    As the role flask_service takes it (flask_service_callers).
    """
    found = []
    for service in hosts[host]["flask_services"]:
        name = service["name"]
        for other, spec in hosts.items():
            proxies = [
                proxy["name"]
                for kind in ("service", "edge")
                for proxy in spec["proxies"][kind]
                if name in proxy["balanced"]
            ]
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


def proxies_of(host: Spec, parts: Sequence[str]) -> list[dict[str, Any]]:
    """Return the proxies of a host that are among `parts` (envoy@<name>, ...)."""
    every = [*host["proxies"]["service"], *host["proxies"]["edge"]]
    return [proxy for proxy in every if f"envoy@{proxy['name']}" in parts]


def proxies_among(parts: Sequence[str]) -> list[str]:
    """Return the names of the proxies among `parts` (envoy@<name>, ...)."""
    return [part.removeprefix("envoy@") for part in parts if part.startswith("envoy@")]


def flask_names(parts: Sequence[str]) -> list[str]:
    """Return the names of the Flask services among `parts` (flask@<name>, ...)."""
    return [part.removeprefix("flask@") for part in parts if part.startswith("flask@")]


class FilterModule:
    """Offers the filters to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "as_told": as_told,
            "callers_of": callers_of,
            "cause": cause,
            "failed_hosts": failed_hosts,
            "flask_names": flask_names,
            "parts_of": parts_of,
            "proxies_among": proxies_among,
            "proxies_of": proxies_of,
            "wanted_artifacts": wanted_artifacts,
            "was_restored": was_restored,
            "with_bundles": with_bundles,
            "with_keys": with_keys,
            "with_turns": with_turns,
        }
