"""What changes in the Envoys of a host: their release, unit, files and listeners."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from vmesh.base.words import plural, shorter
from vmesh.compile.host_spec import GUARD
from vmesh.compile.jaeger_views import RECEIVERS
from vmesh.compile.patches import BOOTSTRAP as BOOTSTRAP_KIND
from vmesh.compile.topology import EGRESS
from vmesh.render.static_form import BOOTSTRAP
from vmesh.rollout.change_clusters import compare_clusters
from vmesh.rollout.change_report import ADD, CHANGE, REMOVE, RESTART, HostReport, View
from vmesh.rollout.change_roles import role_differs, role_words, setting_changes
from vmesh.rollout.change_routes import compare_routes
from vmesh.rollout.change_security import security_changes
from vmesh.rollout.change_words import (
    EARLIER_EDGE,
    EARLIER_LISTENER,
    LISTENER_WORDS,
    arrow,
    by_name,
    changed_inside,
    changed_keys,
    differing,
    format_value,
    key_words,
    listens_on,
    networks,
    tracing_changes,
    url_of,
)
from vmesh.rollout.description import MASKED
from vmesh.rollout.record import HostRecord

_PROXY_KEYS = ("name", "ports", "view")
# Parts of a view that have sentences of their own.
_TOLD = (
    "listeners",
    "routes",
    "clusters",
    "patches",
    "certificates",
    "acme",
    "local",
    "jwt",
    "trust",
)
# Follow from the URL of an issuer's keys.
_TOLD_BY_URL = ("cluster", "refresh", "timeout")


def compare_proxies(report: HostReport, old: HostRecord, new: HostRecord) -> None:
    """Say what changes in the Envoys of a host."""
    before, after = by_name(old["host"]["proxies"]), by_name(new["host"]["proxies"])
    versions = old["versions"].get("envoy"), new["versions"].get("envoy")
    rewritten_unit = role_differs(old, new, "envoy")
    if before and after and versions[0] != versions[1]:
        report.say("Envoy", CHANGE, f"version {versions[0]} -> {versions[1]}")
    if before and after and rewritten_unit:
        report.say("Envoy", CHANGE, role_words("its unit or settings"))
    for label in setting_changes(old, new, "envoy_") if before and after else ():
        report.say("Envoy", CHANGE, label)
    for name, proxy in after.items():
        if name not in before:
            new_proxy(report, proxy)
            continue
        _compare_proxy(report, before[name], proxy)
        old_files, new_files = old["files"].get(name, {}), new["files"].get(name, {})
        _rewritten(report, before[name], proxy, old_files, new_files)
        reasons = []
        if old_files.get(BOOTSTRAP) != new_files.get(BOOTSTRAP):
            reasons.append("another bootstrap")
        if versions[0] != versions[1]:
            reasons.append("another release")
        if rewritten_unit or any(setting_changes(old, new, "envoy_")):
            reasons.append("another unit")
        if reasons:
            report.say(_label(proxy), RESTART, f"restart of Envoy ({', '.join(reasons)})")


def new_proxy(report: HostReport, proxy: View) -> None:
    """Say that an Envoy is new, and what for."""
    view = proxy["view"]
    listeners = {each["name"]: each for each in view["listeners"]}
    calls = [name.removeprefix(EGRESS) for name in listeners if name.startswith(EGRESS)]
    if proxy["kind"] == "edge":
        public = listeners["public"]
        count = sum(len(table["routes"]) for table in _virtual_hosts(view, "public"))
        text = (
            f"new Envoy for clients on {listens_on(public)}, with {count} {plural('route', count)}"
        )
    elif proxy["kind"] == GUARD:
        ports = ", ".join(str(each["port"]) for each in view["listeners"])
        text = f"new Envoy in front of Jaeger, ports {ports}"
    else:
        text = f"new Envoy in front of its app, port {listeners['ingress']['port']}"
        text += f"; calls {', '.join(calls)}" if calls else ""
    report.say(_label(proxy), ADD, text)


def _compare_proxy(report: HostReport, old: View, new: View) -> None:
    begin = len(report.found)
    part, before, after = _label(new), old["view"], new["view"]
    for key, one, other in differing(old, new, _PROXY_KEYS):
        report.say(part, CHANGE, arrow(key_words(key), format_value(one), format_value(other)))
    _compare_listeners(report, part, new["kind"], before, after)
    for table in dict.fromkeys([*after["routes"], *before["routes"]]):
        if table in before["routes"] and table in after["routes"]:
            one, other = before["routes"][table], after["routes"][table]
            compare_routes(report, part, table, one, other)
    compare_clusters(report, part, new["kind"], before, after)
    for text in _patch_changes(before.get("patches", []), after.get("patches", [])):
        report.say(part, CHANGE, text)
    for text in (
        *_certificate_changes(before, after),
        *security_changes(new["name"], before, after),
    ):
        report.say(part, CHANGE, text)
    for text in _issuer_changes(before.get("jwt") or {}, after.get("jwt") or {}):
        report.say(part, CHANGE, text)
    for key, one, other in differing(before, after, _TOLD):
        if key == "node":
            for inner, was, becomes in differing(one or {}, other or {}, ("zone",)):
                report.say(
                    part,
                    CHANGE,
                    arrow(f"node's {key_words(inner)}", format_value(was), format_value(becomes)),
                )
        else:
            report.say(part, CHANGE, arrow(key_words(key), format_value(one), format_value(other)))
    if len(report.found) == begin and not _moved_only(report, before, after):
        report.say(part, CHANGE, "its configuration changes in its order only; see --diff")


def _moved_only(report: HostReport, before: View, after: View) -> bool:
    """Tell whether two views differ in nothing but what the host's own lines tell."""
    before, after = _unnumbered(before), _unnumbered(after)
    old, new = report.moved
    node = {**after["node"], "zone": before["node"].get("zone")}
    text = json.dumps({**after, "node": node}, sort_keys=True)
    return text.replace(f'"{new}"', f'"{old}"') == json.dumps(before, sort_keys=True)


