"""Checks of names: services, edges, ports and domains are there once, and names lead somewhere.

What the other checks need to know of a name is here too: whether it is a service's, whether a call
leads outside of the mesh, and which known name was probably meant.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from vmesh.base.problems import Problem
from vmesh.model.types import MAIN, Call, Edge, Mesh


def unknown_name_remedy(name: str, known: Iterable[str], otherwise: str) -> str:
    """Return what to do about a `name` that is none of `known`: the nearest, if one is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    near = [each for each in near if each != name]
    if not near:
        return otherwise
    return f"Did you mean `{near[0]}`? If not, {otherwise[0].lower()}{otherwise[1:]}"


def check_names(mesh: Mesh) -> Iterator[Problem]:
    """Find names that two things have."""
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
                f"{edge_variable(edge)}.virtual_hosts",
                MAIN,
                "is the name that the edge's own routes have",
                "Give this virtual host another name",
            )


def check_ports(mesh: Mesh) -> Iterator[Problem]:
    """Find ports that two services have."""
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


def unknown_service(
    mesh: Mesh, place: str, name: str, remedy: str, *, outside: Iterable[str] = ()
) -> Problem:
    """Return that `name` is no service; `remedy` is what to do but describing or renaming it.

    outside: names of addresses outside the mesh that may have been meant as well
    """
    return Problem(
        place,
        name,
        "is not a service of this mesh",
        unknown_name_remedy(
            name, [*mesh.services, *outside], f"Describe it under mesh_services, {remedy}"
        ),
    )


def known_services(mesh: Mesh) -> str:
    """Return the names of all services, as a remedy lists them."""
    return ", ".join(sorted(mesh.services)) or "none"


def is_service(mesh: Mesh, name: str) -> bool:
    """Tell whether `name` is described as a service, even if wrongly.

    Where there is no service at all, that is the one mistake, and not each name of one.
    """
    given = mesh.given.get("mesh_services")
    return (
        not mesh.services or name in mesh.services or (isinstance(given, Mapping) and name in given)
    )


def leads_outside(mesh: Mesh, where: str, call: Call) -> bool:
    """Tell whether the user meant an address, even one that is wrong."""
    if call.address is not None:
        return True
    kind, _, name = where.partition(".")
    given = mesh.given.get(kind, {}).get(name, {}).get("calls", {}).get(call.upstream)
    return isinstance(given, Mapping) and ("host" in given or "port" in given)


def edge_variable(edge: Edge) -> str:
    """Return the variable that describes `edge`."""
    return f"mesh_edges.{edge.name}"


def check_domains(mesh: Mesh) -> Iterator[Problem]:
    """Find domains that two virtual hosts of an edge answer for."""
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
