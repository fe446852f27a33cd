"""Which hosts run what, at which address and in which zone, and what is wrong with that.

Problems of groups, addresses and zones are found here; those of ports in `vmesh.compile.ports`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

from vmesh.base.formats import is_ipv4
from vmesh.base.problems import WARNING, Problem
from vmesh.base.words import shorter
from vmesh.compile import cluster_views
from vmesh.compile.checks_apps import check_own_name
from vmesh.compile.checks_names import unknown_name_remedy
from vmesh.compile.host_spec import View
from vmesh.model import explain
from vmesh.model.inventory import Inventory
from vmesh.model.types import FlaskApp, Mesh, Service

_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")


class Places:
    """Which hosts run what, at which address and in which zone; and what is wrong with that."""

    def __init__(self, inventory: Inventory, mesh: Mesh) -> None:
        self.inventory = inventory
        self.problems: list[Problem] = []
        self.services = {
            service.name: self._hosts_of(f"mesh_services.{service.name}.group", service.group)
            for service in mesh.services.values()
        }
        self.edges = {
            edge.name: self._hosts_of(f"mesh_edges.{edge.name}.group", edge.group)
            for edge in mesh.edges.values()
        }
        self.jaeger = self._jaeger_hosts(mesh.tracing.group)
        every = [*self.services.values(), *self.edges.values(), self.jaeger]
        self.used = sorted({host for hosts in every for host in hosts})
        self.addresses = {host: self._address(host) for host in self.used}
        self.zones = {host: self._zone(host) for host in self.used}
        self._check_addresses()
        self._check_zones()
        self._check_lacking()
        self.environments = {
            (host, service): environment
            for host, services in inventory.environments.items()
            for service, given in services.items()
            if (environment := self._own_environment(mesh, host, service, given)) is not None
        }
        self.services_on = _by_host(self.services)
        self.edges_on = _by_host(self.edges)
        self._endpoints: dict[tuple[str, str | None], list[View]] = {}

    def _jaeger_hosts(self, group: str | None) -> tuple[str, ...]:
        if group is None:
            return ()
        hosts = self._hosts_of("mesh_tracing.group", group)
        if len(hosts) > 1:
            self.problems.append(
                Problem(
                    "mesh_tracing.group",
                    group,
                    f"has {len(hosts)} hosts, and the spans of one trace must meet in one place",
                    "Leave one host in this group",
                )
            )
        return hosts

    def _hosts_of(self, variable: str, group: str) -> tuple[str, ...]:
        """Return the hosts that `group` names: a group's, or the one host of that name."""
        hosts = tuple(sorted(self.inventory.groups.get(group, ())))
        if not hosts and group in self.inventory.hosts:
            hosts = (group,)
        if not hosts:
            empty = group in self.inventory.groups
            known = ", ".join(
                sorted(
                    name
                    for name, members in self.inventory.groups.items()
                    if members and name not in ("all", "ungrouped")
                )
                + sorted(self.inventory.hosts)[:20]
            )
            self.problems.append(
                Problem(
                    variable,
                    group,
                    "is a group without hosts"
                    if empty
                    else "is neither a group with hosts nor a host of the inventory",
                    unknown_name_remedy(
                        group,
                        [*self.inventory.groups, *self.inventory.hosts],
                        f"Add hosts to it, or name one of: {known}",
                    ),
                )
            )
        return hosts

    def _address(self, host: str) -> str:
        name = self._address_variable(host)
        value = explain.shown(self.inventory.hosts[host].get(name, host))
        remedy = "Set mesh_address to the address at which the other VMs reach it"
        if not is_ipv4(value):
            self.problems.append(
                Problem(
                    f"{host}: {name}",
                    value,
                    "is not an IPv4 address, so the mesh address of this host is not known",
                    remedy,
                )
            )
        elif _leads_nowhere(value):
            self.problems.append(
                Problem(f"{host}: {name}", value, "cannot be reached from other hosts", remedy)
            )
        return str(value)

    def _address_variable(self, host: str) -> str:
        has_own = "mesh_address" in self.inventory.hosts[host]
        return "mesh_address" if has_own else "ansible_host"

    def _zone(self, host: str) -> str | None:
        zone = self.inventory.hosts[host].get("mesh_zone")
        if zone is None:
            return None
        self.problems += explain.check_value("mesh_zone", f"{host}: mesh_zone", zone)
        return str(explain.shown(zone))

    def _check_addresses(self) -> None:
        owners: dict[str, str] = {}
        for host, address in self.addresses.items():
            if address in owners:
                self.problems.append(
                    Problem(
                        f"{host}: {self._address_variable(host)}",
                        address,
                        f"is also the address of {owners[address]}",
                        "Give every host an address of its own",
                    )
                )
            owners.setdefault(address, host)

    def _check_zones(self) -> None:
        for service, hosts in self.services.items():
            without = [host for host in hosts if self.zones[host] is None]
            if without and len(without) < len(hosts):
                self.problems.append(
                    Problem(
                        f"{without[0]}: mesh_zone",
                        None,
                        f"is missing, while other hosts of {service} have a zone: callers in a"
                        " zone use this one last",
                        "Set mesh_zone for all hosts of the service, or for none",
                        WARNING,
                    )
                )

    def _check_lacking(self) -> None:
        used = frozenset(self.used)
        for variable, (having, lacking) in self.inventory.lacking.items():
            hosts = sorted(lacking & used)
            if hosts:
                self.problems.append(
                    Problem(
                        variable,
                        None,
                        f"is set for {having} and not for {shorter(hosts, 1)}; the mesh is"
                        " described once",
                        f"Set {variable} in group_vars/all and nowhere else",
                    )
                )

    def _own_environment(
        self, mesh: Mesh, host: str, name: str, given: Mapping[str, Any]
    ) -> dict[str, str] | None:
        """Return the environment that an app has on one host; None where that cannot be."""
        place = f"{host}: mesh_services.{name}.app.environment"
        problems = explain.check_environment(name, host, given)
        service = mesh.services.get(name)
        if service is not None and not problems:
            problems = [
                problem
                for variable in given
                for problem in check_own_name(service, variable, place)
            ]
        self.problems += problems
        return None if problems else {str(name): str(text) for name, text in given.items()}

    def environment(self, host: str, service: str, app: FlaskApp) -> dict[str, str]:
        """Return what the user sets in the environment of an app on a host."""
        return self.environments.get((host, service), app.environment)

    def endpoints(self, service: Service, zone: str | None) -> list[View]:
        """Return the instances of `service` as a caller in `zone` sees them."""
        key = (service.name, zone)
        if key not in self._endpoints:
            assert service.port is not None, "compile plans no mesh with problems"
            found = [
                cluster_views.endpoint(
                    self.addresses[host],
                    service.port,
                    self.zones[host],
                    0 if zone is None or self.zones[host] == zone else 1,
                )
                for host in self.services[service.name]
            ]
            # Envoy wants the priorities without a gap: with none in its own zone, all are first.
            if all(endpoint["priority"] for endpoint in found):
                found = [{**endpoint, "priority": 0} for endpoint in found]
            self._endpoints[key] = found
        return self._endpoints[key]


def _leads_nowhere(address: str) -> bool:
    """Tell whether no other host can ever reach `address`."""
    parsed = ipaddress.IPv4Address(address)
    return (
        parsed.is_loopback or parsed.is_multicast or parsed in _THIS_NETWORK or parsed == _BROADCAST
    )


def _by_host(members: dict[str, tuple[str, ...]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, hosts in members.items():
        for host in hosts:
            found.setdefault(host, []).append(name)
    return found