def _compare_listeners(report: HostReport, part: str, kind: str, before: View, after: View) -> None:
    old, new = by_name(before["listeners"]), by_name(after["listeners"])
    for name, listener in new.items():
        if name not in old:
            url = f" ({url_of(name)})" if kind == "service" and name.startswith(EGRESS) else ""
            report.say(part, ADD, f"new {_listener_words(name)} on {listens_on(listener)}{url}")
    for name, listener in old.items():
        if name not in new:
            report.say(
                part, REMOVE, f"no {_listener_words(name)} on {listens_on(listener)} any more"
            )
    common = [name for name in new if name in old]
    traced = {
        name: tuple(tracing_changes(old[name]["tracing"], new[name]["tracing"]))
        for name in common
        if old[name]["tracing"] != new[name]["tracing"]
    }
    alike = len(set(traced.values())) == 1
    for text in next(iter(traced.values())) if alike else ():
        report.say(part, CHANGE, text)
    for name in common:
        texts = list(_listener_changes(report, old[name], new[name]))
        texts += () if alike else traced.get(name, ())
        for text in texts:
            report.say(part, CHANGE, f"{_listener_words(name)}: {text}")


def _listener_changes(report: HostReport, old: View, new: View) -> Iterator[str]:
    old = {**(EARLIER_EDGE if old["edge"] else EARLIER_LISTENER), **old}
    own = old["address"] in report.names_before and new["address"] in report.names_after
    if (old["address"], old["port"]) != (new["address"], new["port"]):
        if own and old["port"] != new["port"]:
            yield f"port {old['port']} -> {new['port']}"
        elif not own:
            yield f"{listens_on(old)} -> {listens_on(new)}"
    if old["trusted_networks"] != new["trusted_networks"]:
        yield arrow(
            "trusted networks",
            networks(old["trusted_networks"]),
            networks(new["trusted_networks"]),
        )
    elif (
        old["internal_networks"] != new["internal_networks"]
        and old["control_networks"] == new["control_networks"]
    ):
        yield arrow(
            "internal networks",
            networks(old["internal_networks"]),
            networks(new["internal_networks"]),
        )
    told = ("address", "port", "trusted_networks", "internal_networks", "tracing", "mtls")
    yield from changed_keys(old, new, LISTENER_WORDS, told)


def _issuer_changes(old: View, new: View) -> Iterator[str]:
    """Say which issuers of tokens come, go and change."""
    for name in dict.fromkeys([*new, *old]):
        if name not in old:
            yield f"tokens of {new[name]['issuer']} ({name}) count"
        elif name not in new:
            yield f"tokens of {old[name]['issuer']} ({name}) count no more"
        else:
            for key, one, other in differing(old[name], new[name], _TOLD_BY_URL):
                label = f"issuer {name}: {key_words(key)}"
                yield arrow(label, format_value(one), format_value(other))


