"""What revokes a host at once: the files of others by which they trust it, as they were recorded.

A run of site.yml with `mesh_security.revoked` does the same, in its batches and with all else that
the inventory has. This takes the host out of what was applied, and changes nothing else. Pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vmesh.compile.host_spec import View
from vmesh.compile.security_views import INGRESS
from vmesh.render.renderer import Renderer
from vmesh.rollout import description
from vmesh.rollout.record import HostRecord


@dataclass(frozen=True)
class Change:
    """What a proxy gets.

    files: the text of each of its files by path; changed: the paths of those that differ
    unknown: those of them whose text on the host is not known, as it has a secret or was made by
    another release
    """

    proxy: str
    files: Mapping[str, str]
    changed: tuple[str, ...]
    unknown: tuple[str, ...]


def changes(
    recorded: Mapping[str, HostRecord], host: str, prefix: str, renderer: Renderer
) -> dict[str, list[Change]]:
    """Return host -> what changes in the proxies there, where they trust the revoked `host`.

    prefix: of its identities, as in spiffe://web3.shop.mesh/
    Raises Problems, and what a template raises.
    """
    address = recorded[host]["host"]["address"] if host in recorded else None
    found = {
        other: list(_changes(state, host, prefix, address, renderer))
        for other, state in recorded.items()
        if other != host
    }
    return {other: each for other, each in found.items() if each}


def _changes(
    state: HostRecord, host: str, prefix: str, address: str | None, renderer: Renderer
) -> Iterator[Change]:
    for proxy in state["host"]["proxies"]:
        view = without(proxy["view"], host, prefix, address)
        if view == proxy["view"]:
            continue
        spec = description.proxy_from(proxy)
        before = renderer.files(spec)
        after = renderer.files(dataclasses.replace(spec, view=view))
        changed = tuple(path for path in after if after[path] != before.get(path))
        known, hashes = state["files"][proxy["name"]], description.hashes_of(before)
        unknown = tuple(path for path in changed if known.get(path) != hashes.get(path))
        yield Change(proxy["name"], after, changed, unknown)


def without(view: View, host: str, prefix: str, address: str | None) -> View:
    """Return the view of a proxy that trusts, lets in and calls a host no more.

    address: of that host; None where it is not known
    """
    clusters = [
        {**each, "endpoints": _left(each["endpoints"], address)} if each.get("mtls") else each
        for each in view["clusters"]
    ]
    trust = {
        name: {
            **each,
            "anchors": {h: pem for h, pem in each["anchors"].items() if h != host},
            "identities": [name for name in each["identities"] if not name.startswith(prefix)],
        }
        for name, each in view.get("trust", {}).items()
    }
    routes = dict(view["routes"])
    if table := routes.get(INGRESS):
        sites = [_refusing(site, prefix) for site in table["virtual_hosts"]]
        routes[INGRESS] = {**table, "virtual_hosts": sites}
    found = {**view, "clusters": clusters, "routes": routes}
    return {**found, "trust": trust} if trust else found


def _left(endpoints: list[dict[str, Any]], address: str | None) -> list[dict[str, Any]]:
    """Return the endpoints on other hosts; without any, callers fail at the host's leaf."""
    return [each for each in endpoints if each.get("address") != address] or endpoints


def _refusing(site: View, prefix: str) -> View:
    rules = site["filters"].get("callers")
    if not rules or prefix in rules["revoked"]:
        return site
    rules = {**rules, "revoked": sorted([*rules["revoked"], prefix])}
    return {**site, "filters": {**site["filters"], "callers": rules}}
