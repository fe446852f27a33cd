"""Compile: inventory in, one plain data view per proxy and host out, or all problems at once.

Pure: no file, network or clock is read. Everything that a template or a role needs to know
of the mesh is decided here.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vmesh.inventory import Inventory
from vmesh.model import Edge, Mesh, Service, is_ipv4, parse
from vmesh.problems import Problem, Problems

# Names that no service can have: a DNS label holds no underscore.
COLLECTOR = "tracing_collector"
LOCAL_APP = "local_app"
ADMIN = "envoy_admin"

OTLP_GRPC_PORT = 4317
OTLP_HTTP_PORT = 4318
ZIPKIN_PORT = 9411
JAEGER_UI_PORT = 16686
JAEGER_GRPC_QUERY_PORT = 16685

# The admin pages that only tell and never change anything, nor show the configuration:
# https://www.envoyproxy.io/docs/envoy/latest/operations/admin
ADMIN_PAGES = (
    "/",
    "/ready",
    "/server_info",
    "/stats",
    "/stats/prometheus",
    "/clusters",
    "/listeners",
    "/memory",
    "/hot_restart_version",
)

# Envoy takes an empty internal_address_config for the default, all private networks, and
# lets those bring their own request ids. No peer has this address.
NOBODY = "0.0.0.0/32"

View = dict[str, Any]


@dataclass(frozen=True)
class Port:
    """An address that something of the mesh listens on, and what it is for."""

    address: str
    port: int
    what: str


@dataclass(frozen=True)
class ProxyPlan:
    """One Envoy: `view` is what the templates are rendered from."""

    name: str
    kind: str  # "service" or "edge"
    user: str
    unit: str
    ports: tuple[Port, ...]
    view: View


@dataclass(frozen=True)
class FlaskPlan:
    """One instance of a Flask service."""

    name: str
    source: str
    wsgi: str
    workers: int
    threads: int
    environment: dict[str, str]
    socket: str
    socket_group: str
    unit: str
    address: str
    port: int


@dataclass(frozen=True)
class JaegerPlan:
    """The Jaeger of the mesh: where it takes spans (`address`) and shows them (`ui_bind`)."""

    address: str
    ui_bind: str
    unit: str
    ports: tuple[Port, ...]


@dataclass(frozen=True)
class HostPlan:
    """All that runs on one host."""

    address: str
    proxies: tuple[ProxyPlan, ...]
    flask_services: tuple[FlaskPlan, ...]
    jaeger: JaegerPlan | None


@dataclass(frozen=True)
class Plan:
    """What the inventory means: host name -> what runs there."""

    hosts: dict[str, HostPlan]
    mesh: Mesh


def egress_address(proxy: str) -> str:
    """Return the loopback address on which `proxy` offers its upstreams to its own app.

    It follows from the name alone, so no change elsewhere in the mesh ever moves it. The
    first two addresses of 127/8's blocks stay clear of 127.0.0.1 and Debian's 127.0.1.1.
    """
    digest = hashlib.sha256(proxy.encode()).digest()
    return f"127.{1 + digest[0] % 254}.{digest[1]}.{1 + digest[2] % 254}"


def url_variable(upstream: str) -> str:
    """Return the environment variable that tells an app where `upstream` is."""
    return upstream.upper().replace("-", "_") + "_URL"


def app_socket(service: str) -> str:
    """Return the unix socket on which gunicorn serves `service`."""
    return f"/run/flask/{service}/app.sock"


def compile_mesh(inventory: Inventory) -> Plan:
    """Return the plan of `inventory`; raises Problems with every mistake in it."""
    problems: list[Problem] = []
    mesh = parse(inventory.mesh, problems)
    problems += _references(mesh)
    compiler = _Compiler(inventory, mesh)
    problems += compiler.problems
    if problems:
        raise Problems(problems)
    plan = compiler.plan()
    problems += _port_clashes(plan)
    if problems:
        raise Problems(problems)
    return plan


def _references(mesh: Mesh) -> list[Problem]:
    """Return the calls and edge routes that name no service."""
    known = ", ".join(sorted(mesh.services)) or "none"
    problems = []
    for service in mesh.services.values():
        for call in service.calls:
            if call.upstream not in mesh.services:
                problems.append(
                    Problem(
                        f"mesh_services.{service.name}.calls",
                        call.upstream,
                        "is not a service of this mesh",
                        f"Describe it under mesh_services, or call one of: {known}",
                    )
                )
            elif call.upstream == service.name:
                problems.append(
                    Problem(
                        f"mesh_services.{service.name}.calls",
                        call.upstream,
                        "is the service itself",
                        "Remove this call",
                    )
                )
    for edge in mesh.edges.values():
        for index, route in enumerate(edge.routes):
            if route.to and route.to not in mesh.services:
                problems.append(
                    Problem(
                        f"mesh_edges.{edge.name}.routes[{index}].to",
                        route.to,
                        "is not a service of this mesh",
                        f"Describe it under mesh_services, or route to one of: {known}",
                    )
                )
    ports: dict[int, str] = {}
    for service in mesh.services.values():
        if service.port and service.port in ports:
            problems.append(
                Problem(
                    f"mesh_services.{service.name}.port",
                    service.port,
                    f"is also the port of {ports[service.port]}",
                    "Give every service a port of its own in the mesh",
                )
            )
        ports.setdefault(service.port, service.name)
    return problems


class _Compiler:
    """Finds what is wrong with groups and addresses; turns a mesh without faults into plans."""

    def __init__(self, inventory: Inventory, mesh: Mesh) -> None:
        self.inventory, self.mesh = inventory, mesh
        self.problems: list[Problem] = []
        self.members = {
            service.name: self._hosts_of(f"mesh_services.{service.name}.group", service.group)
            for service in mesh.services.values()
        }
        self.edge_members = {
            edge.name: self._hosts_of(f"mesh_edges.{edge.name}.group", edge.group)
            for edge in mesh.edges.values()
        }
        self.collector_hosts = self._hosts_of("mesh_tracing.group", mesh.tracing.group)
        if len(self.collector_hosts) > 1:
            self.problems.append(
                Problem(
                    "mesh_tracing.group",
                    mesh.tracing.group,
                    f"has {len(self.collector_hosts)} hosts, and the spans of one trace must meet"
                    " in one place",
                    "Leave one host in this group",
                )
            )
        used = {
            host
            for hosts in [
                *self.members.values(),
                *self.edge_members.values(),
                self.collector_hosts,
            ]
            for host in hosts
        }
        self.used = sorted(used)
        self.addresses = {host: self._address(host) for host in self.used}
        self._check_addresses()

    def _hosts_of(self, variable: str, group: str) -> tuple[str, ...]:
        """Return the hosts that `group` names: a group's, or the one host of that name."""
        if not group:
            return ()  # not a text: that has been said already
        hosts = tuple(sorted(self.inventory.groups.get(group, ())))
        if not hosts and group in self.inventory.hosts:
            hosts = (group,)
        if not hosts:
            known = ", ".join(
                sorted(g for g, members in self.inventory.groups.items() if members)
                + sorted(self.inventory.hosts)
            )
            self.problems.append(
                Problem(
                    variable,
                    group,
                    "is neither a group with hosts nor a host of the inventory",
                    f"Add hosts to it, or name one of: {known}",
                )
            )
        return hosts

    def _address(self, host: str) -> str:
        variables = self.inventory.hosts[host]
        name = "mesh_address" if "mesh_address" in variables else "ansible_host"
        value = variables.get(name, host)
        if not is_ipv4(value):
            self.problems.append(
                Problem(
                    f"{host}: {name}",
                    value,
                    "is not an IPv4 address, so the mesh address of this host is not known",
                    "Set mesh_address to the address at which the other VMs reach it",
                )
            )
        elif value.startswith("127.") or value == "0.0.0.0":
            self.problems.append(
                Problem(
                    f"{host}: {name}",
                    value,
                    "cannot be reached from other hosts",
                    "Set mesh_address to the address at which the other VMs reach it",
                )
            )
        return str(value)

    def _check_addresses(self) -> None:
        owners: dict[str, str] = {}
        for host, address in self.addresses.items():
            if address in owners:
                self.problems.append(
                    Problem(
                        f"{host}: mesh_address",
                        address,
                        f"is also the address of {owners[address]}",
                        "Give every host an address of its own",
                    )
                )
            owners.setdefault(address, host)

    def plan(self) -> Plan:
        return Plan({host: self._host(host) for host in self.used}, self.mesh)

    def _host(self, host: str) -> HostPlan:
        services = [s for s in self.mesh.services.values() if host in self.members[s.name]]
        edges = [e for e in self.mesh.edges.values() if host in self.edge_members[e.name]]
        return HostPlan(
            address=self.addresses[host],
            proxies=tuple(self._service_proxy(host, s) for s in services)
            + tuple(self._edge_proxy(host, e) for e in edges),
            flask_services=tuple(self._flask(host, s) for s in services),
            jaeger=self._jaeger(host) if host in self.collector_hosts else None,
        )

    def _operator_address(self, host: str) -> str:
        return self.mesh.operator_bind or self.addresses[host]

    def _jaeger(self, host: str) -> JaegerPlan:
        address, ui_bind = self.addresses[host], self._operator_address(host)
        return JaegerPlan(
            address=address,
            ui_bind=ui_bind,
            unit="jaeger.service",
            ports=(
                Port(ui_bind, JAEGER_UI_PORT, "web pages"),
                Port("127.0.0.1", JAEGER_GRPC_QUERY_PORT, "query API over gRPC"),
                Port(address, OTLP_GRPC_PORT, "OTLP over gRPC"),
                Port(address, OTLP_HTTP_PORT, "OTLP over HTTP"),
                Port(address, ZIPKIN_PORT, "Zipkin"),
            ),
        )

    def _flask(self, host: str, service: Service) -> FlaskPlan:
        urls = {
            url_variable(call.upstream): (
                f"http://{egress_address(service.name)}:{self.mesh.services[call.upstream].port}"
            )
            for call in service.calls
        }
        return FlaskPlan(
            name=service.name,
            source=service.app.source,
            wsgi=service.app.wsgi,
            workers=service.app.workers,
            threads=service.app.threads,
            environment={
                **service.app.environment,
                **urls,
                "MESH_ADDRESS": self.addresses[host],
                "SERVICE_NAME": service.name,
            },
            socket=app_socket(service.name),
            socket_group=_user(service.name),
            unit=f"flask@{service.name}.service",
            address=self.addresses[host],
            port=service.port,
        )

    def _service_proxy(self, host: str, service: Service) -> ProxyPlan:
        own = egress_address(service.name)
        ingress = self._listener(
            "ingress", "INBOUND", service.name, self.addresses[host], service.port
        )
        listeners = [ingress]
        routes = {
            "ingress": _route_table(
                [_prefix_route("/", LOCAL_APP, service.operation, None, retry=False)]
            )
        }
        clusters = [
            _cluster(LOCAL_APP, [{"pipe": app_socket(service.name)}], idle_timeout=50),
            *self._collector(),
        ]
        for call in service.calls:
            upstream = self.mesh.services[call.upstream]
            name = f"egress-{upstream.name}"
            listeners.append(self._listener(name, "OUTBOUND", service.name, own, upstream.port))
            routes[name] = _route_table(
                [_prefix_route("/", upstream.name, upstream.operation, call.timeout)]
            )
            clusters.append(self._upstream(upstream))
        return _proxy(
            host,
            "service",
            {
                "name": service.name,
                "listeners": listeners,
                "routes": routes,
                "clusters": clusters,
            },
        )

    def _edge_proxy(self, host: str, edge: Edge) -> ProxyPlan:
        public = self._listener("public", "INBOUND", edge.name, edge.address, edge.port)
        public["edge"] = True
        public["trusted_networks"] = [_network(cidr) for cidr in edge.trusted_cidrs]
        public["internal_networks"] = public["trusted_networks"] or [_network(NOBODY)]
        # Longest first: a reader of the inventory need not know that Envoy takes the first match.
        ordered = sorted(edge.routes, key=lambda route: (-len(route.prefix), route.prefix))
        public_table = _route_table(
            [
                _prefix_route(
                    route.prefix,
                    route.to,
                    self.mesh.services[route.to].operation,
                    route.timeout,
                )
                for route in ordered
            ]
        )
        public_table["tell_trace"] = True
        admin = self._listener(
            "admin", "INBOUND", edge.name, self._operator_address(host), edge.admin_port
        )
        admin["tracing"] = None
        admin_table = _route_table(
            [
                {"match": {"path": page, "method": "GET"}, "cluster": ADMIN, "timeout": 15.0}
                for page in ADMIN_PAGES
            ]
            + [
                {
                    "match": {"prefix": "/"},
                    "answer": {
                        "status": 403,
                        "body": "Only GET of " + ", ".join(ADMIN_PAGES) + " is allowed here.\n",
                    },
                }
            ]
        )
        targets = sorted({route.to for route in edge.routes})
        clusters = [
            _cluster(ADMIN, [{"pipe": admin_socket(edge.name)}]),
            *self._collector(),
            *(self._upstream(self.mesh.services[name]) for name in targets),
        ]
        return _proxy(
            host,
            "edge",
            {
                "name": edge.name,
                "listeners": [public, admin],
                "routes": {"public": public_table, "admin": admin_table},
                "clusters": clusters,
            },
        )

    def _listener(self, name: str, direction: str, proxy: str, address: str, port: int) -> View:
        return {
            "name": name,
            "direction": direction,
            "address": address,
            "port": port,
            "edge": False,
            "trusted_networks": [],
            "internal_networks": [_network(NOBODY)],
            "tracing": {
                "service": proxy,
                "sampling": self.mesh.tracing.sampling,
                "collector": COLLECTOR,
            },
        }

    def _collector(self) -> list[View]:
        endpoints = [
            {"address": self.addresses[host], "port": OTLP_GRPC_PORT}
            for host in self.collector_hosts
        ]
        return [_cluster(COLLECTOR, endpoints, http2=True)]

    def _upstream(self, service: Service) -> View:
        endpoints = [
            {"address": self.addresses[host], "port": service.port}
            for host in self.members[service.name]
        ]
        return _cluster(service.name, endpoints, idle_timeout=300)


