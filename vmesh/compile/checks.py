"""What is wrong with a mesh although each of its values is well formed.

Pure, and tolerant: a value that the schema refused is None here and was told already.
"""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import re2

from vmesh.base.formats import is_ipv4
from vmesh.base.problems import HIDDEN, WARNING, Problem
from vmesh.compile.edge_route_views import (
    body_buffer,
    edge_policies,
    in_order,
    route_timeout,
    streams,
    upstream_protocol,
)
from vmesh.compile.host_spec import url_variable
from vmesh.model.parse import policies
from vmesh.model.types import (
    GRPC,
    HTTP1,
    MAIN,
    OTLP,
    Call,
    Edge,
    FlaskApp,
    Match,
    Mesh,
    Route,
    Service,
    Tls,
    VirtualHost,
)

# What vmesh itself passes to an app; the role flask_service adds gunicorn's settings.
OWN_ENVIRONMENT = ("MESH_ADDRESS", "SERVICE_NAME")
GUNICORN_ENVIRONMENT = (
    "WSGI_APP",
    "WORKERS",
    "THREADS",
    "PRELOAD",
    "WORKER_CLASS",
    "GRACEFUL_TIMEOUT_SECONDS",
    "KEEP_ALIVE_SECONDS",
    "LOG_LEVEL",
    "ACCESS_LOG",
    "CONFIG_ID",
    "PYTHONPATH",
)
_SECRET_NAME = re.compile(
    r"(PASSWORD|PASSWD|SECRET|TOKEN|CREDENTIAL|PRIVATE_KEY|API_?KEY|ACCESS_KEY)", re.IGNORECASE
)
# Of headers, which have - in their names.
_SECRET_HEADER = re.compile(
    r"(auth|password|secret|token|credential|key|cookie|signature)", re.IGNORECASE
)

_EDGES = "mesh_edges"
# What no path has any more when routes are looked at.
_UNNORMAL = {
    "prefix": re.compile(r"//|/\.\.?/"),
    "path": re.compile(r"//|/\.\.?(/|$)"),
    "path_prefix": re.compile(r"//|/\.\.?(/|$)"),
    "regex": re.compile(r"(?!)"),
}
_ESCAPED_SLASH = re.compile(r"%2f|%5c", re.IGNORECASE)
_EVERY_PATH = (".*", "/.*", ".+")

Hidden = frozenset[tuple[str, ...]]


def check(mesh: Mesh, hidden: Hidden = frozenset()) -> list[Problem]:
    """Return everything that is wrong with `mesh`, warnings included.

    `hidden` are the key paths of texts that do not stand in plain in the inventory.
    """
    checks: tuple[Callable[[Mesh], Iterable[Problem]], ...] = (
        _names,
        _ports,
        _service_calls,
        _edge_calls,
        _routes,
        _peers,
        _domains,
        _environments,
        _tracing,
        _cycles,
        _grace,
    )
    return [
        *(problem for each in checks for problem in each(mesh)),
        *_plain_secrets(mesh, hidden),
        *_plain_headers(mesh, hidden),
    ]


