"""What would change, in words: two states of the hosts in, sentences out.

Pure. A state is what vmesh.rollout.description returns. Every difference gets a sentence: what no
rule has words for is told by its key, and files that are written differently although the
inventory says the same are told, too. Nothing changes silently.

This module compares hosts, and asks `change_proxies`, which asks `change_routes` and
`change_clusters`, `change_apps` and `change_firewall` for what is on them. The words of keys and
values are in `change_words`, the sentences in `change_report`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from vmesh.rollout.change_apps import (
    compare_apps,
    compare_jaeger,
    new_external,
    new_flask,
    new_jaeger,
)
from vmesh.rollout.change_firewall import compare_firewall, new_firewall
from vmesh.rollout.change_proxies import compare_proxies, new_proxy
from vmesh.rollout.change_report import (
    CHANGE,
    NOTE,
    REMOVE,
    Change,
    HostReport,
    Rerender,
    pending,
)
from vmesh.rollout.change_words import arrow, changed_keys, differing, format_value
from vmesh.rollout.record import HostRecord, left_behind, parts_of

_HOST_KEYS = (
    "address",
    "zone",
    "needs_authorities",
    "proxies",
    "flask_services",
    "external_apps",
    "jaeger",
    "firewall",
    "identity",
)


def compare(
    old: Mapping[str, HostRecord],
    new: Mapping[str, HostRecord],
    rerender: Rerender,
    in_inventory: Collection[str] = (),
) -> list[Change]:
    """Return what applying `new` changes on hosts that have `old`, host by host.

    in_inventory: all hosts of the inventory, also those without a part in the mesh
    """
    before, after = (
        {state["host"]["address"]: host for host, state in states.items()} for states in (old, new)
    )
    found: list[Change] = []
    for host in sorted(old.keys() | new.keys()):
        report = HostReport(host, {**after, **before}, {**before, **after}, rerender)
        if host not in new:
            _gone(report, old[host], there=host in in_inventory)
        elif host not in old:
            _first(report, new[host])
        else:
            _both(report, old[host], new[host])
        found += report.found
    return found


def sentences(
    old: Mapping[str, HostRecord], new: Mapping[str, HostRecord], rerender: Rerender
) -> dict[str, list[str]]:
    """Return host -> what applying `new` changes there, for hosts on which anything changes."""
    found: dict[str, list[str]] = {}
    for change in pending(compare(old, new, rerender)):
        found.setdefault(change.host, []).append(f"{change.part}: {change.text}")
    return found


def _gone(report: HostReport, old: HostRecord, *, there: bool) -> None:
    units = ", ".join(sorted({*parts_of(old), *old["left"]}))
    if there:
        text = f"has no part in the mesh any more; these are drained, stopped and removed: {units}"
        report.say("host", REMOVE, text)
        return
    report.say(
        "host",
        NOTE,
        "is no longer in the inventory; vmesh's parts still run there, nothing removes them:"
        f" {units}",
    )


def _first(report: HostReport, new: HostRecord) -> None:
    for proxy in new["host"]["proxies"]:
        new_proxy(report, proxy)
    for service in new["host"]["flask_services"]:
        new_flask(report, service)
    for service in new["host"].get("external_apps") or ():
        new_external(report, service)
    if new["host"]["jaeger"]:
        new_jaeger(report, new["host"]["jaeger"])
    if new["host"].get("firewall"):
        new_firewall(report, new["host"]["firewall"])


def _identities(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Yield what changes in the identities of a host's proxies."""
    for proxy, was, becomes in differing(old.get("identities", {}), new.get("identities", {})):
        yield arrow(f"identity of {proxy}", format_value(was), format_value(becomes))
    if old and new and old["leaf_hours"] != new["leaf_hours"]:
        yield arrow("hours that an identity is good", *(str(x["leaf_hours"]) for x in (old, new)))


def _both(report: HostReport, old: HostRecord, new: HostRecord) -> None:
    before, after = old["host"], new["host"]
    report.moved = (before["address"], after["address"])
    if before["address"] != after["address"]:
        report.say("host", CHANGE, f"mesh address {before['address']} -> {after['address']}")
    if before.get("zone") != after.get("zone"):
        zones = format_value(before.get("zone")), format_value(after.get("zone"))
        report.say("host", CHANGE, arrow("zone", *zones))
    for text in _identities(before.get("identity") or {}, after.get("identity") or {}):
        report.say("host", CHANGE, text)
    for text in changed_keys(before, after, {}, _HOST_KEYS):
        report.say("host", CHANGE, text)
    compare_proxies(report, old, new)
    compare_apps(report, old, new)
    compare_jaeger(report, old, new)
    compare_firewall(report, old, new)
    for unit in left_behind(old, new):
        text = f"{unit} is no longer planned here: it is drained, stopped and removed"
        report.say("host", REMOVE, text)
