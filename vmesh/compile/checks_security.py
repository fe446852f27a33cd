"""Checks of who may talk to whom, and how that is proven."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterator

from vmesh.base.problems import WARNING, Problem
from vmesh.model.access_types import OFF
from vmesh.model.types import Mesh

_PLACE = "mesh_security"


def check_security(mesh: Mesh) -> Iterator[Problem]:
    """Find what leaves a mesh open, or has no meaning."""
    security = mesh.security
    if security.accept_expired:
        yield Problem(
            f"{_PLACE}.accept_expired",
            True,
            "lets in every identity that has ever been stolen",
            "Have the hosts renew theirs (`./mesh certs renew`), and remove it",
            WARNING,
        )
    if security.revoked and security.mtls == OFF:
        yield Problem(
            f"{_PLACE}.revoked",
            list(security.revoked),
            "has no meaning: without mTLS nobody knows which host calls",
            f"Set {_PLACE}.mtls to permissive or strict, or remove it",
        )
    said = {f"mesh_services.{each.name}": each.plaintext_from for each in mesh.services.values()}
    said["mesh_tracing"] = mesh.tracing.plaintext_from
    for place, networks in said.items():
        for network in networks:
            if not ipaddress.IPv4Network(network).prefixlen:
                yield Problem(
                    f"{place}.plaintext_from",
                    network,
                    "lets everybody in without an identity",
                    "Name the networks of the callers that cannot speak mTLS, as in 10.0.9.7/32",
                )


def check_revoked(mesh: Mesh, hosts: Collection[str]) -> Iterator[Problem]:
    """Find hosts that are to be trusted by nobody, and still run a part of the mesh (`hosts`)."""
    for host in mesh.security.revoked:
        if host in hosts:
            yield Problem(
                f"{_PLACE}.revoked",
                host,
                "runs a part of the mesh still, which nobody would hear",
                "Take the host out of its groups",
            )
