"""Who takes part in a change, after whom, and with whom never."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest

from vmesh.model.types import RolloutPolicy
from vmesh.rollout.batches import Member, batches, in_the_way, rollout, size

HostRecord = dict[str, Any]
SETTINGS = RolloutPolicy(
    canary=1, batch="25%", max_fail=0, observe=0, max_error_increase=5.0, max_slowdown=3.0
)


def settings(**said: Any) -> RolloutPolicy:
    return RolloutPolicy(**{**SETTINGS.__dict__, **said})


def state(*services: str, edge: str | None = None, jaeger: bool = False) -> HostRecord:
    """A host with these parts, as vmesh.rollout.record describes it."""
    proxies = [{"name": name, "kind": "service", "view": {}} for name in services]
    proxies += [{"name": edge, "kind": "edge", "view": {}}] if edge else []
    return {
        "versions": {"envoy": "1.40.0"},
        "bundles": dict.fromkeys(services, "v1"),
        "roles": {"envoy": "e", "flask_service": "f"},
        "settings": {},
        "files": {},
        "left": [],
        "host": {
            "proxies": proxies,
            "flask_services": [{"name": name, "workers": 1} for name in services],
            "jaeger": {"unit": "jaeger.service"} if jaeger else None,
        },
    }


def parts(state: HostRecord) -> list[str]:
    host = state["host"]
    found = [f"envoy@{proxy['name']}" for proxy in host["proxies"]]
    found += [f"flask@{service['name']}" for service in host["flask_services"]]
    return [*found, *(["jaeger"] if host["jaeger"] else [])]


MESH = {
    "edge1": state(edge="front"),
    "edge2": state(edge="front"),
    "web1": state("shop"),
    "web2": state("shop"),
    "web3": state("shop"),
    "both": state("shop", "stock"),
    "traces": state(jaeger=True),
}


def everything(mesh: dict[str, HostRecord]) -> dict[str, list[str]]:
    return {host: parts(each) for host, each in mesh.items()}


def with_release(mesh: dict[str, HostRecord], service: str) -> dict[str, HostRecord]:
    changed = copy.deepcopy(mesh)
    for each in changed.values():
        if service in each["bundles"]:
            each["bundles"][service] = "v2"
    return changed


def test_bare_hosts_get_everything_first_and_are_done() -> None:
    found = rollout(MESH, {}, dict.fromkeys(MESH, ()), SETTINGS)
    assert found.new == {host: tuple(parts(each)) for host, each in MESH.items()}
    assert (found.batches, found.steady, found.removed) == ((), (), {})


def test_where_nothing_changes_all_take_part_at_once() -> None:
    found = rollout(MESH, MESH, everything(MESH), SETTINGS)
    assert (found.new, found.batches) == ({}, ())
    assert found.steady == tuple(MESH)


def test_a_release_goes_to_one_replica_at_a_time() -> None:
    found = rollout(with_release(MESH, "shop"), MESH, everything(MESH), SETTINGS)
    assert found.steady == ("edge1", "edge2", "traces")
    # `both` is a canary of its own kind, stock, and yet waits for the first instance of shop.
    assert found.batches == (("web1",), ("both",), ("web2",), ("web3",))


def test_a_changed_configuration_goes_to_a_canary_of_each_kind_and_then_in_batches() -> None:
    changed = copy.deepcopy(MESH)
    for each in changed.values():
        each["files"] = {"changed": "by all"}
    found = rollout(changed, MESH, everything(MESH), settings(batch=2))
    assert found.batches == (("edge1", "web1", "both", "traces"), ("edge2", "web2"), ("web3",))


def test_a_host_that_was_never_recorded_is_taken_for_one_on_which_all_changes() -> None:
    recorded = {host: each for host, each in MESH.items() if host not in ("web2", "web3")}
    found = rollout(MESH, recorded, everything(MESH), SETTINGS)
    assert found.batches == (("web2",), ("web3",))


def test_a_host_on_which_a_run_was_interrupted_is_not_taken_for_unchanged() -> None:
    found = rollout(MESH, MESH, everything(MESH), SETTINGS, {"web2"})
    assert found.batches == (("web2",),)
    assert "web2" not in found.steady


def test_what_is_new_on_a_host_comes_first_and_the_host_changes_with_the_others() -> None:
    changed = {**MESH, "web3": state("shop", "stock")}
    found = rollout(changed, MESH, everything(MESH), SETTINGS)
    assert found.new == {"web3": ("envoy@stock", "flask@stock")}
    assert found.batches == (("web3",),)


def test_what_left_the_inventory_is_removed_if_this_inventory_put_it_there() -> None:
    changed = {**MESH, "both": state("shop")}
    there = {**everything(MESH), "web1": [*parts(MESH["web1"]), "envoy@strange"]}
    assert rollout(changed, MESH, there, SETTINGS).removed == {
        "both": ("envoy@stock", "flask@stock")
    }
    # It was told of earlier, and is gone by now.
    left = {**MESH, "web1": {**MESH["web1"], "left": ["envoy@old", "flask@gone"]}}
    there = {**everything(MESH), "web1": [*parts(MESH["web1"]), "envoy@old"]}
    assert rollout(MESH, left, there, SETTINGS).removed == {"web1": ("envoy@old",)}


@pytest.mark.parametrize(
    ("change", "alone"),
    [
        (("bundles", {"shop": "v2"}), True),
        (("settings", {"flask_service_log_level": "debug"}), True),
        (("settings", {"envoy_log_level": "debug"}), False),
        (("roles", {"envoy": "e", "flask_service": "changed"}), True),
        (("versions", {"envoy": "1.39.3"}), False),
        (("files", {"shop": "changed"}), False),
    ],
)
def test_who_must_not_share_a_batch(change: tuple[str, Any], alone: bool) -> None:
    mesh = {host: MESH[host] for host in ("web1", "web2", "web3")}
    key, value = change
    changed = {host: {**each, key: value} for host, each in mesh.items()}
    found = rollout(changed, mesh, everything(mesh), settings(batch=10))
    assert [len(batch) for batch in found.batches] == ([1, 1, 1] if alone else [1, 2])


@pytest.mark.parametrize(
    ("batch", "hosts", "expected"), [("25%", 40, 10), ("25%", 3, 1), ("100%", 7, 7), (3, 40, 3)]
)
def test_size_of_a_batch(batch: int | str, hosts: int, expected: int) -> None:
    assert size(batch, hosts) == expected


def test_any_rollout_keeps_its_promises() -> None:
    """Each host once, canaries of every kind first, no two replicas that are renewed together."""
    chance = random.Random(5)
    for _ in range(300):
        kinds = [f"k{number}" for number in range(chance.randint(1, 5))]
        members = []
        for number in range(chance.randint(1, 20)):
            own = frozenset(chance.sample(kinds, chance.randint(1, len(kinds))))
            exclusive = frozenset(kind for kind in own if chance.random() < 0.3)
            members.append(Member(f"h{number}", own, exclusive))
        most = chance.randint(1, 6)
        canary = chance.randint(1, 2)
        found = batches(members, settings(batch=most, canary=canary))
        by_name = {member.host: member for member in members}
        order = [by_name[host] for batch in found for host in batch]
        assert sorted(member.host for member in order) == sorted(by_name)
        for batch in found:
            taken = [kind for host in batch for kind in by_name[host].exclusive]
            assert len(taken) == len(set(taken))
        # Once a host comes that is no canary, there have been enough of each of its kinds.
        seen: dict[str, int] = {}
        begun = False
        for member in order:
            wanted = any(seen.get(kind, 0) < canary for kind in member.kinds)
            if not wanted:
                begun = True
            for kind in member.kinds:
                seen[kind] = seen.get(kind, 0) + 1
        assert begun or len(order) <= canary * len(kinds)


def listening(state: HostRecord, name: str, address: str, port: int) -> HostRecord:
    """Return `state` with a listener for the proxy `name`."""
    changed = copy.deepcopy(state)
    for proxy in changed["host"]["proxies"]:
        if proxy["name"] == name:
            proxy["view"] = {"listeners": [{"name": "in", "address": address, "port": port}]}
    return changed


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        # Another name for the same edge.
        (("front", "10.0.0.1", 8000), ("shop", "10.0.0.1", 8000), True),
        (("front", "0.0.0.0", 8000), ("shop", "10.0.0.1", 8000), True),
        (("front", "10.0.0.1", 8000), ("shop", "0.0.0.0", 8000), True),
        (("front", "10.0.0.1", 8000), ("shop", "10.0.0.1", 8080), False),
        (("front", "127.0.0.1", 8000), ("shop", "10.0.0.1", 8000), False),
    ],
)
def test_a_new_envoy_does_not_take_the_port_of_one_that_is_there(
    old: tuple[str, str, int], new: tuple[str, str, int], told: bool
) -> None:
    before = {"edge1": listening(state(edge=old[0]), *old)}
    wanted = {"edge1": listening(state(edge=new[0]), *new)}
    there = {"edge1": [f"envoy@{old[0]}"]}
    found = in_the_way(wanted, before, there)
    assert bool(found) is told
    if told:
        assert found == [
            "On edge1 edge front listens on port 8000, which the new edge shop is to have."
        ]
    # Nothing is known of a host that was never recorded; what runs has its port already, and
    # what was recorded but is gone has none.
    assert in_the_way(wanted, {}, there) == []
    assert in_the_way(wanted, before, {"edge1": [f"envoy@{old[0]}", f"envoy@{new[0]}"]}) == []
    assert in_the_way(wanted, before, {"edge1": []}) == []
