"""The specs: what the inventory means for the mesh and for each host, as plain data.

`vmesh.compile.compiler` makes them; rendering, the roles and the commands only read them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from vmesh.base.problems import Problem
from vmesh.model.types import FlaskApp, Mesh

# What a template in files/envoy/ is rendered from; the template adds Envoy's language and nothing
# of the mesh. Times are seconds, percentages 0 to 100.
View = dict[str, Any]
# The part of that name, and the Envoy before it; no service or edge may have it.
JAEGER = "jaeger"
# The kind of that Envoy.
GUARD = "guard"


@dataclass(frozen=True)
class Port:
    """An address that something of the mesh listens on, and what it is for."""

    address: str
    port: int
    what: str


@dataclass(frozen=True)
class ProxySpec:
    """One Envoy: `view` is what the templates are rendered from."""

    name: str
    kind: str  # "service", "edge" or "guard"
    user: str
    unit: str
    ports: tuple[Port, ...]
    view: View


@dataclass(frozen=True)
class FlaskSpec(FlaskApp):
    """One instance of a Flask service: its app, with all of its environment, and its place."""

    name: str
    socket: str
    socket_group: str
    unit: str
    address: str
    port: int


@dataclass(frozen=True)
class ExternalSpec:
    """An app that vmesh does not run: where it listens, and the environment offered to it."""

    name: str
    listening: str
    environment: dict[str, str]


@dataclass(frozen=True)
class JaegerSpec:
    """The Jaeger of the mesh. `endpoints` ("address:port") are what its configuration names."""

    endpoints: dict[str, str]
    unit: str
    ports: tuple[Port, ...]


@dataclass(frozen=True)
class Opened:
    """A port of a host that can be reached from `sources`, which are networks.

    port: a number, or "ssh" for the port that Ansible came in by
    what: whom one reaches there, in a word or two
    """

    port: int | str
    protocol: str
    what: str
    sources: tuple[str, ...]


@dataclass(frozen=True)
class HostIdentity:
    """What a host needs to renew the identities of its proxies.

    name: of the host in its mesh, as in web1.shop.mesh; identities: by proxy
    """

    name: str
    identities: dict[str, str]
    leaf_hours: int


@dataclass(frozen=True)
class HostSpec:
    """All that runs on one host. `zone` is None where the inventory names none.

    `needs_authorities`: a certificate is verified with the host's own bundle of authorities.
    `firewall`: all that can be reached from outside the host; None where vmesh has no firewall
    """

    address: str
    zone: str | None
    needs_authorities: bool
    proxies: tuple[ProxySpec, ...]
    flask_services: tuple[FlaskSpec, ...]
    external_apps: tuple[ExternalSpec, ...]
    jaeger: JaegerSpec | None
    firewall: tuple[Opened, ...] | None = None
    identity: HostIdentity | None = None


@dataclass(frozen=True)
class MeshSpec:
    """What the inventory means: host name -> what runs there; and what to be told of it."""

    hosts: dict[str, HostSpec]
    mesh: Mesh
    warnings: tuple[Problem, ...] = ()


def egress_address(proxy: str) -> str:
    """Return the loopback address on which `proxy` offers its upstreams to its own app.

    It follows from the name alone, so no change elsewhere in the mesh ever moves it. The
    first two addresses of 127/8's blocks stay clear of 127.0.0.1 and Debian's 127.0.1.1.
    """
    digest = hashlib.sha256(proxy.encode()).digest()
    return f"127.{1 + digest[0] % 254}.{digest[1]}.{1 + digest[2] % 254}"


def external_egress_address(proxy: str, call: str) -> str:
    """Return the loopback address on which `proxy` offers an address outside the mesh.

    It is the call's own: such an address comes with any port, a service's port too.
    """
    return egress_address(f"{proxy}/{call}")


def url_variable(upstream: str) -> str:
    """Return the environment variable that tells an app where `upstream` is."""
    return upstream.upper().replace("-", "_") + "_URL"


def app_socket(service: str) -> str:
    """Return the unix socket on which gunicorn serves `service`."""
    return f"/run/flask/{service}/app.sock"


def admin_socket(proxy: str) -> str:
    """Return the unix socket of the admin interface of `proxy`; its mode is its guard."""
    return f"/run/envoy/{proxy}/admin.sock"


def user(proxy: str) -> str:
    """Return the system user of `proxy`."""
    return f"envoy-{proxy}"
