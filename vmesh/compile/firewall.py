"""What each host lets in: derived from who connects to whom in the compiled mesh.

Pure. Who connects is read from the endpoints of the clusters, which are what the Envoys really get.
So a caller is let in wherever it is sent, and nobody else is.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from vmesh.compile.host_spec import JAEGER, HostSpec, Opened, Port, ProxySpec
from vmesh.compile.jaeger_views import RECEIVERS, UI_PORT
from vmesh.model.types import Mesh

SSH = "ssh"
EVERYBODY = ("0.0.0.0/0", "::/0")
# Listeners of an edge that clients reach, by their names.
_FOR_CLIENTS = ("public", "redirect")
# A port of a host, as its peers find it: its mesh address and the number.
_Place = tuple[str, int]
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def with_firewalls(hosts: Mapping[str, HostSpec], mesh: Mesh) -> dict[str, HostSpec]:
    """Return the hosts with what each lets in; unchanged where the mesh has no firewall."""
    if not mesh.firewall.enabled:
        return dict(hosts)
    callers = _callers(hosts.values(), mesh.tracing.plaintext_from)
    return {
        name: replace(spec, firewall=_merged(_opened(spec, mesh, callers)))
        for name, spec in hosts.items()
    }


def _callers(hosts: Iterable[HostSpec], senders: Iterable[str]) -> dict[_Place, set[str]]:
    """Return the addresses of the hosts whose Envoys connect to each place.

    senders: networks of others that send spans to Jaeger
    """
    found: dict[_Place, set[str]] = {}
    for host in hosts:
        for port, _ in RECEIVERS.values() if host.jaeger else ():
            found.setdefault((host.address, port), set()).update(senders)
        for proxy in host.proxies:
            for cluster in proxy.view["clusters"]:
                for endpoint in cluster["endpoints"]:
                    if "address" in endpoint:
                        place = endpoint["address"], endpoint["port"]
                        found.setdefault(place, set()).add(host.address)
    return found


def _opened(host: HostSpec, mesh: Mesh, callers: Mapping[_Place, set[str]]) -> Iterator[Opened]:
    firewall = mesh.firewall
    yield Opened(SSH, "tcp", SSH, firewall.ssh_from)
    for port, what, everybody in _listening(host):
        if everybody:
            yield Opened(port.port, "tcp", what, EVERYBODY)
        # Loopback is open, so a host needs no rule for itself.
        elif sources := callers.get((host.address, port.port), set()) - {host.address}:
            yield Opened(port.port, "tcp", what, tuple(sources))
        if what in mesh.services and (plain := mesh.services[what].plaintext_from):
            yield Opened(port.port, "tcp", what, plain)
    for port, what in _for_operators(host):
        if firewall.operators:
            yield Opened(port.port, "tcp", what, firewall.operators)
    for each in firewall.open:
        yield Opened(each.port, each.protocol, "others", each.networks)


def _merged(rules: Iterable[Opened]) -> tuple[Opened, ...]:
    """Return one rule for each port and who answers there, in the same order for the same mesh."""
    found: dict[tuple[int | str, str, str], list[str]] = {}
    for rule in rules:
        found.setdefault((rule.port, rule.protocol, rule.what), []).extend(rule.sources)
    # By the number of the port; ssh comes first.
    order = sorted(found, key=lambda target: (0 if target[0] == SSH else target[0], target[1:]))
    return tuple(Opened(*target, _networks(found[target])) for target in order)


def _listening(host: HostSpec) -> Iterator[tuple[Port, str, bool]]:
    """Yield the ports that peers and clients reach, of whom they are, and whether all may come."""
    for proxy in host.proxies:
        for port in proxy.ports:
            if not _is_local(port) and not _is_admin(proxy, port):
                yield port, proxy.name, proxy.kind == "edge" and port.what in _FOR_CLIENTS
    for port in host.jaeger.ports if host.jaeger else ():
        if not _is_local(port):
            yield port, JAEGER, False


def _for_operators(host: HostSpec) -> Iterator[tuple[Port, str]]:
    for proxy in host.proxies:
        for port in proxy.ports:
            if _is_admin(proxy, port):
                yield port, f"{proxy.name}'s admin pages"
    for port in host.jaeger.ports if host.jaeger else ():
        if port.port == UI_PORT and not _is_local(port):
            yield port, "Jaeger's pages"


def _is_admin(proxy: ProxySpec, port: Port) -> bool:
    return proxy.kind == "edge" and port.what == "admin"


def _is_local(port: Port) -> bool:
    return ipaddress.IPv4Address(port.address).is_loopback


def _networks(sources: Iterable[str]) -> tuple[str, ...]:
    """Return addresses and networks as networks, without those that are inside another.

    nft refuses a set with networks that overlap.
    """
    found = sorted({ipaddress.ip_network(each) for each in sources}, key=_order)
    wide = [each for each in found if each.prefixlen < each.max_prefixlen]
    return tuple(str(each) for each in found if not any(_is_inside(each, net) for net in wide))


def _order(network: _Network) -> tuple[int, int, int]:
    return network.version, int(network.network_address), network.prefixlen


def _is_inside(one: _Network, other: _Network) -> bool:
    return (
        one.version == other.version
        and one.prefixlen > other.prefixlen
        and one.network_address in other
    )
