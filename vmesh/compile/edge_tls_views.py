"""The views of an edge that speaks TLS: its certificate, the port for redirects, ACME."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from vmesh.compile import acme_views, listener_views, route_views
from vmesh.compile.host_spec import View
from vmesh.model.types import Acme, Edge

REDIRECT = "redirect"
HTTPS_PORT = 443
# Listens at all addresses of a host.
EVERYWHERE = "0.0.0.0"
# The lab's edges are reached here.
_LOOPBACK = ("localhost", "127.0.0.1")
# The name of the secret that has the edge's certificate, and of its file.
CERTIFICATE = "certificate"


def listener_tls(edge: Edge) -> View:
    """Return what the listener for clients has for TLS: nothing where it speaks HTTP.

    tls: the oldest version, the name of the certificate, and the `folder` of its file where that
        is not among the proxy's own files
    challenges: where proofs by tls-alpn-01 go
    """
    if edge.tls is None:
        return {}
    made_there = edge.tls.acme or edge.tls.local
    folder = PurePosixPath(acme_views.certificate(edge.name)).parent if made_there else None
    own = {
        "minimum": edge.tls.minimum,
        "certificate": CERTIFICATE,
        "folder": str(folder) if folder else None,
    }
    found: View = {"tls": own}
    if edge.tls.acme and edge.redirect_port is None:
        found["challenges"] = acme_views.HERE
    return found


def certificates(edge: Edge) -> View:
    """Return the certificates among the proxy's files: name -> where it and its key are.

    `certificate` is a path on the controller and `key` a text; `certificate_on_host` and
    `key_on_host` are paths on the host.
    """
    if edge.tls is None or edge.tls.acme or edge.tls.local:
        return {}
    said = edge.tls
    if said.certificate is not None:
        return {CERTIFICATE: {"certificate": said.certificate, "key": said.key}}
    on_host = {"certificate_on_host": said.certificate_on_host, "key_on_host": said.key_on_host}
    return {CERTIFICATE: on_host}


def redirects(edge: Edge) -> list[View]:
    """Return the listener that sends clients of HTTP to HTTPS, where there is one."""
    if edge.redirect_port is None:
        return []
    return [
        listener_views.listener(
            REDIRECT,
            "INBOUND",
            edge.address,
            edge.redirect_port,
            tracing=None,
            websocket="never",
            http10_host=listener_views.http10_host(edge),
            edge=edge,
        )
    ]


def redirect_table(edge: Edge, others: int) -> View:
    """Return the routes at the port for redirects; `others` is how many more hosts the edge has."""
    redirect: View = {
        "match": {"prefix": "/", "headers": []},
        # A URL without a port means this one.
        "redirect": {
            "scheme": "https",
            "port": None if edge.port == HTTPS_PORT else edge.port,
            "status": 301,
        },
        "operation": None,
        "filters": {},
        "tracing": None,
    }
    challenges = acme_views.routes(others) if _acme(edge) else []
    return route_views.table([*challenges, redirect])


def clusters(edge: Edge, others: Sequence[str]) -> list[View]:
    """Return where ACME's challenges go; `others` are the addresses of the edge's other hosts."""
    if _acme(edge) is None:
        return []
    port = edge.redirect_port
    return acme_views.clusters(edge.name, [(each, port) for each in others] if port else [])


def local_settings(edge: Edge, address: str) -> View:
    """Return for what a host at `address` signs the edge's certificate itself, where it does.

    It is where the certificate helper would have one.
    """
    if edge.tls is None or not edge.tls.local:
        return {}
    names = {domain.removesuffix(".") for host in edge.virtual_hosts for domain in host.domains}
    names |= {*_LOOPBACK, _reached_at(edge, address)}
    certificate = acme_views.certificate(edge.name)
    return {"local": {"certificate": certificate, "names": sorted(names - {"*"})}}


def acme_settings(edge: Edge, address: str) -> View:
    """Return what the helper that orders certificates is told; `address` is that of its host."""
    acme = _acme(edge)
    if acme is None:
        return {}
    here = f"{_reached_at(edge, address)}:{edge.redirect_port or edge.port}"
    # Behind the PROXY protocol the helper cannot ask the edge whether it answers.
    listens = None if edge.proxy_protocol else here
    challenge = acme_views.HTTP if edge.redirect_port else acme_views.TLS_ALPN
    return {"acme": acme_views.settings(edge.name, acme, challenge, listens)}


def _reached_at(edge: Edge, address: str) -> str:
    """Return the address at which a host at `address` has the edge."""
    return address if edge.address == EVERYWHERE else edge.address


def _acme(edge: Edge) -> Acme | None:
    return edge.tls.acme if edge.tls else None
