"""What the hosts' specs say about the whole mesh: services, who calls whom, the edges' routes.

Pure. It takes the hosts' specs as plain data (vmesh.rollout.description.shown, or as they were
recorded) and reads them by their views, which are what the proxies really get.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vmesh.compile.cluster_views import COLLECTOR, LOCAL_APP, issuer_of
from vmesh.compile.host_spec import GUARD

Host = Mapping[str, Any]
EGRESS = "egress-"


@dataclass(frozen=True)
class Place:
    """A host that runs an instance."""

    host: str
    address: str
    zone: str | None


@dataclass(frozen=True)
class Outside:
    """An address outside the mesh, under the name that the inventory gives it."""

    name: str
    address: str
    port: int
    tls: bool


@dataclass
class Service:
    """A service: where it is, what answers for it, whom it calls (names or addresses outside)."""

    name: str
    port: int
    app: str
    places: list[Place] = field(default_factory=list)
    calls: list[str | Outside] = field(default_factory=list)
    called_by: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Target:
    """Who answers a route: a service by name or an address outside, and its share in percent."""

    to: str | Outside
    share: float | None = None


@dataclass(frozen=True)
class Route:
    """A route of an edge. `answer` says what the edge itself does when there is no target."""

    domains: tuple[str, ...]
    match: str
    targets: tuple[Target, ...]
    answer: str
    mirror: tuple[str | Outside, float] | None
    more: tuple[str, ...]


@dataclass
class Edge:
    """An edge: where it listens, and its routes in the order in which they are tried."""

    name: str
    listens: tuple[str, int]
    places: list[Place] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)


@dataclass(frozen=True)
class Topology:
    """The mesh as a whole. `spans` says in words where spans go, None when nowhere.

    guarded: whether an Envoy stands before Jaeger
    """

    services: dict[str, Service]
    edges: dict[str, Edge]
    jaeger: Place | None
    spans: str | None
    guarded: bool = False


def topology(hosts: Mapping[str, Host]) -> Topology:
    """Return the mesh that these hosts make up."""
    services: dict[str, Service] = {}
    edges: dict[str, Edge] = {}
    jaeger, guarded = None, False
    for name, host in sorted(hosts.items()):
        place = Place(name, host["address"], host.get("zone"))
        if host["jaeger"]:
            jaeger = place
        for proxy in host["proxies"]:
            if proxy["kind"] == "edge":
                edges.setdefault(proxy["name"], _edge(proxy)).places.append(place)
            elif proxy["kind"] == GUARD:
                guarded = True
            else:
                service = services.setdefault(proxy["name"], _service(proxy, host))
                service.places.append(place)
    for service in services.values():
        for call in service.calls:
            if isinstance(call, str) and call in services:
                services[call].called_by.append(service.name)
    for edge in edges.values():
        for each in sorted({to for route in edge.routes for to in _named(route)}):
            if each in services:
                services[each].called_by.insert(0, edge.name)
    return Topology(
        dict(sorted(services.items())),
        dict(sorted(edges.items())),
        jaeger,
        _spans(hosts),
        guarded,
    )


def _named(route: Route) -> Iterator[str]:
    for target in route.targets:
        if isinstance(target.to, str):
            yield target.to
    if route.mirror and isinstance(route.mirror[0], str):
        yield route.mirror[0]


def _listener(view: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return next((each for each in view["listeners"] if each["name"] == name), {})


def _upstreams(view: Mapping[str, Any]) -> dict[str, str | Outside]:
    """Return cluster -> the service of that name, or the address outside that it stands for."""
    found: dict[str, str | Outside] = {}
    for cluster in view["clusters"]:
        endpoint = (cluster["endpoints"] or [{}])[0]
        if cluster.get("type") == "dns" and "address" in endpoint:
            found[cluster["name"]] = Outside(
                cluster["name"], endpoint["address"], endpoint["port"], bool(cluster.get("tls"))
            )
        else:
            found[cluster["name"]] = cluster["name"]
    return found


def _service(proxy: Mapping[str, Any], host: Host) -> Service:
    view, name = proxy["view"], proxy["name"]
    upstreams = _upstreams(view)
    calls = [
        upstreams.get(upstream, upstream)
        for each in view["listeners"]
        if each["name"].startswith(EGRESS)
        for upstream in [each["name"].removeprefix(EGRESS)]
    ]
    return Service(name, _listener(view, "ingress").get("port", 0), _app(name, host), calls=calls)


def _app(name: str, host: Host) -> str:
    for app in host["flask_services"]:
        if app["name"] == name:
            return f"Flask, {app['source']}"
    for app in host.get("external_apps") or ():
        if app["name"] == name:
            return f"on the host, {app['listening']}"
    return "unknown"


def _edge(proxy: Mapping[str, Any]) -> Edge:
    view = proxy["view"]
    public = _listener(view, "public")
    upstreams = _upstreams(view)
    table = view["routes"].get("public") or {"virtual_hosts": []}
    routes = [
        _route(route, tuple(virtual_host["domains"]), upstreams)
        for virtual_host in table["virtual_hosts"]
        for route in virtual_host["routes"]
    ]
    return Edge(proxy["name"], (public.get("address", ""), public.get("port", 0)), routes=routes)


def _route(
    route: Mapping[str, Any], domains: tuple[str, ...], upstreams: Mapping[str, str | Outside]
) -> Route:
    mirror = route.get("mirror")
    return Route(
        domains,
        match_words(route["match"]),
        tuple(
            Target(upstreams.get(name, name), share) for name, share in target_shares(route).items()
        ),
        own_answer(route),
        (upstreams.get(mirror["cluster"], mirror["cluster"]), mirror["percent"])
        if mirror
        else None,
        tuple(_more(route)),
    )


def target_shares(route: Mapping[str, Any]) -> dict[str, float | None]:
    """Return cluster -> its share of a route's requests in percent; None where it gets all."""
    if "weights" in route:
        total = sum(each["weight"] for each in route["weights"]) or 1
        return {each["cluster"]: 100 * each["weight"] / total for each in route["weights"]}
    return {route["cluster"]: None} if "cluster" in route else {}


