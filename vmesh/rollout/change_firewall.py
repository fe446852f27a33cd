"""What opens and what closes in the firewall of a host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vmesh.base.words import shorter
from vmesh.compile.firewall import EVERYBODY, SSH
from vmesh.rollout.change_report import ADD, CHANGE, REMOVE, HostReport
from vmesh.rollout.change_roles import role_differs, role_words, setting_changes
from vmesh.rollout.record import HostRecord

_PART = "firewall"
# What can be reached: port, protocol, and who answers there.
_Target = tuple[str, str, str]


def compare_firewall(report: HostReport, old: HostRecord, new: HostRecord) -> None:
    """Say what opens and what closes on a host."""
    before, after = old["host"].get("firewall"), new["host"].get("firewall")
    if after is None:
        if before is not None:
            report.say(_PART, REMOVE, "goes: every port of the host can be reached")
        return
    if before is None:
        new_firewall(report, after)
        return
    was, becomes = _by_target(before), _by_target(after)
    for target in dict.fromkeys([*becomes, *was]):
        had, has = was.get(target, []), becomes.get(target, [])
        if opened := [each for each in has if each not in had]:
            text = f"{_words(target)} opens to {_names(opened, report.names_after)}"
            report.say(_PART, ADD, text)
        if closed := [each for each in had if each not in has]:
            text = f"{_words(target)} closes to {_names(closed, report.names_before)}"
            report.say(_PART, REMOVE, text)
    for text in setting_changes(old, new, "firewall_"):
        report.say(_PART, CHANGE, text)
    if role_differs(old, new, "firewall"):
        report.say(_PART, CHANGE, role_words("its unit"))


def new_firewall(report: HostReport, rules: Sequence[Mapping[str, Any]]) -> None:
    """Say that a firewall is new, and what it lets in."""
    report.say(_PART, ADD, "is new: drops new connections to the host, but for these")
    for target, sources in _by_target(rules).items():
        report.say(_PART, ADD, f"{_words(target)} from {_names(sources, report.names_after)}")


def _by_target(rules: Iterable[Mapping[str, Any]]) -> dict[_Target, list[str]]:
    found: dict[_Target, list[str]] = {}
    for rule in rules:
        target = str(rule["port"]), rule["protocol"], rule["what"]
        found.setdefault(target, []).extend(rule["sources"])
    return found


def _words(target: _Target) -> str:
    port, protocol, what = target
    if port == SSH:
        return SSH
    number = f"port {port}" if protocol == "tcp" else f"{protocol} port {port}"
    return f"{number} ({what})"


def _names(sources: Sequence[str], hosts: Mapping[str, str]) -> str:
    """Return networks as they are told: everybody, the names of hosts, or networks."""
    if set(EVERYBODY) <= set(sources):
        return "everybody"
    return shorter([hosts.get(each.removesuffix("/32"), each) for each in sources])