def _proxy(host: str, kind: str, view: View) -> ProxyPlan:
    name = view["name"]
    return ProxyPlan(
        name=name,
        kind=kind,
        user=_user(name),
        unit=f"envoy@{name}.service",
        ports=tuple(
            Port(each["address"], each["port"], each["name"]) for each in view["listeners"]
        ),
        view={**view, "node": {"id": f"{name}@{host}", "cluster": name}},
    )


def _user(proxy: str) -> str:
    return f"envoy-{proxy}"


def admin_socket(proxy: str) -> str:
    """Return the unix socket of the admin interface of `proxy`; its mode is its guard."""
    return f"/run/envoy/{proxy}/admin.sock"


def _cluster(
    name: str, endpoints: list[View], *, http2: bool = False, idle_timeout: int | None = None
) -> View:
    """Return a cluster's view; `idle_timeout` in seconds closes unused upstream connections."""
    return {"name": name, "endpoints": endpoints, "http2": http2, "idle_timeout": idle_timeout}


def _route_table(routes: list[View]) -> View:
    return {"routes": routes, "tell_trace": False}


def _prefix_route(
    prefix: str, cluster: str, operation: str, timeout: float | None, *, retry: bool = True
) -> View:
    """Return a route's view; `timeout` in seconds, None leaves it to the caller's."""
    return {
        "match": {"prefix": prefix},
        "cluster": cluster,
        "operation": operation,
        "timeout": timeout,
        "retry": retry,
    }


def _network(cidr: str) -> View:
    network = ipaddress.IPv4Network(cidr)
    return {"address_prefix": str(network.network_address), "prefix_len": network.prefixlen}


def _overlap(one: Port, other: Port) -> bool:
    return one.port == other.port and (
        one.address == other.address or "0.0.0.0" in (one.address, other.address)
    )


def _port_clashes(plan: Plan) -> Iterable[Problem]:
    for host, host_plan in plan.hosts.items():
        taken: list[tuple[str, Port]] = []
        owners = [(proxy.name, proxy.ports) for proxy in host_plan.proxies]
        if host_plan.jaeger:
            owners.append(("jaeger", host_plan.jaeger.ports))
        for owner, ports in owners:
            for port in ports:
                for other_owner, other in taken:
                    if _overlap(port, other):
                        yield Problem(
                            f"{host}: port of {owner} ({port.what})",
                            f"{port.address}:{port.port}",
                            f"is taken on this host by {other_owner} ({other.what})",
                            "Give one of them another port in the inventory",
                        )
                taken.append((owner, port))
