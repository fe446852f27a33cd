"""Checks of edges whose certificates come by ACME: whether the authority can prove the names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from vmesh.base.problems import WARNING, Problem
from vmesh.compile.checks_names import edge_variable
from vmesh.compile.edge_tls_views import EVERYWHERE
from vmesh.model.types import Acme, Edge, Mesh

# https://letsencrypt.org/docs/rate-limits/: certificates for the same names in seven days.
_SAME_NAMES = 5


def check_acme(mesh: Mesh, hosts: Mapping[str, Sequence[str]]) -> Iterator[Problem]:
    """Find edges whose names cannot be proven; `hosts` are those of each edge."""
    for edge in mesh.edges.values():
        if edge.tls is not None and edge.tls.acme is not None:
            yield from _check_hosts(edge, edge.tls.acme, len(hosts.get(edge.name, ())))
            yield from _check_sites(edge, edge.tls.acme)


def _check_hosts(edge: Edge, acme: Acme, hosts: int) -> Iterator[Problem]:
    """Look at an edge with several hosts, of which the authority asks any one."""
    variable, names = f"{edge_variable(edge)}.tls.acme.domains", list(acme.domains)
    why = f"is proven to whichever of {hosts} hosts the authority asks, and "
    if hosts > 1 and edge.redirect_port is None:
        yield Problem(
            variable,
            names,
            f"{why}only over HTTP can a host pass the question on to the one that knows",
            f"Set redirect_port of {edge.name}, or leave one host in its group",
        )
    elif hosts > 1 and edge.proxy_protocol:
        yield Problem(
            variable,
            names,
            f"{why}with proxy_protocol a host cannot pass the question on to the one that knows",
            f"Use a certificate of your own for {edge.name}, or leave one host in its group",
        )
    elif hosts > 1 and edge.address != EVERYWHERE:
        yield Problem(
            variable,
            names,
            f"{why}at {edge.address} a host does not find the others",
            f"Remove `address` of {edge.name}, or leave one host in its group",
        )
    if hosts >= _SAME_NAMES:
        yield Problem(
            variable,
            names,
            f"is ordered by each of {hosts} hosts, and Let's Encrypt signs {_SAME_NAMES}"
            " certificates for the same names in seven days",
            f"Leave fewer hosts in the group of {edge.name}, or use a certificate of your own",
            WARNING,
        )


def _check_sites(edge: Edge, acme: Acme) -> Iterator[Problem]:
    """Look for sites for which the certificate is not."""
    for host in edge.virtual_hosts:
        for domain in host.domains:
            if domain != "*" and domain not in acme.domains:
                yield Problem(
                    f"{host.where}.domains",
                    domain,
                    f"is not in the certificate of {edge.name}: browsers refuse it",
                    "Add it to tls.acme.domains; an authority signs a name with * only after a"
                    " proof by DNS, which is for a certificate of your own",
                    WARNING,
                )
