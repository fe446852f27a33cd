# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""The rules of the host's firewall as data, and as the text that nft(8) takes.

Pure. A rule is {port, protocol, what, sources}: networks in `sources` may connect to `port`, where
`what` answers. The port `ssh` stands for the one by which Ansible came in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Rule = Mapping[str, Any]

TABLE = ("inet", "vmesh")
SSH = "ssh"
# A table is replaced as one transaction: it is made where it lacks, so that it can be deleted.
# https://wiki.nftables.org/wiki-nftables/index.php/Atomic_rule_replacement
REPLACED = f"table {' '.join(TABLE)}\ndelete table {' '.join(TABLE)}\n"
# What every host needs: its own connections, errors and tests of the path (without ICMP the size of
# packets is never found), neighbours of IPv6, and an address of its own by DHCP. The protocols are
# numbers, ICMP and ICMPv6, because a small host has no /etc/protocols with their names.
ALWAYS = (
    "iif lo accept",
    "ct state established,related accept",
    "meta l4proto { 1, 58 } accept",
    "meta nfproto ipv4 udp sport 67 udp dport 68 accept",
    "ip6 saddr fe80::/10 udp sport 547 udp dport 546 accept",
)
# Broadcasts are left out, or they alone would fill the log.
DROPPED = 'meta pkttype host limit rate 5/minute log prefix "vmesh drops: "'


def ruleset(rules: Sequence[Rule], ssh_port: int, *, drop: bool) -> str:
    """Return the text that replaces vmesh's own table, and touches no other.

    drop: whether all else is dropped. A table that drops nothing makes the kernel follow the
        connections that are open already: later they count as established.
    """
    lines = [*ALWAYS, *(line for rule in rules for line in _lines(rule, ssh_port))]
    lines += [DROPPED] if drop else []
    body = "".join(f"\t\t{line}\n" for line in lines)
    return (
        f"{REPLACED}table {' '.join(TABLE)} {{\n\tchain input {{\n"
        f"\t\ttype filter hook input priority filter; policy {'drop' if drop else 'accept'};\n"
        f"{body}\t}}\n}}\n"
    )


def _lines(rule: Rule, ssh_port: int) -> list[str]:
    port = ssh_port if rule["port"] == SSH else int(rule["port"])
    found = []
    for family in ("ip", "ip6"):
        sources = [each for each in rule["sources"] if (":" in each) == (family == "ip6")]
        if sources:
            found.append(
                f"{family} saddr {{ {', '.join(sources)} }} {rule['protocol']} dport {port} accept"
                f' comment "{rule["what"]}"'
            )
    return found


def without(rules: Sequence[Rule], others: Sequence[Rule]) -> list[Rule]:
    """Return what `rules` let in and `others` do not, rule for rule."""
    known: dict[tuple[Any, ...], set[str]] = {}
    for rule in others:
        known.setdefault(_target(rule), set()).update(rule["sources"])
    found: list[Rule] = []
    for rule in rules:
        there = known.get(_target(rule), set())
        if sources := [each for each in rule["sources"] if each not in there]:
            found.append({**rule, "sources": sources})
    return found


def together(rules: Sequence[Rule], others: Sequence[Rule]) -> list[Rule]:
    """Return rules that let in what either of the two lets in."""
    return [*rules, *without(others, rules)]


def _target(rule: Rule) -> tuple[Any, ...]:
    return str(rule["port"]), rule["protocol"], rule["what"]
