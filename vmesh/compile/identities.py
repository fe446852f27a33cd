"""Who each proxy is: `spiffe://<host label>.<trust domain>/<proxy>`.

The host is in the host part, because X.509 name constraints limit that part of a URI and not its
path (RFC 5280, section 4.2.1.10): so no host can sign for a proxy of another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from vmesh.base.problems import Problem
from vmesh.compile.host_spec import HostIdentity
from vmesh.model.access_types import OFF, Security
from vmesh.model.types import Mesh

LONGEST_LABEL = 63  # RFC 1035, section 2.3.4


def host_label(host: str) -> str:
    """Return the name of a host in the inventory as a label of a DNS name."""
    return re.sub(r"[^a-z0-9]+", "-", host.lower())[:LONGEST_LABEL].strip("-") or "host"


def trust_domain(security: Security, source: Path) -> str:
    """Return the trust domain: the user's, or one that is called as the inventory at `source`."""
    return security.trust_domain or f"{host_label(source.name.split('.')[0])}.mesh"


def identity(host: str, domain: str, proxy: str) -> str:
    """Return the identity of a proxy on a host, in a trust domain."""
    return f"spiffe://{host_label(host)}.{domain}/{proxy}"


def callers(mesh: Mesh) -> dict[str, list[str]]:
    """Return service -> the proxies that call it: services and edges."""
    calls = {
        **{name: {call.upstream for call in each.calls} for name, each in mesh.services.items()},
        **{name: set(edge.upstreams) for name, edge in mesh.edges.items()},
    }
    return {
        service: sorted(name for name, upstreams in calls.items() if service in upstreams)
        for service in mesh.services
    }


def of_host(
    security: Security, source: Path, host: str, proxies: Iterable[str]
) -> HostIdentity | None:
    """Return what a host needs to renew the identities of its proxies; None where it has none."""
    domain = trust_domain(security, source)
    found = {proxy: identity(host, domain, proxy) for proxy in proxies}
    if security.mtls == OFF or not found:
        return None
    return HostIdentity(f"{host_label(host)}.{domain}", found, security.leaf_hours)


def check(security: Security, hosts: Iterable[str]) -> Iterator[Problem]:
    """Find hosts that would have one name."""
    if security.mtls == OFF:
        return
    seen: dict[str, str] = {}
    for host in hosts:
        label = host_label(host)
        if label in seen:
            yield Problem(
                f"host {host}",
                label,
                f"is also the label of the host {seen[label]}, so each could speak for the other",
                "Rename one of them in the inventory so that their names differ in letters a-z"
                " and digits",
            )
        seen.setdefault(label, host)