def _certificate_changes(old: View, new: View) -> Iterator[str]:
    """Say which certificate an edge has; a key is told of only by its certificate."""
    if any(old.get(key) != new.get(key) for key in ("certificates", "local")):
        yield arrow("its certificate", _certificate_words(old), _certificate_words(new))
    if old.get("acme") != new.get("acme"):
        yield from changed_inside("ACME", old.get("acme"), new.get("acme"))


def _certificate_words(view: View) -> str:
    if "local" in view:
        return f"signed by its host, for {', '.join(view['local']['names'])}"
    names = [
        each.get("certificate") or f"{each['certificate_on_host']} of the host"
        for each in view.get("certificates", {}).values()
    ]
    return shorter(names) if names else "none of these"


def _unnumbered(view: View) -> View:
    """Return a view without the numbers that its patches have in the user's list."""
    patches = [{**patch, "variable": ""} for patch in view.get("patches", ())]
    return {**view, "patches": patches} if patches else view


def _patch_changes(before: Sequence[View], after: Sequence[View]) -> Iterator[str]:
    """Say which patches come, go and change; another number in the list is no change."""

    def by_target(patches: Sequence[View]) -> dict[str, list[View]]:
        found: dict[str, list[View]] = {}
        for patch in patches:
            target = f"{patch['kind']} {shorter(patch['names'])}"
            if patch["kind"] == BOOTSTRAP_KIND:
                target = "the bootstrap"
            rest = {key: value for key, value in patch.items() if key != "variable"}
            found.setdefault(target, []).append(rest)
        return found

    old, new = by_target(before), by_target(after)
    for target in dict.fromkeys([*new, *old]):
        if target not in old:
            yield f"a patch of {target} is new"
        elif target not in new:
            yield f"the patch of {target} goes"
        elif old[target] != new[target]:
            yield f"the patch of {target} changes"


def _rewritten(report: HostReport, old: View, new: View, before: View, after: View) -> None:
    """Tell of files that today's templates write differently for the same view."""
    if before == after:
        return
    before, after = _unmarked(before), _unmarked(after)
    now = after if old["view"] == new["view"] else report.rerender(old)
    if now is None:
        report.say(
            _label(new),
            CHANGE,
            "what was applied cannot be written again by this version of vmesh, so its files"
            " may differ in more than is told here",
        )
        return
    names = sorted(name for name in now.keys() | before.keys() if now.get(name) != before.get(name))
    if names:
        files = sorted(_named_files(old["view"]))
        cause = f", or {' or '.join(files)} has changed" if files else ""
        report.say(
            _label(new),
            CHANGE,
            f"Envoy's configuration is written differently by this version of vmesh{cause}"
            f" ({shorter(names)})",
        )


def _named_files(view: View) -> Iterator[str]:
    """Yield the files on the controller of which a proxy's files have the text."""
    for cluster in view["clusters"]:
        if cluster.get("tls") and cluster["tls"].get("ca_file"):
            yield cluster["tls"]["ca_file"]
    for certificate in view.get("certificates", {}).values():
        if certificate.get("certificate"):
            yield certificate["certificate"]
    for issuer in view.get("jwt", {}).values():
        if issuer.get("jwks_file"):
            yield issuer["jwks_file"]


def _virtual_hosts(view: View, table: str) -> Sequence[View]:
    hosts: Sequence[View] = view["routes"].get(table, {}).get("virtual_hosts", ())
    return hosts


def _label(proxy: View) -> str:
    return f"edge {proxy['name']}" if proxy["kind"] == "edge" else f"{proxy['name']}'s Envoy"


def _listener_words(name: str) -> str:
    if name.startswith(EGRESS):
        return f"listener for calls to {name.removeprefix(EGRESS)}"
    words = {
        "public": "clients",
        "redirect": "redirects to HTTPS",
        "admin": "the admin pages",
        "ingress": "callers",
        **{each: what for each, (_, what) in RECEIVERS.items()},
    }
    return f"listener for {words.get(name, name)}"


def _unmarked(files: View) -> dict[str, str]:
    """Return hashes without the mark of those made of a text with hidden values."""
    return {path: sha256.removeprefix(MASKED) for path, sha256 in files.items()}
