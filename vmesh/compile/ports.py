"""Which ports of a host the mesh listens on, and the clashes between them."""

from __future__ import annotations

from collections.abc import Iterator

from vmesh.base.problems import Problem
from vmesh.compile.host_spec import HostSpec, Port


def port_clashes(host: str, spec: HostSpec) -> Iterator[Problem]:
    """Yield a problem for each two parts of a host that want the same port of one address."""
    taken: dict[int, list[tuple[str, Port]]] = {}
    for owner, port in _owned_ports(spec):
        for other_owner, other in taken.setdefault(port.port, []):
            # Several services may stand for one app that is not vmesh's.
            both_apps = port.what == other.what == "listening"
            if _overlap(port, other) and not both_apps:
                yield Problem(
                    f"{host}: port of {owner} ({port.what})",
                    f"{port.address}:{port.port}",
                    f"is taken on this host by {other_owner} ({other.what})",
                    "Give one of them another port in the inventory",
                )
        taken[port.port].append((owner, port))


def _overlap(one: Port, other: Port) -> bool:
    return one.port == other.port and (
        one.address == other.address or "0.0.0.0" in (one.address, other.address)
    )


def _owned_ports(spec: HostSpec) -> Iterator[tuple[str, Port]]:
    for app in spec.external_apps:
        if not app.listening.startswith("unix:"):
            address, number = app.listening.rsplit(":", 1)
            yield f"the app of {app.name}", Port(address, int(number), "listening")
    for proxy in spec.proxies:
        for port in proxy.ports:
            yield proxy.name, port
    for port in spec.jaeger.ports if spec.jaeger else ():
        yield "jaeger", port
