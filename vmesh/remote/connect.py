"""How to reach a VM, the edge and Jaeger, all from the inventory. Pure functions."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import re2

from vmesh.model.types import Edge, Match, VirtualHost

HostVars = Mapping[str, Any]


def ssh_command(
    name: str,
    host: HostVars,
    remote: Sequence[str] = (),
    *,
    batch: bool = True,
    options: Sequence[str] = (),
) -> list[str]:
    """Return the ssh command for the VM `name` with the connection variables Ansible would use.

    `batch` never asks for anything and gives up after 15 s, for use without a person. `options`
    are further ones of ssh.
    """
    command = ["ssh", *options]
    if batch:
        command += ["-o", "BatchMode=yes", "-o", "ConnectTimeout=15"]
    port = host.get("ansible_ssh_port") or host.get("ansible_port")
    if port:
        command += ["-p", str(port)]
    key = host.get("ansible_ssh_private_key_file") or host.get("ansible_private_key_file")
    if key:
        command += ["-i", str(key)]
    for variable in ("ansible_ssh_common_args", "ansible_ssh_extra_args"):
        command += shlex.split(str(host.get(variable) or ""))
    user = host.get("ansible_ssh_user") or host.get("ansible_user")
    if user:
        command += ["-l", str(user)]
    address = host.get("ansible_ssh_host") or host.get("ansible_host") or name
    return [*command, str(address), *remote]


def published(host: HostVars) -> dict[int, int]:
    """Return VM port -> port on the controller's 127.0.0.1, for a VM of the lab."""
    ports = host.get("lab_publish") or {}
    return {int(inside): int(outside) for outside, inside in ports.items()}


def reach(host: HostVars, port: int, address: str | None = None) -> tuple[str, int]:
    """Return address and port under which the controller reaches `port` of a VM.

    Lab VMs publish ports on 127.0.0.1; any other VM is reached at `address`, or else at its
    mesh address.
    """
    outside = published(host).get(port)
    if outside is not None:
        return "127.0.0.1", outside
    if address in (None, "", "0.0.0.0"):
        address = host.get("mesh_address") or host.get("ansible_host")
    return str(address), port


def url(
    host: HostVars, port: int, path: str = "/", address: str | None = None, scheme: str = "http"
) -> str:
    """Return the URL of `path` at `port` of a VM as the controller reaches it."""
    name, outside = reach(host, port, address)
    return f"{scheme}://{name}:{outside}{path if path.startswith('/') else '/' + path}"


def host_for(edge: Edge, path: str) -> str | None:
    """Return the Host header under which `edge` has a route for `path`; None: any will do."""
    fitting = [
        site
        for site in edge.virtual_hosts
        if any(_fits(route.match, path) for route in site.routes)
    ]
    hosts = [_host_of(site) for site in fitting or edge.virtual_hosts]
    return None if None in hosts or not hosts else hosts[0]


def _fits(match: Match, path: str) -> bool:
    bare = path.partition("?")[0]
    if match.kind == "prefix":
        return bare.startswith(match.value)
    if match.kind == "path":
        return bare == match.value
    return re2.fullmatch(match.value, bare) is not None


def usual_request(edge: Edge) -> tuple[str | None, str]:
    """Return the Host header (None: any will do) and the path to request when nobody says.

    That is the edge's first route below /trace, else its first one, of those that lead to a
    service and need no particular header; else `/`.
    """
    found = [
        (_host_of(site), route.match.value)
        for site in edge.virtual_hosts
        for route in site.routes
        if route.to
        and route.match.kind != "regex"
        and not route.match.headers
        and (not route.match.methods or "GET" in route.match.methods)
    ]
    preferred = [each for each in found if each[1].startswith("/trace")]
    return (preferred or found or [(None, "/")])[0]


def _host_of(site: VirtualHost) -> str | None:
    if "*" in site.domains:
        return None
    return site.domains[0].replace("*.", "www.")