def remedy(name: str, known: Iterable[str], otherwise: str) -> str:
    """Return what to do about a `name` that is none of `known`: the nearest, if one is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    near = [each for each in near if each != name]
    if not near:
        return otherwise
    return f"Did you mean `{near[0]}`? If not, {otherwise[0].lower()}{otherwise[1:]}"


def looks_secret(name: str) -> bool:
    """Tell whether an environment variable's name says that its value is nobody's business."""
    return _SECRET_NAME.search(name) is not None


def _names(mesh: Mesh) -> Iterator[Problem]:
    for name in sorted(set(mesh.services) & set(mesh.edges)):
        yield Problem(
            f"mesh_edges.{name}",
            name,
            "is a service's name too",
            "Give the edge a name of its own",
        )
    for edge in mesh.edges.values():
        names = [host.name for host in edge.virtual_hosts]
        if names.count(MAIN) > 1:
            yield Problem(
                f"{_of(edge)}.virtual_hosts",
                MAIN,
                "is the name that the edge's own routes have",
                "Give this virtual host another name",
            )


def _ports(mesh: Mesh) -> Iterator[Problem]:
    owners: dict[int, str] = {}
    for service in mesh.services.values():
        if service.port is None:
            continue
        if service.port in owners:
            yield Problem(
                f"mesh_services.{service.name}.port",
                service.port,
                f"is also the port of {owners[service.port]}",
                "Give every service a port of its own in the mesh",
            )
        owners.setdefault(service.port, service.name)


def _known(mesh: Mesh) -> str:
    return ", ".join(sorted(mesh.services)) or "none"


def _is_service(mesh: Mesh, name: str) -> bool:
    """Tell whether `name` is described as a service, even if wrongly.

    Where there is no service at all, that is the one mistake, and not each name of one.
    """
    given = mesh.given.get("mesh_services")
    return (
        not mesh.services or name in mesh.services or (isinstance(given, Mapping) and name in given)
    )


def _service_calls(mesh: Mesh) -> Iterator[Problem]:
    for service in mesh.services.values():
        where = f"mesh_services.{service.name}"
        if service.protocol != HTTP1 and isinstance(service.app, FlaskApp):
            yield Problem(
                f"{where}.protocol",
                service.protocol,
                "is not what gunicorn speaks, which serves a Flask app",
                "Remove it, or run the app under a server of yours and name that with app.external",
            )
        yield from _check_path(f"{where}.policies", service.protocol, service.given)
        yield from _policies(f"{where}.policies", service.given)
        for call in service.calls:
            if call.upstream == service.name:
                yield Problem(
                    f"{where}.calls", call.upstream, "is the service itself", "Remove this call"
                )
            elif not _is_service(mesh, call.upstream) and not _leads_outside(mesh, where, call):
                yield Problem(
                    f"{where}.calls",
                    call.upstream,
                    "is not a service of this mesh",
                    remedy(
                        call.upstream,
                        mesh.services,
                        f"Describe it under mesh_services, call one of: {_known(mesh)}; or say its"
                        " host and port",
                    ),
                )
            yield from _call(f"{where}.calls.{call.upstream}", mesh, service.calls, call)


def _leads_outside(mesh: Mesh, where: str, call: Call) -> bool:
    """Tell whether the user meant an address, even one that is wrong."""
    if call.address is not None:
        return True
    kind, _, name = where.partition(".")
    given = mesh.given.get(kind, {}).get(name, {}).get("calls", {}).get(call.upstream)
    return isinstance(given, Mapping) and ("host" in given or "port" in given)


def _edge_calls(mesh: Mesh) -> Iterator[Problem]:
    for edge in mesh.edges.values():
        where = f"mesh_edges.{edge.name}"
        used = {name for route in edge.routes for name in _upstreams(route)}
        for call in edge.calls:
            outside = _leads_outside(mesh, where, call)
            if not _is_service(mesh, call.upstream) and not outside:
                yield Problem(
                    f"{where}.calls",
                    call.upstream,
                    "is not a service of this mesh",
                    remedy(
                        call.upstream,
                        mesh.services,
                        f"Describe it under mesh_services, name one of: {_known(mesh)}; or say its"
                        " host and port",
                    ),
                )
            elif edge.routes and call.upstream not in used:
                yield Problem(
                    f"{where}.calls",
                    call.upstream,
                    "is where no route of this edge leads",
                    "Remove it, or add a route",
                    WARNING,
                )
            yield from _call(f"{where}.calls.{call.upstream}", mesh, edge.calls, call)


def _call(where: str, mesh: Mesh, calls: Iterable[Call], call: Call) -> Iterator[Problem]:
    if call.address is not None:
        if call.upstream in mesh.services:
            yield Problem(
                where,
                call.address.host,
                f"is an address outside the mesh, and {call.upstream} is a service of it",
                "Give this call another name, or remove its host and port",
            )
        yield from _tls(f"{where}.tls", call.address.host, call.address.tls)
    yield from _check_path(where, upstream_protocol(mesh, calls, call.upstream), call.given)
    service = mesh.services.get(call.upstream)
    yield from _policies(where, service.given if service else {}, call.given)


def _check_path(where: str, protocol: str, given: Mapping[str, object]) -> Iterator[Problem]:
    check = given.get("health_check")
    if protocol == GRPC and isinstance(check, Mapping) and "path" in check:
        yield Problem(
            f"{where}.health_check.path",
            check["path"],
            "has no meaning with grpc, whose health checks call grpc.health.v1.Health",
            "Remove it",
        )


def _tls(where: str, host: str, tls: Tls | None) -> Iterator[Problem]:
    if tls is None:
        return
    if not tls.verify:
        yield Problem(
            f"{where}.verify",
            False,
            "lets anybody answer in the upstream's place",
            "Remove it, and name the authority with ca_file if it is one of your own",
            WARNING,
        )
    elif tls.sni is None and is_ipv4(host):
        yield Problem(
            where,
            host,
            "is an address, so there is no name that the certificate could be verified for",
            "Set sni to the name in its certificate",
        )


def _policies(where: str, *layers: Mapping[str, object]) -> Iterator[Problem]:
    """Return what does not fit together in the policies of one call; the last layer is its own."""
    if not layers[-1]:
        return
    said = policies(*layers)
    own = layers[-1]
    per_try = said.retries.per_try_timeout
    if per_try is not None and said.timeout is not None and per_try > said.timeout:
        retries = own.get("retries")
        if isinstance(retries, Mapping) and "per_try_timeout" in retries:
            yield Problem(
                f"{where}.retries.per_try_timeout",
                per_try,
                f"is longer than the timeout of the whole call, {said.timeout:g} s",
                "Make it shorter, or the timeout longer",
            )
        elif "timeout" in own:
            yield Problem(
                f"{where}.timeout",
                said.timeout,
                f"is shorter than what the service's policies give one attempt, {per_try:g} s",
                "Make it longer, or set retries.per_try_timeout here too",
            )
    hash_on = own.get("hash_on")
    if "load_balancing" in own and said.load_balancing == "ring_hash" and said.hash_on is None:
        yield Problem(
            f"{where}.hash_on",
            None,
            "is missing, and ring_hash needs to know what decides",
            "Set hash_on to a header or a cookie",
        )
    if said.load_balancing != "ring_hash" and isinstance(hash_on, Mapping):
        yield Problem(
            f"{where}.hash_on",
            sorted(hash_on),
            f"has no meaning with {said.load_balancing}",
            "Set load_balancing to ring_hash, or remove hash_on",
        )


def _upstreams(route: Route) -> Iterator[str]:
    yield from route.to
    if route.mirror is not None and route.mirror["to"] is not None:
        yield route.mirror["to"]


def _routes(mesh: Mesh) -> Iterator[Problem]:
    for edge in mesh.edges.values():
        for host in edge.virtual_hosts:
            for index, route in enumerate(host.routes):
                yield from _route(f"{host.where}.routes[{index}]", mesh, edge, route)
            yield from _shadows(host)
        yield from _shared_cors(mesh, edge)


def _route(where: str, mesh: Mesh, edge: Edge, route: Route) -> Iterator[Problem]:
    outside = {call.upstream for call in edge.calls if _leads_outside(mesh, _of(edge), call)}
    for key, name in [(f"{where}.to", n) for n in route.to] + [
        (f"{where}.mirror.to", n) for n in list(_upstreams(route))[len(route.to) :]
    ]:
        if not _is_service(mesh, name) and name not in outside:
            yield Problem(
                key,
                name,
                "is not a service of this mesh",
                remedy(
                    name,
                    [*mesh.services, *sorted(outside)],
                    f"Describe it under mesh_services, or route to one of: {_known(mesh)}",
                ),
            )
    if route.to and not sum(route.to.values()):
        yield Problem(
            f"{where}.to", route.to, "has weights that add up to nothing", "Give one a weight"
        )
    if sum(route.to.values()) > 2**32 - 1:
        yield Problem(
            f"{where}.to", route.to, "has weights too large to add up", "Use smaller weights"
        )
    yield from _either(f"{where}.rewrite", route.rewrite, "prefix", "regex")
    yield from _either(f"{where}.redirect", route.redirect, "path", "prefix")
    yield from _substitution(f"{where}.rewrite", route.rewrite)
    yield from _tags(f"{where}.tracing", route.tracing.tags)
    yield from _path(where, edge, route)
    yield from _underscores(f"{where}.headers", edge, route.match.headers)
    yield from _underscores_in_tags(f"{where}.tracing", edge, route.tracing.tags)
    yield from _underscores_in_cors(where, edge, route.filters)
    if route.redirect is not None and set(route.redirect) == {"status"}:
        yield Problem(
            f"{where}.redirect",
            "status",
            "leads to where the client is already",
            "Add another scheme, host, port, path or prefix",
        )
    yield from _cors(where, route.filters)
    if route.websocket and "max_request_bytes" in route.filters:
        yield Problem(
            f"{where}.max_request_bytes",
            route.filters["max_request_bytes"],
            "would hold back all that is sent over a WebSocket",
            "Remove it from this route",
        )
    other = next(
        (name for name in route.to if upstream_protocol(mesh, edge.calls, name) != HTTP1), None
    )
    if route.websocket and other is not None:
        yield Problem(
            f"{where}.websocket",
            True,
            f"leads to {other}, which speaks HTTP/2, and the upgrade is one of HTTP/1.1",
            "Remove it, or serve WebSockets by a service with protocol http1",
        )
    if "max_request_bytes" in route.filters and streams(mesh, edge, route):
        yield Problem(
            f"{where}.max_request_bytes",
            route.filters["max_request_bytes"],
            "would hold back all that is sent over a stream of gRPC",
            "Remove it from this route, and limit the size of messages in the app",
        )
    yield from _body_limits(where, mesh, edge, route)
    timeout = route_timeout(mesh, edge, route)
    per_try = (route.retries or {}).get("per_try_timeout")
    if per_try is not None and timeout is not None and per_try > timeout:
        yield Problem(
            f"{where}.retries.per_try_timeout",
            per_try,
            f"is longer than the route's timeout, {timeout:g} s",
            "Make it shorter, or the timeout longer",
        )


def _path(where: str, edge: Edge, route: Route) -> Iterator[Problem]:
    """Look at the path of a route as the edge sees paths, and at what becomes of it."""
    kind, path = route.match.kind, route.match.value
    normal = path if edge.merge_slashes else path.replace("//", "/")
    if _UNNORMAL[kind].search(normal):
        doubled = "//b, " if edge.merge_slashes else ""
        yield Problem(
            f"{where}.{kind}",
            path,
            f"never matches: the edge makes /b of {doubled}/./b and /a/../b before it looks",
            "Write it without // and dots" if doubled else "Write it without dots",
        )
    if kind != "regex" and edge.escaped_slashes != "keep" and _ESCAPED_SLASH.search(path):
        yield Problem(
            f"{where}.{kind}",
            path,
            "never matches: no path has an escaped slash any more when the edge looks",
            f"Write / for it, or set escaped_slashes of {edge.name} to keep",
        )
    if kind == "path_prefix" and path.endswith("/"):
        yield Problem(
            f"{where}.path_prefix",
            path,
            "ends with a slash, and whole segments need none",
            f"Write {path.rstrip('/')}, which is for {path.rstrip('/')} and all below it",
        )
    for key, said in (("rewrite", route.rewrite), ("redirect", route.redirect)):
        if kind == "prefix" and path and path[-1] != "/" and said and "prefix" in said:
            yield Problem(
                f"{where}.{key}.prefix",
                said["prefix"],
                f"is put before half a segment too: {path} also matches {path}x",
                f"Write `path_prefix: {path}` for whole segments, or end the prefix with a slash",
                WARNING,
            )


def _underscores(where: str, edge: Edge, names: Iterable[str]) -> Iterator[Problem]:
    """Find names of request headers that no request has when `edge` is done with it."""
    for name in names:
        if "_" in name and edge.headers_with_underscores != "allow":
            yield Problem(
                where,
                name,
                "has an underscore, and the edge lets no such header through",
                f"Write {name.replace('_', '-')}, or set headers_with_underscores of {edge.name}"
                " to allow",
            )


def _underscores_in_tags(
    where: str, edge: Edge, tags: Mapping[str, Mapping[str, str | None]]
) -> Iterator[Problem]:
    for name, tag in tags.items():
        header = tag["header"]
        yield from _underscores(f"{where}.tags.{name}.header", edge, [header] if header else [])


def _underscores_in_cors(
    where: str, edge: Edge, filters: Mapping[str, Mapping[str, Any]]
) -> Iterator[Problem]:
    headers = (filters.get("cors") or {}).get("headers")
    yield from _underscores(f"{where}.cors.headers", edge, headers or ())


def _peers(mesh: Mesh) -> Iterator[Problem]:
    """Find what an edge says of trusted peers that it has none of, or cannot tell apart."""
    for edge in mesh.edges.values():
        if edge.proxy_protocol and not edge.trusted_cidrs:
            yield Problem(
                f"{_of(edge)}.proxy_protocol",
                edge.proxy_protocol,
                "is for the peers in trusted_cidrs alone, and there are none: nobody could connect",
                "Set trusted_cidrs to the networks of the balancers that speak it",
            )
        if edge.proxy_protocol and edge.control_cidrs:
            yield Problem(
                f"{_of(edge)}.control_cidrs",
                list(edge.control_cidrs),
                "has no meaning with proxy_protocol: what comes is from a balancer's clients",
                "Remove it, or give these peers an edge without proxy_protocol",
            )
        if edge.trusted_hops and not (edge.trusted_cidrs or edge.control_cidrs):
            yield Problem(
                f"{_of(edge)}.trusted_hops",
                edge.trusted_hops,
                "has no meaning, as no peer is trusted",
                "Set trusted_cidrs to the networks of the proxies in front, or remove it",
            )
        yield from _underscores_in_tags(f"{_of(edge)}.tracing", edge, edge.tracing.tags)
        for name in sorted({name for route in edge.routes for name in route.to}):
            yield from _underscores_in_hash(mesh, edge, name)


def _underscores_in_hash(mesh: Mesh, edge: Edge, upstream: str) -> Iterator[Problem]:
    """Look at the header by which `edge` chooses an instance of `upstream`."""
    own = next((call.given for call in edge.calls if call.upstream == upstream), {})
    said = edge_policies(mesh, edge, upstream)
    header = (said.hash_on or {}).get("header")
    if said.load_balancing != "ring_hash" or header is None:
        return
    if "hash_on" in own:
        yield from _underscores(f"{_of(edge)}.calls.{upstream}.hash_on.header", edge, [header])
        return
    # Other callers may send it, so it is no mistake in itself.
    for problem in _underscores(
        f"mesh_services.{upstream}.policies.hash_on.header", edge, [header]
    ):
        message = f"{problem.message}: {edge.name} chooses any instance"
        yield replace(problem, message=message, severity=WARNING)


def _body_limits(where: str, mesh: Mesh, edge: Edge, route: Route) -> Iterator[Problem]:
    """Find a route that lets bodies pass which it cannot send again, although it is to."""
    host = next(host for host in edge.virtual_hosts if route in host.routes)
    largest = {**host.filters, **route.filters}.get("max_request_bytes")
    kept = body_buffer(mesh, edge, route)
    if largest is None or kept is None or kept >= largest or not route.to:
        return
    if route.websocket or streams(mesh, edge, route):
        return  # nothing is held back there
    main = next(iter(route.to))
    attempts = edge_policies(mesh, edge, main).retries.attempts
    if (route.retries or {}).get("attempts", attempts):
        yield Problem(
            f"{where}.request_body_buffer_limit",
            kept,
            f"is less than max_request_bytes, {largest}: larger bodies pass, but never again after"
            " a failure",
            "Remove it, raise it, or set retries: {attempts: 0}",
            WARNING,
        )


def _tags(where: str, tags: Mapping[str, Mapping[str, str | None]]) -> Iterator[Problem]:
    for name, tag in tags.items():
        if tag["literal"] is not None and tag["default"] is not None:
            yield Problem(
                f"{where}.tags.{name}.default",
                tag["default"],
                "never counts, as a literal is always there",
                "Remove it",
            )


def _of(edge: Edge) -> str:
    return f"mesh_edges.{edge.name}"


def _either(where: str, value: Mapping[str, object] | None, *names: str) -> Iterator[Problem]:
    if value is not None and all(name in value for name in names):
        yield Problem(
            where,
            sorted(names),
            f"has {' and '.join(names)}, which exclude one another",
            "Keep one of them",
        )


def _substitution(where: str, rewrite: Mapping[str, str] | None) -> Iterator[Problem]:
    if not rewrite or "regex" not in rewrite or "substitution" not in rewrite:
        return
    text, groups = rewrite["substitution"], re2.compile(rewrite["regex"]).groups
    if re.search(r"\\([^0-9\\]|$)", text.replace(r"\\", "")):
        yield Problem(
            f"{where}.substitution",
            text,
            r"has a \ that is followed by neither a digit nor another \ ",
            r"Write \1 for the first group, \\ for a backslash",
        )
    elif any(int(digit) > groups for digit in re.findall(r"\\([0-9])", text.replace(r"\\", ""))):
        yield Problem(
            f"{where}.substitution",
            text,
            f"names a group that the expression does not have; it has {groups}",
            r"Put ( ) around what \1 stands for",
        )


def _cors(where: str, filters: Mapping[str, Mapping[str, object]]) -> Iterator[Problem]:
    cors = filters.get("cors")
    origins = cors and cors.get("origins")
    if cors and cors.get("credentials") and isinstance(origins, list) and "*" in origins:
        yield Problem(
            f"{where}.cors.credentials",
            True,
            "would let every site act with the visitor's cookies",
            "Name the origins instead of *, or remove credentials",
        )


def _shared_cors(mesh: Mesh, edge: Edge) -> Iterator[Problem]:
    """Look at what holds for whole virtual hosts, once where it is written."""
    seen: list[object] = []
    for host in edge.virtual_hosts:
        cors = host.filters.get("cors")
        if cors is not None and not any(cors is each for each in seen):
            seen.append(cors)
            said = mesh.given[_EDGES][edge.name].get("virtual_hosts") or {}
            own = isinstance(said, Mapping) and "cors" in (said.get(host.name) or {})
            place = host.where if own else _of(edge)
            yield from _cors(place, host.filters)
            yield from _underscores_in_cors(place, edge, host.filters)


def _shadows(host: VirtualHost) -> Iterator[Problem]:
    """Return the routes of which no request is left by another one before them."""
    earlier: list[tuple[int, Match]] = []
    for index, route in in_order(host.routes):
        if not route.match.value:
            continue
        for first, match in earlier:
            if _covers(match, route.match):
                yield Problem(
                    f"{host.where}.routes[{index}]",
                    route.match.value,
                    f"never gets a request: routes[{first}] takes all of them",
                    "Remove one, or give one another path, method or header",
                )
                break
        earlier.append((index, route.match))


def _covers(one: Match, other: Match) -> bool:
    """Tell whether every request that `other` matches is matched by `one` too."""
    if one.kind == "regex" and one.value in _EVERY_PATH:
        path = True
    elif one.kind == "prefix" and other.kind != "regex":
        path = other.value.startswith(one.value)
    elif one.kind == "path_prefix" and other.kind != "regex":
        whole = one.value == other.value and other.kind != "prefix"
        path = whole or other.value.startswith(f"{one.value}/")
    else:
        path = (one.kind, one.value) == (other.kind, other.value)
    methods = not one.methods or (bool(other.methods) and set(other.methods) <= set(one.methods))
    headers = all(other.headers.get(name) == wanted for name, wanted in one.headers.items())
    return path and methods and headers


def _domains(mesh: Mesh) -> Iterator[Problem]:
    for edge in mesh.edges.values():
        owners: dict[str, str] = {}
        for host in edge.virtual_hosts:
            for domain, times in Counter(host.domains).items():
                owner = host.where if times > 1 else owners.get(domain)
                if owner is not None:
                    yield Problem(
                        f"{host.where}.domains",
                        domain,
                        f"stands in {owner}.domains too"
                        if owner != host.where
                        else "stands there twice",
                        "Answer for it in one place",
                    )
                owners.setdefault(domain, host.where)


def _app_variables(mesh: Mesh) -> Iterator[tuple[Service, str]]:
    """Yield every environment variable that the user sets, with the service it is for."""
    for service in mesh.services.values():
        if isinstance(service.app, FlaskApp):
            for name in service.app.environment:
                yield service, name


def _environments(mesh: Mesh) -> Iterator[Problem]:
    for service, name in _app_variables(mesh):
        yield from check_own_name(service, name, f"mesh_services.{service.name}.app.environment")


def check_own_name(service: Service, name: str, place: str) -> Iterator[Problem]:
    """Find the environment variable `name` of an app, set at `place`, that vmesh sets itself."""
    urls = {url_variable(call.upstream) for call in service.calls}
    if name in urls or name in OWN_ENVIRONMENT or name in GUNICORN_ENVIRONMENT:
        yield Problem(place, name, "is a variable that vmesh sets itself", "Use another name")


def _plain_secrets(mesh: Mesh, hidden: Hidden) -> Iterator[Problem]:
    for service, name in _app_variables(mesh):
        place = ("mesh_services", service.name, "app", "environment", name)
        if looks_secret(name) and place not in hidden:
            yield Problem(
                f"mesh_services.{service.name}.app.environment",
                name,
                "looks like a secret and stands in the inventory in plain text",
                "Encrypt it: `ansible-vault encrypt_string`, and put its output here",
                WARNING,
            )


def _plain_headers(mesh: Mesh, hidden: Hidden) -> Iterator[Problem]:
    for name in mesh.tracing.headers:
        place = ("mesh_tracing", "collector", "headers", name)
        if _SECRET_HEADER.search(name) and place not in hidden:
            yield Problem(
                ".".join(place),
                HIDDEN,
                "looks like a secret and stands in the inventory in plain text",
                "Encrypt it: `ansible-vault encrypt_string`, and put its output here",
                WARNING,
            )


def _grace(mesh: Mesh) -> Iterator[Problem]:
    """Find the services whose releases cut off requests that their callers would wait for.

    Answers without an end are cut off by any release, so nothing is said of them.
    """
    for service in mesh.services.values():
        if not isinstance(service.app, FlaskApp):
            continue
        seconds, where = max(_waits(mesh, service), default=(0.0, ""))
        if seconds > service.app.grace:
            yield Problem(
                f"mesh_services.{service.name}.app.grace",
                service.app.grace,
                f"is less than the {seconds:g} seconds that {where} gives a request: a new release"
                " cuts off those that run longer",
                f"Set it to {math.ceil(seconds)}, or lower that timeout",
                WARNING,
            )


def _waits(mesh: Mesh, service: Service) -> Iterator[tuple[float, str]]:
    """Yield the seconds that each caller waits for `service`, and what says so."""
    for caller in mesh.services.values():
        for call in caller.calls:
            if call.upstream == service.name and call.address is None:
                timeout = policies(service.given, call.given).timeout
                if timeout is not None:
                    yield timeout, f"mesh_services.{caller.name}.calls.{service.name}"
    for edge in mesh.edges.values():
        for route in edge.routes:
            if service.name in route.to:
                given = route_timeout(mesh, edge, route)
                if given is not None:
                    yield given, f"a route of {edge.name}, {route.match.kind} {route.match.value},"


def _said_of_collector(mesh: Mesh) -> Mapping[str, object]:
    given = mesh.given.get("mesh_tracing")
    said = given.get("collector") if isinstance(given, Mapping) else None
    return said if isinstance(said, Mapping) else {}


def _tracing(mesh: Mesh) -> Iterator[Problem]:
    tracing = mesh.tracing
    if tracing.group is not None and tracing.collector is not None:
        yield Problem(
            "mesh_tracing",
            ["collector", "group"],
            "has collector and group, which exclude one another",
            "Keep group for a Jaeger on a host of yours, collector for anything else",
        )
    yield from _tags("mesh_tracing", tracing.tags)
    for edge in mesh.edges.values():
        yield from _tags(f"{_of(edge)}.tracing", edge.tracing.tags)
    path = _said_of_collector(mesh).get("path")
    if path is not None and tracing.export == OTLP:
        yield Problem(
            "mesh_tracing.collector.path",
            path,
            "has no meaning with otlp, which is gRPC and has its own path",
            "Remove it, or set export to otlp_http",
        )
    if tracing.collector is not None:
        yield from _tls("mesh_tracing.collector.tls", tracing.collector.host, tracing.collector.tls)


def _cycles(mesh: Mesh) -> Iterator[Problem]:
    """Return each circle of calls once: such requests can go round for ever."""
    for circle in circles({name: _callees(service) for name, service in mesh.services.items()}):
        path = [*circle, circle[0]]
        if all(two in mesh.services for _, two in pairwise(path)):
            yield Problem(
                f"mesh_services.{circle[0]}.calls",
                circle[1],
                f"closes a circle: {' -> '.join(path)}",
                "Make sure that a request cannot go round it for ever, or remove a call",
                WARNING,
            )


def _callees(service: Service) -> list[str]:
    return [call.upstream for call in service.calls if call.upstream != service.name]


def circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Return one circle for each call in `graph` that closes one on a walk through it.

    Each begins with its first name by the alphabet. Calls that lead nowhere are left out.
    """
    found: dict[tuple[str, ...], None] = {}
    done: set[str] = set()
    for start in sorted(graph):
        path: list[str] = []
        branches = [iter([start])]
        while branches:
            name = next(branches[-1], None)
            if name is None:
                branches.pop()
                if path:
                    done.add(path.pop())
            elif name in path:
                circle = path[path.index(name) :]
                first = circle.index(min(circle))
                found[tuple(circle[first:] + circle[:first])] = None
            elif name not in done and name in graph:
                path.append(name)
                branches.append(iter(sorted(graph[name])))
    return [list(circle) for circle in found]
