"""What changes in the clusters of an Envoy: upstreams, their endpoints, and how they are called."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from vmesh.compile.topology import EGRESS, upstream_words
from vmesh.rollout.change_report import ADD, CHANGE, REMOVE, HostReport, View
from vmesh.rollout.change_words import (
    CLUSTER_WORDS,
    NESTED_CLUSTER_WORDS,
    arrow,
    by_name,
    changed_inside,
    changed_keys,
    format_value,
)


def compare_clusters(report: HostReport, part: str, kind: str, before: View, after: View) -> None:
    """Say what changes in the upstreams of an Envoy."""
    old, new = by_name(before["clusters"]), by_name(after["clusters"])
    listeners = by_name(after["listeners"]), by_name(before["listeners"])
    for name, cluster in new.items():
        # A new listener for calls says it already.
        if name not in old and f"{EGRESS}{name}" not in listeners[0]:
            where = ", ".join(
                _endpoint_words(each, report.names_after) for each in cluster["endpoints"]
            )
            report.say(part, ADD, f"new upstream {upstream_words(name)}: {where or 'no instance'}")
    for name in old:
        if name not in new and f"{EGRESS}{name}" not in listeners[1]:
            report.say(part, REMOVE, f"no upstream {upstream_words(name)} any more")
    for name in [name for name in new if name in old]:
        what = "calls to " if kind == "service" else ""
        label = f"{what}{upstream_words(name)}"
        _compare_endpoints(report, part, upstream_words(name), old[name], new[name])
        for text in _cluster_changes(old[name], new[name]):
            report.say(part, CHANGE, f"{label}: {text}")


def _compare_endpoints(report: HostReport, part: str, upstream: str, old: View, new: View) -> None:
    before = _by_place(old["endpoints"], report.names_before)
    after = _by_place(new["endpoints"], report.names_after)
    ports = _ports_changed(before, after)
    if ports:
        report.say(part, CHANGE, f"endpoints of {upstream}: port {ports[0]} -> {ports[1]}")
    for place, endpoint in after.items():
        where = _endpoint_words(endpoint, report.names_after)
        if place not in before:
            report.say(part, ADD, f"new endpoint of {upstream}: {where}")
            continue
        was = before[place]
        if not ports and _address_of(was) != _address_of(endpoint):
            moved = f"{_address_of(was)} -> {_address_of(endpoint)}"
            report.say(part, CHANGE, f"endpoint of {upstream} on {place}: {moved}")
        for text in _zone_changes(was, endpoint):
            report.say(part, CHANGE, f"endpoint of {upstream}: {where}: {text}")
    for place, endpoint in before.items():
        if place not in after:
            where = _endpoint_words(endpoint, report.names_before)
            report.say(part, REMOVE, f"endpoint of {upstream} gone: {where}")


def _endpoint_words(endpoint: View, names: Mapping[str, str]) -> str:
    """Return an endpoint as it is told: its host, where it is one's, and its address."""
    name = names.get(endpoint.get("address", ""))
    return f"{name} {_address_of(endpoint)}" if name else _address_of(endpoint)


def _address_of(endpoint: View) -> str:
    return endpoint.get("pipe") or f"{endpoint['address']}:{endpoint['port']}"


def _by_place(endpoints: Iterable[View], names: Mapping[str, str]) -> dict[str, View]:
    """Return the endpoints by host; by address where no host has it, or one has several."""
    found: dict[str, View] = {}
    for each in endpoints:
        place = names.get(each.get("address", ""), _address_of(each))
        found[_address_of(each) if place in found else place] = each
    return found


def _ports_changed(old: Mapping[str, View], new: Mapping[str, View]) -> tuple[int, int] | None:
    """Return the ports of before and after where all endpoints got another, and only that."""
    pairs = [(old[place], new[place]) for place in old if place in new]
    ports = {(was.get("port"), becomes.get("port")) for was, becomes in pairs}
    if len(ports) != 1 or any(was.get("address") != now.get("address") for was, now in pairs):
        return None
    was, becomes = ports.pop()
    return (was, becomes) if was and becomes and was != becomes else None


def _zone_changes(old: View, new: View) -> Iterator[str]:
    zones = old.get("zone"), new.get("zone")
    if zones[0] != zones[1]:
        yield arrow("zone", format_value(zones[0]), format_value(zones[1]))
    first = [not endpoint.get("priority") for endpoint in (old, new)]
    if first[0] != first[1]:
        yield "used first now" if first[1] else "used last now"


def _cluster_changes(old: View, new: View) -> Iterator[str]:
    for key, label in NESTED_CLUSTER_WORDS.items():
        if old.get(key) != new.get(key):
            yield from changed_inside(label, old.get(key), new.get(key))
    told = ("endpoints", "mtls", *NESTED_CLUSTER_WORDS)
    yield from changed_keys(old, new, CLUSTER_WORDS, told)
