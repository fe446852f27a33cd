"""The views of listeners: where Envoy listens, which peers it trusts, and how it traces."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable, Mapping

from vmesh.compile.cluster_views import COLLECTOR, host_header
from vmesh.compile.host_spec import View
from vmesh.model.types import Edge, Mesh, Tracing

# Envoy takes an empty internal_address_config for the default, all private networks, and
# lets those bring their own request ids. No peer has this address.
NOBODY = "0.0.0.0/32"

Tags = Mapping[str, Mapping[str, str | None]]


def listener(  # noqa: PLR0913 - each is a fact of its own
    name: str,
    direction: str,
    address: str,
    port: int,
    *,
    tracing: View | None,
    websocket: str,
    http10_host: str | None,
    edge: Edge | None = None,
    to_outside: bool = False,
    proxy_100_continue: bool = True,
) -> View:
    """Return a listener; `edge` is the one whose clients it serves, None inside the mesh.

    `http10_host` is the Host of an HTTP/1.0 request that names none; None refuses HTTP/1.0.
    `to_outside` tells whether its requests may leave the mesh. Those of an edge may: its listener
    must not change with its routes.
    """
    return {
        "name": name,
        "direction": direction,
        "address": address,
        "port": port,
        "edge": edge is not None,
        **_peers(edge),
        # Inside the mesh a path and headers stay as the edge or the calling app wrote them.
        "headers_with_underscores": edge.headers_with_underscores if edge else "allow",
        "escaped_slashes": edge.escaped_slashes if edge else "keep",
        "merge_slashes": edge.merge_slashes if edge else False,
        "http10_host": http10_host,
        "to_outside": to_outside or edge is not None,
        "tracing": tracing,
        "websocket": websocket,
        "proxy_100_continue": proxy_100_continue,
    }


def holds_back(edge: Edge) -> bool:
    """Tell whether some route of `edge` holds bodies back.

    An app behind it could not ask for a body, as it gets no header before all of it is there.
    """
    return any(
        "max_request_bytes" in {**host.filters, **route.filters}
        for host in edge.virtual_hosts
        for route in host.routes
    )


def _peers(edge: Edge | None) -> View:
    """Return whom a listener of `edge` believes what: see files/envoy/filter_chains.yaml.j2."""
    control = distinct(edge.control_cidrs if edge else ())
    # Envoy takes the longest network that a peer is in: a part of one with more rights would
    # lose them, and the same network twice is refused.
    trusted = [
        each
        for each in distinct(edge.trusted_cidrs if edge else ())
        if not any(each.subnet_of(other) for other in control)
    ]
    protocol = edge.proxy_protocol if edge else None
    return {
        "trusted_networks": [network(str(each)) for each in trusted],
        "control_networks": [network(str(each)) for each in control],
        # Envoy obeys the control headers of these peers alone, when they speak for themselves.
        "internal_networks": [network(str(each)) for each in control] or [network(NOBODY)],
        "trusted_hops": (edge and edge.trusted_hops) or (0 if protocol else 1),
        "proxy_protocol": protocol,
    }


def distinct(cidrs: Iterable[str]) -> list[ipaddress.IPv4Network]:
    """Return the networks of `cidrs` without those that are part of another.

    The network of all addresses becomes two halves: Envoy has no more regard for it than for none.
    """
    found = ipaddress.collapse_addresses(map(ipaddress.IPv4Network, cidrs))
    return [half for each in found for half in (each.subnets() if not each.prefixlen else [each])]


def http10_host(edge: Edge) -> str | None:
    """Return the Host of requests of HTTP/1.0 that name none: a visitor of the first site."""
    if not edge.http10:
        return None
    return edge.virtual_hosts[0].domains[0].replace("*", edge.name)


def tracing(mesh: Mesh, proxy: str, own: Tracing | None = None) -> View:
    """Return how a listener of `proxy` traces.

    `own` is what an edge says. An edge decides what is traced; the other listeners follow what
    their requests' trace context says, and decide for requests without any.
    """
    collector = mesh.tracing.collector
    sampling = own.sampling if own else None
    return {
        "follows": own is None,
        "export": mesh.tracing.export,
        "service": proxy,
        "sampling": mesh.tracing.sampling if sampling is None else sampling,
        "collector": COLLECTOR,
        "collector_host": host_header(collector) if collector else COLLECTOR,
        "collector_path": mesh.tracing.path,
        "headers": mesh.tracing.headers,
        "tags": tags(mesh.tracing.tags, own.tags if own else {}),
    }


@functools.cache
def network(cidr: str) -> View:
    """Return an IPv4 network as Envoy writes it."""
    parsed = ipaddress.IPv4Network(cidr)
    return {"address_prefix": str(parsed.network_address), "prefix_len": parsed.prefixlen}


def tags(*layers: Tags) -> list[View]:
    """Return the tags of all `layers`, a later one over an earlier one of the same name."""
    merged = {name: tag for layer in layers for name, tag in layer.items()}
    return [
        {"name": name, **{k: v for k, v in tag.items() if v is not None or k == "default"}}
        for name, tag in sorted(merged.items())
    ]
