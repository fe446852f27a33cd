"""What each host lets in, what is said of it, and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from plugins.module_utils.firewall_rules import ruleset, together, without
from tests.unit.mesh import worlds
from vmesh.compile.compiler import compile_mesh
from vmesh.rollout import changes, firewall_preflight
from vmesh.rollout.record import HostRecord

ANYBODY = ["0.0.0.0/0", "::/0"]


def mesh(**said: Any) -> dict[str, Any]:
    changed = copy.deepcopy(worlds.MESH)
    changed["mesh_firewall"] = {"enabled": True, **said}
    return changed


def states(**said: Any) -> dict[str, HostRecord]:
    return worlds.states(worlds.inventory(mesh(**said)))


def let_in(host: str, **said: Any) -> dict[str, list[str]]:
    """Return what a host lets in: port and protocol -> networks."""
    rules = states(**said)[host]["host"]["firewall"]
    return {f"{rule['port']}/{rule['protocol']}": rule["sources"] for rule in rules}


def compared(old: dict[str, HostRecord], new: dict[str, HostRecord]) -> list[str]:
    found = changes.compare(old, new, lambda _: {}, worlds.HOSTS)
    return [f"{each.host}: {each.text}" for each in found if each.part == "firewall"]


def test_without_the_key_no_host_has_one() -> None:
    spec = compile_mesh(worlds.inventory())
    assert {host.firewall for host in spec.hosts.values()} == {None}


def test_a_service_is_reached_from_the_hosts_of_its_callers() -> None:
    # web1 and web2 have the edge, shop1 the app that calls stock.
    assert let_in("store1") == {
        "ssh/tcp": ANYBODY,
        "9002/tcp": ["10.0.0.1/32", "10.0.0.2/32", "10.0.0.3/32"],
    }
    assert let_in("shop1") == {"ssh/tcp": ANYBODY, "9001/tcp": ["10.0.0.1/32", "10.0.0.2/32"]}


def test_callers_without_an_identity_are_let_in_by_network() -> None:
    said = mesh()
    said["mesh_services"]["stock"]["plaintext_from"] = ["10.8.0.0/24"]
    said["mesh_security"] = {"mtls": "permissive"}
    rules = compile_mesh(worlds.inventory(said)).hosts["store1"].firewall or ()
    assert [rule.sources[-1] for rule in rules if rule.port == 9002] == ["10.8.0.0/24"]


def test_spans_come_from_every_other_host_and_what_nobody_calls_is_closed() -> None:
    assert let_in("jaeger1") == {
        "ssh/tcp": ANYBODY,
        "4318/tcp": [f"10.0.0.{number}/32" for number in (1, 2, 3, 4, 5)],
    }


def test_an_edge_is_reached_by_everybody_and_its_admin_pages_by_operators() -> None:
    assert let_in("web1") == {"ssh/tcp": ANYBODY, "8000/tcp": ANYBODY}
    operators = ["10.9.0.0/24"]
    assert let_in("web1", operators=operators)["8001/tcp"] == operators
    assert let_in("jaeger1", operators=operators)["16686/tcp"] == operators


def test_an_edge_on_loopback_is_not_opened() -> None:
    said = mesh()
    said["mesh_edges"]["front"]["address"] = "127.0.0.1"
    host = compile_mesh(worlds.inventory(said)).hosts["web1"]
    assert [rule.port for rule in host.firewall or ()] == ["ssh"]


def test_the_users_own_openings_are_on_every_host() -> None:
    said: dict[str, Any] = {
        "ssh_from": ["10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32"],
        "open": [{"port": 161, "protocol": "udp", "from": ["10.9.0.5/32"]}],
    }
    for host in worlds.HOSTS:
        found = let_in(host, **said)
        # nft takes no network inside another.
        assert found["ssh/tcp"] == ["10.0.0.0/8", "2001:db8::/32"]
        assert found["161/udp"] == ["10.9.0.5/32"]


def test_the_order_of_openings_does_not_count_and_one_port_has_one_rule() -> None:
    one = {"port": 9100, "from": ["10.9.0.5/32"]}
    other = {"port": 161, "protocol": "udp", "from": ["10.9.0.5/32"]}
    assert states(open=[one, other, one]) == states(open=[other, one])
    wider = {"port": 9100, "from": ["10.9.0.0/16"]}
    assert let_in("web1", open=[one, wider])["9100/tcp"] == ["10.9.0.0/16"]


def test_a_plan_says_what_opens_and_closes() -> None:
    before = states()
    said = mesh(ssh_from=["10.0.0.0/8"])
    said["mesh_services"]["shop"]["calls"] = {"stock-next": {}}
    after = worlds.states(worlds.inventory(said))
    assert compared(before, after) == [
        "jaeger1: ssh opens to 10.0.0.0/8",
        "jaeger1: ssh closes to everybody",
        "jaeger1: port 9003 (stock-next) opens to shop1",
        "shop1: ssh opens to 10.0.0.0/8",
        "shop1: ssh closes to everybody",
        "store1: ssh opens to 10.0.0.0/8",
        "store1: ssh closes to everybody",
        "store1: port 9002 (stock) closes to shop1",
        "store2: ssh opens to 10.0.0.0/8",
        "store2: ssh closes to everybody",
        "store2: port 9002 (stock) closes to shop1",
        "web1: ssh opens to 10.0.0.0/8",
        "web1: ssh closes to everybody",
        "web2: ssh opens to 10.0.0.0/8",
        "web2: ssh closes to everybody",
    ]


def test_a_plan_says_that_a_firewall_comes_and_goes() -> None:
    found = compared(worlds.states(), states())
    assert "store1: is new: drops new connections to the host, but for these" in found
    assert "store1: port 9002 (stock) from web1, web2, shop1" in found
    assert "web1: port 8000 (front) from everybody" in found
    gone = compared(states(), worlds.states())
    assert "web1: goes: every port of the host can be reached" in gone
    assert compared(states(), states()) == []


def test_a_new_host_tells_its_firewall() -> None:
    assert "shop1: port 9001 (shop) from web1, web2" in compared({}, states())


def test_a_host_recorded_before_there_were_firewalls_changes_nothing_without_the_key() -> None:
    earlier = worlds.states()
    for state in earlier.values():
        del state["host"]["firewall"]
    assert compared(earlier, worlds.states()) == []
    assert changes.sentences(earlier, worlds.states(), lambda _: {}) == {}


def answers(**more: Any) -> dict[str, dict[str, Any]]:
    here = {"address": "10.20.0.9", "port": 22}
    return {host: {"nftables": True, "session": here, **more} for host in worlds.HOSTS}


def test_a_firewall_that_lets_the_controller_in_is_not_refused() -> None:
    assert firewall_preflight.refusals(states(), answers()) == []
    assert firewall_preflight.refusals(states(ssh_from=["10.20.0.0/16"]), answers()) == []
    local = answers(session={})
    assert firewall_preflight.refusals(states(ssh_from=["192.0.2.0/24"]), local) == []


@pytest.mark.parametrize(
    ("address", "add"), [("10.20.0.9", "10.20.0.9/32"), ("2001:db8::9", "2001:db8::9/128")]
)
def test_a_firewall_that_locks_the_controller_out_is_refused(address: str, add: str) -> None:
    given = answers(session={"address": address, "port": 22})
    found = firewall_preflight.refusals(states(ssh_from=["192.0.2.0/24"]), given)
    assert found[0] == (
        f"mesh_firewall.ssh_from: 192.0.2.0/24: leaves out {address}, from which this run reaches"
        f" {sorted(worlds.HOSTS)[0]}, so the firewall would lock you out. Add {add} or a network"
        " around it."
    )
    assert len(found) == len(worlds.HOSTS)


def test_hosts_without_nftables_are_named_together_with_the_package() -> None:
    given = answers()
    for host in ("shop1", "web1"):
        given[host]["nftables"] = False
    (found,) = firewall_preflight.refusals(states(), given)
    assert "the package nftables is missing on shop1, web1." in found
    # Who wants no firewall needs no package.
    assert firewall_preflight.refusals(worlds.states(), answers(nftables=False)) == []


def test_hosts_take_part_that_have_one_or_are_to_have_one() -> None:
    given = {**answers(firewall=False), "web1": {"firewall": True}}
    assert firewall_preflight.with_firewall(worlds.states(), given) == ["web1"]
    assert set(firewall_preflight.with_firewall(states(), given)) == set(worlds.HOSTS)
    assert firewall_preflight.with_firewall({}, given) == ["web1"]


def rule(port: str, *sources: str) -> dict[str, Any]:
    return {"port": port, "protocol": "tcp", "what": "shop", "sources": list(sources)}


def test_rules_are_compared_network_by_network() -> None:
    one, other = [rule("1", "a", "b"), rule("2", "a")], [rule("1", "b", "c")]
    assert without(one, other) == [rule("1", "a"), rule("2", "a")]
    assert without(one, one) == []
    assert together(one, other) == [*one, rule("1", "c")]


def test_a_rule_for_nobody_lets_nobody_in() -> None:
    text = ruleset([rule("9001")], 22, drop=True)
    assert "9001" not in text
    assert "policy drop" in text
