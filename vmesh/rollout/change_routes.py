"""What changes in the routes of an Envoy: virtual hosts, routes and where they lead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vmesh.base.words import plural
from vmesh.compile.topology import EGRESS, match_words, own_answer, target_shares, upstream_words
from vmesh.rollout.change_report import ADD, CHANGE, REMOVE, HostReport, View
from vmesh.rollout.change_words import (
    FILTER_WORDS,
    ROUTE_WORDS,
    TABLE_WORDS,
    arrow,
    by_name,
    changed_keys,
    differing,
    format_value,
    key_words,
    tracing_changes,
)


def compare_routes(report: HostReport, part: str, table: str, old: View, new: View) -> None:
    """Say what changes in one table of routes."""
    for key, before, after in differing(old, new, ("virtual_hosts",)):
        text = arrow(
            TABLE_WORDS.get(key, key_words(key)), format_value(before), format_value(after)
        )
        report.say(part, CHANGE, f"{_table_words(table)}: {text}")
    before_hosts, after_hosts = by_name(old["virtual_hosts"]), by_name(new["virtual_hosts"])
    for name, host in after_hosts.items():
        if name not in before_hosts:
            count = len(host["routes"])
            text = f"new virtual host for {format_value(host['domains'])}"
            report.say(part, ADD, f"{text}, with {count} {plural('route', count)}")
    for name, host in before_hosts.items():
        if name not in after_hosts:
            report.say(
                part, REMOVE, f"no virtual host for {format_value(host['domains'])} any more"
            )
    common = [name for name in after_hosts if name in before_hosts]
    for name in common:
        _compare_virtual_host(report, part, table, before_hosts[name], after_hosts[name])
    if [name for name in before_hosts if name in after_hosts] != common:
        report.say(part, CHANGE, "its virtual hosts stand in another order")


def _compare_virtual_host(report: HostReport, part: str, table: str, old: View, new: View) -> None:
    site = "" if table != "public" or new["domains"] == ["*"] else f" of {new['domains'][0]}"
    whole = f"all routes{site}" if table == "public" else _table_words(table)
    for text in changed_keys(
        old, new, {"domains": ("answers for", format_value)}, ("routes", "filters")
    ):
        report.say(part, CHANGE, f"{whole}: {text}")
    for text in changed_keys(old["filters"], new["filters"], FILTER_WORDS, ("callers",)):
        report.say(part, CHANGE, f"{whole}: {text}")
    before, after = _by_match(old["routes"]), _by_match(new["routes"])
    for key, route in after.items():
        label = _route_label(table, route, site)
        if key not in before:
            report.say(part, ADD, f"new {label}: {_target(route)}")
            continue
        for text in _route_changes(before[key], route):
            report.say(part, CHANGE, f"{label}: {text}")
    for key, route in before.items():
        if key not in after:
            report.say(part, REMOVE, f"no {_route_label(table, route, site)} any more")
    if [key for key in before if key in after] != [key for key in after if key in before]:
        report.say(part, CHANGE, f"{whole}: tried in another order")


def _by_match(routes: Iterable[View]) -> dict[str, View]:
    """Return the routes by what they match; of the same match, the first, the second, ..."""
    found: dict[str, View] = {}
    for route in routes:
        key, count = match_words(route["match"]), 1
        while (numbered := f"{key} #{count}") in found:
            count += 1
        found[numbered] = route
    return found


def _table_words(table: str) -> str:
    if table.startswith(EGRESS):
        return f"calls to {table.removeprefix(EGRESS)}"
    return {"ingress": "requests to the app", "admin": "admin pages"}.get(table, f"routes {table}")


def _route_label(table: str, route: View, site: str) -> str:
    words = match_words(route["match"])
    if table == "public":
        return f"route {words}{site}"
    whole = words == "/"
    return f"{_table_words(table)}" if whole else f"{_table_words(table)}, {words}"


def _target(route: View) -> str:
    """Return in words where a route leads."""
    if own := own_answer(route):
        return own
    shares = target_shares(route)
    return "to " + ", ".join(
        upstream_words(name) if share is None else f"{upstream_words(name)} {share:.4g} %"
        for name, share in shares.items()
    )


def _route_changes(old: View, new: View) -> Iterator[str]:
    if _target(old) != _target(new):
        yield f"{_target(old)} -> {_target(new)}"
    elif (old.get("answer") or {}).get("body") != (new.get("answer") or {}).get("body"):
        yield "body of the answer changes"
    elif any(old.get(key) != new.get(key) for key in ("weights", "redirect", "answer")):
        yield "written in another way, to the same effect"
    told = ("cluster", "weights", "redirect", "answer", "match", "tracing", "filters")
    if ("timeout" in old) == ("timeout" in new):  # a route to an upstream before and after
        yield from changed_keys(old, new, ROUTE_WORDS, told)
    if old.get("tracing") != new.get("tracing"):
        yield from tracing_changes(old.get("tracing"), new.get("tracing"))
    yield from changed_keys(old.get("filters") or {}, new.get("filters") or {}, FILTER_WORDS)
