"""Compile: inventory in, one plain data view per proxy and host out, or all problems at once.

Pure: no file, network or clock is read. Everything that a template or a role needs to know
of the mesh is decided here and in `vmesh.compile.views`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from vmesh.base.formats import is_ipv4
from vmesh.base.problems import ERROR, WARNING, Problem, Problems, without
from vmesh.compile import checks, views
from vmesh.compile.checks_apps import check_own_name
from vmesh.compile.checks_names import unknown_name_remedy
from vmesh.compile.host_spec import (
    ExternalPlan,
    FlaskPlan,
    HostPlan,
    JaegerPlan,
    Plan,
    Port,
    ProxyPlan,
    View,
    admin_socket,
    app_socket,
    egress_address,
    external_egress_address,
    url_variable,
    user,
)
from vmesh.model import explain
from vmesh.model.inventory import Inventory, in_short
from vmesh.model.types import (
    EXPORTS,
    OTLP_GRPC_PORT,
    OTLP_HTTP_PORT,
    ZIPKIN_PORT,
    Call,
    Edge,
    ExternalApp,
    FlaskApp,
    Mesh,
    Policies,
    Service,
    parse,
    policies,
)

JAEGER_UI_PORT = 16686
_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")
JAEGER_GRPC_QUERY_PORT = 16685


def compile_mesh(inventory: Inventory) -> Plan:
    """Return the plan of `inventory`; raises Problems with every mistake in it.

    No problem and no warning shows a text that the inventory keeps in Ansible Vault.
    """
    try:
        plan = _compile(inventory)
    except Problems as found:
        raise Problems(without(item, inventory.secrets) for item in found.items) from None
    return replace(plan, warnings=tuple(without(item, inventory.secrets) for item in plan.warnings))


def _compile(inventory: Inventory) -> Plan:
    problems: list[Problem] = []
    mesh = parse(inventory.mesh, problems)
    problems += checks.check(mesh, inventory.hidden)
    places = _Places(inventory, mesh)
    problems += places.problems
    _stop_at_errors(problems)
    shared = {name: _shared(mesh, service) for name, service in mesh.services.items()}
    hosts = {host: _host(mesh, places, host, shared) for host in places.used}
    problems += [clash for host, plan in hosts.items() for clash in _port_clashes(host, plan)]
    _stop_at_errors(problems)
    return Plan(hosts, mesh, tuple(problems))


def _stop_at_errors(problems: list[Problem]) -> None:
    if any(problem.severity == ERROR for problem in problems):
        raise Problems(problems)


class _Places:
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
                        f"is set for {having} and not for {in_short(hosts)}; the mesh is described"
                        " once",
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
                views.endpoint(
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


def _host(mesh: Mesh, places: _Places, host: str, shared: dict[str, _Shared]) -> HostPlan:
    services = [mesh.services[name] for name in places.services_on.get(host, ())]
    edges = [mesh.edges[name] for name in places.edges_on.get(host, ())]
    proxies = tuple(
        _service_proxy(mesh, places, host, service, shared[service.name]) for service in services
    ) + tuple(_edge_proxy(mesh, places, host, edge) for edge in edges)
    return HostPlan(
        address=places.addresses[host],
        zone=places.zones[host],
        needs_authorities=any(
            tls is not None and tls["verify"] and tls["ca_file"] is None
            for proxy in proxies
            for tls in (cluster["tls"] for cluster in proxy.view["clusters"])
        ),
        proxies=proxies,
        flask_services=tuple(
            _flask(mesh, places, host, service, service.app)
            for service in services
            if isinstance(service.app, FlaskApp)
        ),
        external_apps=tuple(
            ExternalPlan(
                service.name, service.app.listening, _environment(mesh, places, host, service)
            )
            for service in services
            if isinstance(service.app, ExternalApp)
        ),
        jaeger=_jaeger(mesh, places, host) if host in places.jaeger else None,
    )


def _operator_address(mesh: Mesh, places: _Places, host: str) -> str:
    return mesh.operator_bind or places.addresses[host]


def _jaeger(mesh: Mesh, places: _Places, host: str) -> JaegerPlan:
    address = places.addresses[host]
    ports = {
        "ui": Port(_operator_address(mesh, places, host), JAEGER_UI_PORT, "web pages"),
        "query_grpc": Port("127.0.0.1", JAEGER_GRPC_QUERY_PORT, "query API over gRPC"),
        "otlp_grpc": Port(address, OTLP_GRPC_PORT, "OTLP over gRPC"),
        "otlp_http": Port(address, OTLP_HTTP_PORT, "OTLP over HTTP"),
        "zipkin": Port(address, ZIPKIN_PORT, "Zipkin"),
    }
    return JaegerPlan(
        endpoints={name: f"{port.address}:{port.port}" for name, port in ports.items()},
        unit="jaeger.service",
        ports=tuple(ports.values()),
    )


def _egress(mesh: Mesh, service: Service, call: Call) -> tuple[str, int]:
    """Return where the app of `service` finds the upstream of `call`."""
    if call.address is not None:
        return external_egress_address(service.name, call.upstream), call.address.port
    port = mesh.services[call.upstream].port
    assert port is not None, "compile plans no mesh with problems"
    return egress_address(service.name), port


def _environment(mesh: Mesh, places: _Places, host: str, service: Service) -> dict[str, str]:
    """Return what vmesh itself tells an app."""
    urls = {}
    for call in service.calls:
        address, port = _egress(mesh, service, call)
        urls[url_variable(call.upstream)] = f"http://{address}:{port}"
    return {**urls, "MESH_ADDRESS": places.addresses[host], "SERVICE_NAME": service.name}


def _flask(mesh: Mesh, places: _Places, host: str, service: Service, app: FlaskApp) -> FlaskPlan:
    assert service.port is not None, "compile plans no mesh with problems"
    return FlaskPlan(
        name=service.name,
        source=app.source,
        wsgi=app.wsgi,
        workers=app.workers,
        threads=app.threads,
        preload=app.preload,
        grace=app.grace,
        health=app.health,
        environment={
            **places.environment(host, service.name, app),
            **_environment(mesh, places, host, service),
        },
        socket=app_socket(service.name),
        socket_group=user(service.name),
        unit=f"flask@{service.name}.service",
        address=places.addresses[host],
        port=service.port,
    )


@dataclass(frozen=True)
class _Shared:
    """What the Envoys of all instances of a service have in common; nobody changes it."""

    calls: tuple[tuple[Call, Policies], ...]
    egress: tuple[View, ...]  # listeners
    routes: dict[str, View]


def _shared(mesh: Mesh, service: Service) -> _Shared:
    tracing = views.tracing(mesh, service.name)
    calls, egress = [], []
    routes = {"ingress": views.table(views.ingress_routes(service), tell_client="if_absent")}
    for call in service.calls:
        name = f"egress-{call.upstream}"
        upstream = mesh.services.get(call.upstream)
        said = policies(upstream.given if upstream else {}, call.given)
        address, port = _egress(mesh, service, call)
        egress.append(
            views.listener(
                name,
                "OUTBOUND",
                address,
                port,
                tracing=tracing,
                websocket="always",
                http10_host=call.upstream,
            )
        )
        route = views.forward(
            call.upstream,
            upstream.operation if upstream else call.upstream,
            timeout=said.timeout,
            idle_timeout=said.idle_timeout,
            call=said,
            rewrite={"host": views.host_header(call.address)} if call.address else None,
        )
        routes[name] = views.table([route])
        calls.append((call, said))
    return _Shared(tuple(calls), tuple(egress), routes)


def _service_proxy(
    mesh: Mesh, places: _Places, host: str, service: Service, shared: _Shared
) -> ProxyPlan:
    assert service.port is not None, "compile plans no mesh with problems"
    ingress = views.listener(
        "ingress",
        "INBOUND",
        places.addresses[host],
        service.port,
        tracing=views.tracing(mesh, service.name),
        websocket="always",
        http10_host=service.name,
    )
    clusters = [
        views.local_app(mesh, service),
        _collector(mesh, places),
        *(_upstream(mesh, places, host, call, said) for call, said in shared.calls),
    ]
    listeners = [ingress, *shared.egress]
    return _proxy(places, host, "service", service.name, listeners, shared.routes, clusters)


def _upstream(  # noqa: PLR0913 - who calls, from where, whom and how
    mesh: Mesh, places: _Places, host: str, call: Call, said: Policies, *, edge: bool = False
) -> View:
    if call.address is not None:
        headers = views.outside_headers(mesh, call.address)
        return views.outside(call.upstream, call.address, said, headers=headers)
    service = mesh.services[call.upstream]
    return views.cluster(
        service.name,
        places.endpoints(service, places.zones[host]),
        protocol=service.protocol,
        keepalive=views.KEEPALIVE_PING,
        idle_timeout=views.UPSTREAM_IDLE,
        call=said,
        headers=views.inside_headers(mesh, edge=edge),
    )


def _collector(mesh: Mesh, places: _Places) -> View:
    tracing = mesh.tracing
    if tracing.collector is not None:
        headers = views.collector_headers()
        return views.outside(views.COLLECTOR, tracing.collector, None, headers)
    port, protocol, _ = EXPORTS[tracing.export]
    endpoints = [views.endpoint(places.addresses[host], port) for host in places.jaeger]
    return views.cluster(
        views.COLLECTOR, endpoints, protocol=protocol, keepalive=views.KEEPALIVE_TCP
    )


def _edge_proxy(mesh: Mesh, places: _Places, host: str, edge: Edge) -> ProxyPlan:
    assert edge.port is not None, "compile plans no mesh with problems"
    listeners = [
        views.listener(
            "public",
            "INBOUND",
            edge.address,
            edge.port,
            tracing=views.tracing(mesh, edge.name, edge.tracing),
            websocket="routes",
            http10_host=views.http10_host(edge),
            edge=edge,
            proxy_100_continue=not views.holds_back(edge),
        ),
        views.listener(
            "admin",
            "INBOUND",
            _operator_address(mesh, places, host),
            edge.admin_port,
            tracing=None,
            websocket="never",
            http10_host=edge.name,
        ),
    ]
    routes = {
        "public": views.edge_table(mesh, edge),
        "admin": views.table(views.admin_routes()),
    }
    calls = {call.upstream: call for call in edge.calls}
    targets = {name for route in edge.routes for name in route.to}
    targets |= {route.mirror["to"] for route in edge.routes if route.mirror}
    clusters = [
        views.cluster(views.ADMIN, [{"pipe": admin_socket(edge.name)}]),
        _collector(mesh, places),
        *(
            _upstream(
                mesh,
                places,
                host,
                calls.get(name) or Call(name, None, {}),
                views.edge_policies(mesh, edge, name),
                edge=True,
            )
            for name in sorted(targets)
        ),
    ]
    return _proxy(places, host, "edge", edge.name, listeners, routes, clusters)


def _proxy(  # noqa: PLR0913, PLR0917 - the parts of a view
    places: _Places,
    host: str,
    kind: str,
    name: str,
    listeners: list[View],
    routes: dict[str, View],
    clusters: list[View],
) -> ProxyPlan:
    return ProxyPlan(
        name=name,
        kind=kind,
        user=user(name),
        unit=f"envoy@{name}.service",
        ports=tuple(Port(each["address"], each["port"], each["name"]) for each in listeners),
        view={
            "name": name,
            "node": {"id": f"{name}@{host}", "cluster": name, "zone": places.zones[host]},
            "listeners": listeners,
            "routes": routes,
            "clusters": clusters,
        },
    )


def _overlap(one: Port, other: Port) -> bool:
    return one.port == other.port and (
        one.address == other.address or "0.0.0.0" in (one.address, other.address)
    )


def _owned_ports(plan: HostPlan) -> Iterator[tuple[str, Port]]:
    for app in plan.external_apps:
        if not app.listening.startswith("unix:"):
            address, port = app.listening.rsplit(":", 1)
            yield f"the app of {app.name}", Port(address, int(port), "listening")
    for proxy in plan.proxies:
        for port_plan in proxy.ports:
            yield proxy.name, port_plan
    for port_plan in plan.jaeger.ports if plan.jaeger else ():
        yield "jaeger", port_plan


def _port_clashes(host: str, plan: HostPlan) -> Iterator[Problem]:
    taken: dict[int, list[tuple[str, Port]]] = {}
    for owner, port in _owned_ports(plan):
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
