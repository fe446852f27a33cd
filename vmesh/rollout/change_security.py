"""What changes in who may call whom, and in how that is proven."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from vmesh.base.words import shorter
from vmesh.compile.security_views import CALLERS, INGRESS
from vmesh.compile.topology import upstream_words
from vmesh.rollout.change_report import View
from vmesh.rollout.change_words import arrow, by_name, networks

# How callers speak to a service, by what it accepts.
_ACCEPTED = {None: "plaintext", "both": "mTLS or plaintext", "mtls": "mTLS"}


def security_changes(proxy: str, old: View, new: View) -> Iterator[str]:
    """Yield what changes between two views of a proxy."""
    yield from _listener_changes(_ingress(old), _ingress(new))
    yield from _caller_changes(proxy, _rules(old), _rules(new))
    before, after = by_name(old["clusters"]), by_name(new["clusters"])
    for name in [name for name in after if name in before]:
        if _spoken(before[name]) != _spoken(after[name]):
            yield arrow(
                f"calls to {upstream_words(name)}", _spoken(before[name]), _spoken(after[name])
            )
    bundles = old.get("trust", {}), new.get("trust", {})
    # One that is new goes along with what uses it.
    for name in [name for name in bundles[1] if name in bundles[0]]:
        yield from _bundle_changes(name, bundles[0][name], bundles[1][name])


def _ingress(view: View) -> View:
    """Return how a proxy is called; all listeners of Jaeger's guard are alike."""
    return next((each["mtls"] for each in view["listeners"] if each.get("mtls")), {})


def _listener_changes(old: View, new: View) -> Iterator[str]:
    if old.get("accept") != new.get("accept"):
        yield arrow("callers speak", *(_ACCEPTED[each.get("accept")] for each in (old, new)))
    if old.get("plaintext_from", []) != new.get("plaintext_from", []):
        said = [networks(each.get("plaintext_from", [])) for each in (old, new)]
        yield arrow("networks that speak plaintext", *said)
    if old.get("identify_callers", False) != new.get("identify_callers", False):
        yield f"the app is {'' if new.get('identify_callers') else 'no longer '}told who calls"


def _rules(view: View) -> View | None:
    """Return whom a service lets in; None where it lets in everybody."""
    for site in view["routes"].get(INGRESS, {}).get("virtual_hosts", ()):
        rules: View | None = site["filters"].get("callers")
        return rules
    return None


def _caller_changes(service: str, old: View | None, new: View | None) -> Iterator[str]:
    if new is None:
        if old is not None:
            yield "everybody may call"
        return
    # Whoever was let in without rules may go on only if it is declared.
    before: Collection[str] = old["callers"] if old else ()
    for name in new["callers"]:
        if name not in before and name != service:
            yield f"{name} may call {service}"
    for name in before:
        if name not in new["callers"]:
            yield f"{name} may no longer call {service}"
    revoked = set(old["revoked"] if old else ()), set(new["revoked"])
    for prefix in sorted(revoked[1] - revoked[0]):
        yield f"{_host_of(prefix)} is revoked"
    for prefix in sorted(revoked[0] - revoked[1]):
        yield f"{_host_of(prefix)} is no longer revoked"
    if new["watch"] != (old or {}).get("watch", False):
        yield f"other callers are {'counted and let in' if new['watch'] else 'refused'}"


def _host_of(prefix: str) -> str:
    return prefix.removeprefix("spiffe://").rstrip("/")


def _spoken(cluster: View) -> str:
    return "mTLS" if cluster.get("mtls") else "plaintext"


def _bundle_changes(name: str, old: View, new: View) -> Iterator[str]:
    whose = "callers" if name == CALLERS else f"instances of {name.partition('_')[2]}"
    before: dict[str, Any] = old["anchors"]
    after: dict[str, Any] = new["anchors"]
    for words, hosts in (
        ("are trusted", after.keys() - before.keys()),
        ("are no longer trusted", before.keys() - after.keys()),
        ("have another anchor", {h for h in before.keys() & after if after[h] != before[h]}),
    ):
        if hosts:
            yield f"{whose} on {shorter(sorted(hosts))} {words}"
    if old["identities"] != new["identities"] and before.keys() == after.keys():
        yield f"{whose} have other identities"
    if old["accept_expired"] != new["accept_expired"]:
        yield f"expired identities are {'' if new['accept_expired'] else 'not '}accepted of {whose}"
