"""What speaks against a firewall on a host, found out before anything changes.

Pure. It takes what the hosts answered (plugins/modules/host_info.py).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vmesh.compile.firewall import SSH
from vmesh.rollout.record import HostRecord


def refusals(
    wanted: Mapping[str, HostRecord], answers: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Return, in sentences, why hosts cannot have their firewall: it is missing, or locks us out.

    wanted: host -> its state as the inventory means it; answers: host -> what it said of itself
    """
    rules = {
        host: found for host, state in wanted.items() if (found := state["host"].get("firewall"))
    }
    found = []
    if lacking := [host for host in rules if not answers[host]["nftables"]]:
        found.append(
            f"mesh_firewall.enabled: the package nftables is missing on {', '.join(lacking)}."
            " Install it there (`apt-get install nftables`), or leave mesh_firewall out."
        )
    for host, opened in rules.items():
        address = answers[host]["session"].get("address")
        networks = _ssh_from(opened)
        if address is not None and not _contains(networks, address):
            found.append(
                f"mesh_firewall.ssh_from: {', '.join(networks)}: leaves out {address}, from which"
                f" this run reaches {host}, so the firewall would lock you out. Add"
                f" {ipaddress.ip_network(address)} or a network around it."
            )
    return found


def with_firewall(
    wanted: Mapping[str, HostRecord], answers: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Return the hosts that have a firewall of vmesh, or are to have one."""
    return [
        host
        for host, answer in answers.items()
        if answer.get("firewall") or (host in wanted and wanted[host]["host"].get("firewall"))
    ]


def _ssh_from(opened: Iterable[Mapping[str, Any]]) -> Sequence[str]:
    return [network for rule in opened if rule["port"] == SSH for network in rule["sources"]]


def _contains(networks: Iterable[str], address: str) -> bool:
    where = ipaddress.ip_address(address)
    return any(where in ipaddress.ip_network(network) for network in networks)
