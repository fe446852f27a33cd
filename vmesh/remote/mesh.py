"""What several commands do first: read the inventory, find things in it."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmesh.base.exits import USAGE, CliError
from vmesh.compile.compiler import compile_mesh
from vmesh.compile.host_spec import HostSpec, MeshSpec, Port
from vmesh.model.inventory import Inventory, load
from vmesh.model.types import Edge
from vmesh.remote import connect


@dataclass(frozen=True)
class Target:
    """Something that `logs` and `ssh` can be pointed at: a VM and units on it."""

    host: str
    units: tuple[str, ...]


@dataclass(frozen=True)
class Mesh:
    """An inventory and what it means."""

    inventory: Inventory
    spec: MeshSpec

    @property
    def has_lab(self) -> bool:
        return bool(self.inventory.lab)

    def variables(self, host: str) -> dict[str, Any]:
        """Return the variables of `host`."""
        return self.inventory.hosts[host]

    def edge(self, name: str | None = None) -> Edge:
        """Return the edge `name`, or the first one. Raises CliError when there is none."""
        edges = self.spec.mesh.edges
        if not edges:
            raise CliError("This inventory has no edge (mesh_edges), so nothing can be requested.")
        if name is not None and name not in edges:
            raise CliError(f"There is no edge {name}. Known: {', '.join(sorted(edges))}", USAGE)
        return edges[name] if name is not None else next(iter(edges.values()))

    def edge_url(self, path: str = "/", name: str | None = None) -> str:
        """Return the URL of `path` at the edge `name`, or at the first one."""
        edge = self.edge(name)
        assert edge.port is not None, "compile plans no mesh with problems"
        scheme = "https" if edge.tls else "http"
        return connect.url(self._edge_variables(edge.name), edge.port, path, edge.address, scheme)

    def admin_url(self, name: str | None = None) -> str:
        """Return the URL of the admin pages of the edge `name`, or of the first one."""
        edge = self.edge(name)
        return connect.url(self._edge_variables(edge.name), edge.admin_port)

    def jaeger_url(self, path: str = "/") -> str | None:
        """Return the URL of Jaeger's web pages; None when the mesh has no Jaeger of its own."""
        place = self._jaeger()
        if place is None:
            return None
        host, port = place
        return connect.url(self.variables(host), port.port, path, port.address)

    def jaeger_is_local(self) -> bool:
        """Tell whether Jaeger's pages are reached through ssh alone: on loopback of their host."""
        place = self._jaeger()
        if place is None:
            return False
        host, port = place
        there = ipaddress.IPv4Address(port.address)
        return there.is_loopback and port.port not in connect.published(self.variables(host))

    def jaeger_pages(self) -> tuple[str, str, int] | None:
        """Return the host of Jaeger, and the address and port of its web pages there."""
        place = self._jaeger()
        if place is None:
            return None
        host, port = place
        return host, "127.0.0.1" if port.address == "0.0.0.0" else port.address, port.port

    def _jaeger(self) -> tuple[str, Port] | None:
        for host, spec in self.spec.hosts.items():
            if spec.jaeger is not None:
                return host, spec.jaeger.ports[0]
        return None

    def _edge_variables(self, edge: str) -> dict[str, Any]:
        for host, spec in self.spec.hosts.items():
            if any(proxy.name == edge for proxy in spec.proxies):
                return self.variables(host)
        raise CliError(f"The edge {edge} is on no host.")

    def targets(self, name: str) -> list[Target]:
        """Return the VMs and units that `name` means.

        `name` is a VM, a service or edge (its Envoy and app), envoy@NAME, flask@NAME or jaeger.
        A VM may be called as a service is; then the service on that VM is meant first.
        Raises CliError with the names there are.
        """
        found = [Target(host, _units(spec, name)) for host, spec in self.spec.hosts.items()]
        found = [target for target in found if target.units]
        if found:
            return found
        if name in self.spec.hosts:
            return [Target(name, tuple(each for each, _ in _named_units(self.spec.hosts[name])))]
        if name in self.inventory.hosts:
            return [Target(name, ())]
        known = {
            each
            for spec in self.spec.hosts.values()
            for _, names in _named_units(spec)
            for each in names
        }
        raise CliError(
            f"Nothing in this inventory is called {name}. "
            f"Known: {', '.join(sorted(known | set(self.inventory.hosts)))}",
            USAGE,
        )


def _named_units(spec: HostSpec) -> list[tuple[str, tuple[str, ...]]]:
    """Return each unit of a host with the names it goes by."""
    named: list[tuple[str, tuple[str, ...]]] = [
        (p.unit, (p.name, f"envoy@{p.name}")) for p in spec.proxies
    ]
    named += [(f.unit, (f.name, f"flask@{f.name}")) for f in spec.flask_services]
    if spec.jaeger is not None:
        named.append((spec.jaeger.unit, ("jaeger",)))
    return named


def _units(spec: HostSpec, name: str) -> tuple[str, ...]:
    wanted = name.removesuffix(".service")
    return tuple(unit for unit, names in _named_units(spec) if wanted in names)


def read(*inventory: Path, anchors: Mapping[str, str] | None = None) -> Mesh:
    """Read and compile the inventory of these sources. Raises Problems with all that is wrong.

    anchors: host -> its anchor (PEM), for who needs to know whom the proxies trust
    """
    loaded = load(*inventory)
    return Mesh(loaded, compile_mesh(loaded, anchors=anchors))
