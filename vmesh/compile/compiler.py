"""Compile: inventory in, one plain data view per proxy and host out, or all problems at once.

Pure: no file, network or clock is read. Everything that a template or a role needs to know
of the mesh is decided here (which parts a host runs) and in the modules beside: `places` (where
hosts are and what they run), the `*_views` (what Envoy gets), `ports` (clashes on a host).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from vmesh.base.problems import ERROR, Problem, Problems, without
from vmesh.compile import (
    checks,
    checks_acme,
    checks_security,
    cluster_views,
    edge_login_views,
    edge_route_views,
    edge_tls_views,
    firewall,
    identities,
    jaeger_views,
    listener_views,
    patches,
    route_views,
    security,
    security_views,
)
from vmesh.compile.host_spec import (
    GUARD,
    JAEGER,
    ExternalSpec,
    FlaskSpec,
    HostSpec,
    MeshSpec,
    Port,
    ProxySpec,
    View,
    admin_socket,
    app_socket,
    egress_address,
    external_egress_address,
    url_variable,
    user,
)
from vmesh.compile.places import Places
from vmesh.compile.ports import port_clashes
from vmesh.compile.security import SecurityPlan
from vmesh.model.inventory import Inventory
from vmesh.model.parse import parse, policies
from vmesh.model.types import (
    EXPORTS,
    Call,
    Edge,
    ExternalApp,
    FlaskApp,
    Mesh,
    Policies,
    Service,
)


def compile_mesh(
    inventory: Inventory,
    plan: SecurityPlan | None = None,
    anchors: Mapping[str, str] | None = None,
) -> MeshSpec:
    """Return what `inventory` means; raises Problems with every mistake in it.

    plan: how the proxies speak with each other; without it, as `mesh_security.mtls` wants
    anchors: host -> its anchor (PEM) where that is known; a plan has its own
    No problem and no warning shows a text that the inventory keeps in Ansible Vault.
    """
    try:
        spec = _compile(inventory, plan, anchors or {})
    except Problems as found:
        raise Problems(without(item, inventory.secrets) for item in found.items) from None
    return replace(spec, warnings=tuple(without(item, inventory.secrets) for item in spec.warnings))


def _compile(
    inventory: Inventory, plan: SecurityPlan | None, anchors: Mapping[str, str]
) -> MeshSpec:
    problems: list[Problem] = []
    mesh = parse(inventory.mesh, problems)
    problems += checks.check(mesh, inventory.hidden)
    places = Places(inventory, mesh)
    problems += places.problems
    problems += checks_acme.check_acme(mesh, places.edges)
    problems += identities.check(mesh.security, places.used)
    problems += checks_security.check_revoked(mesh, places.used)
    _stop_at_errors(problems)
    plan = plan or security.target(mesh, anchors)
    common = _Common(
        {name: _shared(mesh, service) for name, service in mesh.services.items()},
        security.is_guarded(plan),
        inventory.source,
    )
    hosts = {host: _host(mesh, places, host, common) for host in places.used}
    problems += [clash for host, spec in hosts.items() for clash in port_clashes(host, spec)]
    domain = identities.trust_domain(mesh.security, inventory.source)
    hosts = security_views.with_security(hosts, mesh, domain, plan)
    hosts = patches.with_patches(hosts, mesh, problems)
    _stop_at_errors(problems)
    hosts = firewall.with_firewalls(hosts, mesh)
    return MeshSpec(hosts, mesh, tuple(problems))


def _stop_at_errors(problems: list[Problem]) -> None:
    if any(problem.severity == ERROR for problem in problems):
        raise Problems(problems)


def _host(mesh: Mesh, places: Places, host: str, common: _Common) -> HostSpec:
    services = [mesh.services[name] for name in places.services_on.get(host, ())]
    edges = [mesh.edges[name] for name in places.edges_on.get(host, ())]
    proxies = tuple(
        _service_proxy(mesh, places, host, service, common.of_services[service.name])
        for service in services
    ) + tuple(_edge_proxy(mesh, places, host, edge) for edge in edges)
    jaeger = None
    if host in places.jaeger:
        address = places.addresses[host]
        jaeger = jaeger_views.jaeger(address, mesh.operator_bind, guarded=common.guarded)
        if common.guarded:
            proxies += (_guard(places, host),)
    return HostSpec(
        address=places.addresses[host],
        zone=places.zones[host],
        needs_authorities=any(map(_needs_authorities, proxies)),
        proxies=proxies,
        flask_services=tuple(
            _flask(mesh, places, host, service, service.app)
            for service in services
            if isinstance(service.app, FlaskApp)
        ),
        external_apps=tuple(
            ExternalSpec(
                service.name, service.app.listening, _environment(mesh, places, host, service)
            )
            for service in services
            if isinstance(service.app, ExternalApp)
        ),
        jaeger=jaeger,
        identity=identities.of_host(
            mesh.security, common.source, host, [proxy.name for proxy in proxies]
        ),
    )


def _needs_authorities(proxy: ProxySpec) -> bool:
    """Tell whether Envoy or its certificate helper trusts whom the host trusts."""
    used = [cluster["tls"] for cluster in proxy.view["clusters"]]
    acme = proxy.view.get("acme")
    return any(tls and tls["verify"] and tls["ca_file"] is None for tls in used) or (
        acme is not None and acme["directory_ca_file"] is None
    )


def _operator_address(mesh: Mesh, places: Places, host: str) -> str:
    return mesh.operator_bind or places.addresses[host]


def _egress(mesh: Mesh, service: Service, call: Call) -> tuple[str, int]:
    """Return where the app of `service` finds the upstream of `call`."""
    if call.address is not None:
        return external_egress_address(service.name, call.upstream), call.address.port
    port = mesh.services[call.upstream].port
    assert port is not None, "compile plans no mesh with problems"
    return egress_address(service.name), port


def _environment(mesh: Mesh, places: Places, host: str, service: Service) -> dict[str, str]:
    """Return what vmesh itself tells an app."""
    urls = {}
    for call in service.calls:
        address, port = _egress(mesh, service, call)
        urls[url_variable(call.upstream)] = f"http://{address}:{port}"
    return {**urls, "MESH_ADDRESS": places.addresses[host], "SERVICE_NAME": service.name}


def _flask(mesh: Mesh, places: Places, host: str, service: Service, app: FlaskApp) -> FlaskSpec:
    assert service.port is not None, "compile plans no mesh with problems"
    environment = {
        **places.environment(host, service.name, app),
        **_environment(mesh, places, host, service),
    }
    return FlaskSpec(
        **vars(replace(app, environment=environment)),
        name=service.name,
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


@dataclass(frozen=True)
class _Common:
    """What all hosts have in common.

    guarded: whether an Envoy stands before Jaeger; source: of the inventory
    """

    of_services: dict[str, _Shared]
    guarded: bool
    source: Path


def _shared(mesh: Mesh, service: Service) -> _Shared:
    tracing = listener_views.tracing(mesh, service.name)
    calls, egress = [], []
    routes = {
        "ingress": route_views.table(route_views.ingress_routes(service), tell_client="if_absent")
    }
    for call in service.calls:
        name = f"egress-{call.upstream}"
        upstream = mesh.services.get(call.upstream)
        said = policies(upstream.given if upstream else {}, call.given)
        address, port = _egress(mesh, service, call)
        egress.append(
            listener_views.listener(
                name,
                "OUTBOUND",
                address,
                port,
                tracing=tracing,
                websocket="always",
                http10_host=call.upstream,
                to_outside=call.address is not None,
            )
        )
        route = route_views.forward(
            call.upstream,
            upstream.operation if upstream else call.upstream,
            timeout=said.timeout,
            idle_timeout=said.idle_timeout,
            call=said,
            rewrite={"host": cluster_views.host_header(call.address)} if call.address else None,
        )
        routes[name] = route_views.table([route])
        calls.append((call, said))
    return _Shared(tuple(calls), tuple(egress), routes)


def _service_proxy(
    mesh: Mesh, places: Places, host: str, service: Service, shared: _Shared
) -> ProxySpec:
    assert service.port is not None, "compile plans no mesh with problems"
    ingress = listener_views.listener(
        "ingress",
        "INBOUND",
        places.addresses[host],
        service.port,
        tracing=listener_views.tracing(mesh, service.name),
        websocket="always",
        http10_host=service.name,
    )
    clusters = [
        cluster_views.local_app(mesh, service),
        _collector(mesh, places),
        *(_upstream(mesh, places, host, call, said) for call, said in shared.calls),
    ]
    listeners = [ingress, *shared.egress]
    return _proxy(places, host, "service", service.name, listeners, shared.routes, clusters)


def _upstream(  # noqa: PLR0913 - who calls, from where, whom and how
    mesh: Mesh, places: Places, host: str, call: Call, said: Policies, *, edge: bool = False
) -> View:
    if call.address is not None:
        headers = cluster_views.outside_headers(mesh, call.address)
        return cluster_views.outside(call.upstream, call.address, said, headers=headers)
    service = mesh.services[call.upstream]
    return cluster_views.cluster(
        service.name,
        places.endpoints(service, places.zones[host]),
        protocol=service.protocol,
        keepalive=cluster_views.KEEPALIVE_PING,
        idle_timeout=cluster_views.UPSTREAM_IDLE,
        call=said,
        headers=cluster_views.inside_headers(mesh, edge=edge),
    )


def _collector(mesh: Mesh, places: Places) -> View:
    tracing = mesh.tracing
    if tracing.collector is not None:
        headers = cluster_views.collector_headers()
        return cluster_views.outside(cluster_views.COLLECTOR, tracing.collector, None, headers)
    port, protocol, _ = EXPORTS[tracing.export]
    endpoints = [cluster_views.endpoint(places.addresses[host], port) for host in places.jaeger]
    return cluster_views.cluster(
        cluster_views.COLLECTOR, endpoints, protocol=protocol, keepalive=cluster_views.KEEPALIVE_TCP
    )


def _edge_proxy(mesh: Mesh, places: Places, host: str, edge: Edge) -> ProxySpec:
    assert edge.port is not None, "compile plans no mesh with problems"
    listeners = [
        listener_views.listener(
            "public",
            "INBOUND",
            edge.address,
            edge.port,
            tracing=listener_views.tracing(mesh, edge.name, edge.tracing),
            websocket="routes",
            http10_host=listener_views.http10_host(edge),
            edge=edge,
            proxy_100_continue=not listener_views.holds_back(edge),
        )
        | edge_tls_views.listener_tls(edge),
        listener_views.listener(
            "admin",
            "INBOUND",
            _operator_address(mesh, places, host),
            edge.admin_port,
            tracing=None,
            websocket="never",
            http10_host=edge.name,
        ),
        *edge_tls_views.redirects(edge),
    ]
    others = [places.addresses[each] for each in places.edges[edge.name] if each != host]
    routes = {
        "public": edge_route_views.edge_table(mesh, edge),
        "admin": route_views.table(route_views.admin_routes()),
    }
    if edge.redirect_port is not None:
        routes[edge_tls_views.REDIRECT] = edge_tls_views.redirect_table(edge, len(others))
    calls = {call.upstream: call for call in edge.calls}
    clusters = [
        cluster_views.cluster(cluster_views.ADMIN, [{"pipe": admin_socket(edge.name)}]),
        _collector(mesh, places),
        *edge_tls_views.clusters(edge, others),
        *edge_login_views.clusters(edge),
        *(
            _upstream(
                mesh,
                places,
                host,
                calls.get(name) or Call(name, None, {}),
                edge_route_views.edge_policies(mesh, edge, name),
                edge=True,
            )
            for name in sorted(edge.upstreams)
        ),
    ]
    more = edge_tls_views.acme_settings(edge, places.addresses[host])
    more |= edge_tls_views.local_settings(edge, places.addresses[host])
    more["jwt"] = edge_login_views.jwt(edge)
    if certificates := edge_tls_views.certificates(edge):
        more["certificates"] = certificates
    return _proxy(places, host, "edge", edge.name, listeners, routes, clusters, more)


def _guard(places: Places, host: str) -> ProxySpec:
    listeners = jaeger_views.guard_listeners(places.addresses[host])
    return _proxy(places, host, GUARD, JAEGER, listeners, {}, jaeger_views.guard_clusters())


def _proxy(  # noqa: PLR0913, PLR0917 - the parts of a view
    places: Places,
    host: str,
    kind: str,
    name: str,
    listeners: list[View],
    routes: dict[str, View],
    clusters: list[View],
    more: View | None = None,
) -> ProxySpec:
    return ProxySpec(
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
            **(more or {}),
        },
    )