def own_answer(route: Mapping[str, Any]) -> str:
    """Return in words what the edge itself answers on a route, "" where an upstream does."""
    if answer := route.get("answer"):
        return f"answer {answer['status']}"
    if redirect := route.get("redirect"):
        host = redirect.get("host") or ""
        port = f":{redirect['port']}" if redirect.get("port") else ""
        scheme = f"{redirect['scheme']}://" if redirect.get("scheme") else ""
        path = redirect.get("path") or (
            f"{redirect['prefix']}..." if redirect.get("prefix") else ""
        )
        return f"redirect {redirect.get('status', 302)} to {scheme}{host}{port}{path}"
    return ""


def _more(route: Mapping[str, Any]) -> Iterable[str]:
    """Yield in a few words what else is special about a route."""
    if route.get("timeout") is not None:
        yield f"{route['timeout']:g} s"
    elif "timeout" in route:
        yield "no timeout"
    if route.get("websocket"):
        yield "WebSocket"
    if route.get("tracing"):
        yield f"{route['tracing']['sampling']:g} % traced"
    filters = route.get("filters") or {}
    if filters.get("jwt"):
        yield f"token of {filters['jwt']['issuer']}"
    if filters.get("login"):
        yield f"login of {filters['login']['group']}"
    if filters.get("authorization"):
        yield f"authorized by {filters['authorization']['cluster']}"
    names = {
        "rate_limit": "rate limit",
        "max_request_bytes": "size limit",
        "cors": "CORS",
        "fault": "fault",
    }
    for key, name in names.items():
        if filters.get(key):
            yield name
    if filters.get("compression"):
        yield "compression"
    if route.get("rewrite"):
        yield "rewrite"
    if route.get("mirror"):
        yield f"mirror to {route['mirror']['cluster']}"


def match_words(match: Mapping[str, Any]) -> str:
    """Return a route's condition as a person would say it, the same for the same condition."""
    if "path" in match:
        words = f"{match['path']} (exactly)"
    elif "regex" in match:
        words = f"{match['regex']} (regex)"
    elif "path_prefix" in match:
        words = f"{match['path_prefix']} (and below)"
    else:
        words = str(match["prefix"])
    conditions = [_condition(each) for each in match.get("headers") or ()]
    if "method" in match:
        conditions.append(match["method"])
    return f"{words} [{', '.join(conditions)}]" if conditions else words


def _condition(header: Mapping[str, Any]) -> str:
    name = header["name"]
    if name == ":method":
        return str(header.get("exact") or header.get("regex", "")).replace("|", "/")
    if "present" in header:
        return f"with {name}" if header["present"] else f"without {name}"
    if "prefix" in header:
        return f"{name}: {header['prefix']}..."
    if "regex" in header:
        return f"{name} ~ {header['regex']}"
    return f"{name}: {header.get('exact', '')}"


def _spans(hosts: Mapping[str, Host]) -> str | None:
    """Return in words where the spans go and how many requests are traced."""
    samplings: set[float] = set()
    where = ""
    for host in hosts.values():
        for proxy in host["proxies"]:
            for each in proxy["view"]["listeners"]:
                if not each["tracing"]:
                    continue
                if each.get("edge"):
                    samplings.add(each["tracing"]["sampling"])
                for cluster in proxy["view"]["clusters"]:
                    if cluster["name"] == each["tracing"]["collector"] and cluster["endpoints"]:
                        where = "{address}:{port}".format(**cluster["endpoints"][0])
    if not where:
        return None
    shares = " and ".join(f"{share:g} %" for share in sorted(samplings, reverse=True))
    return f"{shares or 'no'} of the requests; spans go to {where}"


def upstream_words(cluster: str) -> str:
    """Return what a person calls the cluster of that name."""
    issuer = issuer_of(cluster)
    if issuer is not None:
        return f"for the keys of the issuer {issuer}"
    return {COLLECTOR: "the collector of spans", LOCAL_APP: "the app"}.get(cluster, cluster)
