"""Checks of calls: where they lead, policies that do not fit together, TLS, circles of calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise

from vmesh.base.formats import is_ipv4
from vmesh.base.problems import WARNING, Problem
from vmesh.compile.checks_names import (
    is_service,
    known_services,
    leads_outside,
    unknown_service,
)
from vmesh.compile.edge_route_views import upstream_protocol
from vmesh.model.parse import policies
from vmesh.model.types import GRPC, HTTP1, Call, FlaskApp, Mesh, Service, Tls


def check_service_calls(mesh: Mesh) -> Iterator[Problem]:
    """Find what is wrong with the calls of services, and with their own policies."""
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
            elif not is_service(mesh, call.upstream) and not leads_outside(mesh, where, call):
                yield _unknown_upstream(mesh, where, call, "call")
            yield from _call(f"{where}.calls.{call.upstream}", mesh, service.calls, call)


def check_edge_calls(mesh: Mesh) -> Iterator[Problem]:
    """Find what is wrong with the calls of edges."""
    for edge in mesh.edges.values():
        where = f"mesh_edges.{edge.name}"
        used = edge.upstreams
        for call in edge.calls:
            if not is_service(mesh, call.upstream) and not leads_outside(mesh, where, call):
                yield _unknown_upstream(mesh, where, call, "name")
            elif edge.routes and call.upstream not in used:
                yield Problem(
                    f"{where}.calls",
                    call.upstream,
                    "is where no route of this edge leads",
                    "Remove it, or add a route",
                    WARNING,
                )
            yield from _call(f"{where}.calls.{call.upstream}", mesh, edge.calls, call)


def _unknown_upstream(mesh: Mesh, where: str, call: Call, verb: str) -> Problem:
    """Return that the upstream of `call` is unknown; the remedy is to `verb` a service."""
    remedy = f"{verb} one of: {known_services(mesh)}; or say its host and port"
    return unknown_service(mesh, f"{where}.calls", call.upstream, remedy)


def _call(where: str, mesh: Mesh, calls: Iterable[Call], call: Call) -> Iterator[Problem]:
    if call.address is not None:
        if call.upstream in mesh.services:
            yield Problem(
                where,
                call.address.host,
                f"is an address outside the mesh, and {call.upstream} is a service of it",
                "Give this call another name, or remove its host and port",
            )
        yield from check_tls(f"{where}.tls", call.address.host, call.address.tls)
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


def check_tls(where: str, host: str, tls: Tls | None) -> Iterator[Problem]:
    """Find what is wrong with the TLS to `host`."""
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


def check_cycles(mesh: Mesh) -> Iterator[Problem]:
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
