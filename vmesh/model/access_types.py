"""Who may reach the hosts of a mesh, and how its proxies prove who they are: types of the model."""

from __future__ import annotations

from dataclasses import dataclass

# Modes of mTLS between the proxies.
OFF, PERMISSIVE, STRICT = "off", "permissive", "strict"
# What becomes of a caller that names the service nowhere.
ENFORCE, WATCH = "enforce", "watch"


@dataclass(frozen=True)
class Opening:
    """A port that can be reached from some networks; `protocol` is "tcp" or "udp"."""

    port: int
    protocol: str
    networks: tuple[str, ...]


@dataclass(frozen=True)
class Firewall:
    """Who, beside the mesh itself, may connect to its hosts: networks for ssh, pages and `open`."""

    enabled: bool
    ssh_from: tuple[str, ...]
    operators: tuple[str, ...]
    open: tuple[Opening, ...]


@dataclass(frozen=True)
class Security:
    """Who may talk to whom, and how that is proven.

    mtls: one of the modes OFF, PERMISSIVE, STRICT; trust_domain: None for that of the inventory
    authorization: ENFORCE or WATCH; revoked: names of hosts
    """

    mtls: str
    trust_domain: str | None
    leaf_hours: int
    authorization: str
    revoked: tuple[str, ...]
    accept_expired: bool
