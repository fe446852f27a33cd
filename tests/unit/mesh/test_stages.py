"""The stages of a change between plaintext and mTLS: no call fails, whoever changes when."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain

import pytest

from tests.unit.mesh import worlds
from vmesh.compile.security import BOTH, GOALS, MTLS, PLAINTEXT
from vmesh.model.access_types import OFF, PERMISSIVE, STRICT
from vmesh.rollout.stages import Seen, Stages, Wanted, Wire, stages

SERVICES = ("service1", "service2", "service3")
HOSTS = ("web1", "web2", "web3", "web4")


def shop(mode: str, *, hosts: Collection[str] = ("web1", "web2")) -> Wanted:
    """Return a mesh whose edge on gw1 calls service1 on `hosts`, which calls service2 on web3."""
    return Wanted(
        mode,
        {"front": ("gw1",), "service1": hosts, "service2": ("web3",)},
        {"front": ("service1",), "service1": ("service2",)},
        ("service1", "service2"),
        {host: f"anchor of {host}" for host in ("gw1", "web3", *hosts)},
    )


def settled(wanted: Wanted) -> dict[str, dict[str, Seen]]:
    """Return the reports of a mesh that is as it should be."""
    found = World()
    found.run(wanted, set(chain(*wanted.hosts.values())), random.Random(0))
    return found.reports()


def test_plaintext_becomes_mtls_in_three_stages() -> None:
    got = stages(shop(STRICT), settled(shop(OFF)), {"gw1", "web1", "web2", "web3"})
    assert got.rollout == Wire(
        {"service1": BOTH, "service2": BOTH}, {"service1": PLAINTEXT, "service2": PLAINTEXT}
    )
    assert got.speak == Wire(
        {"service1": BOTH, "service2": BOTH}, {"service1": MTLS, "service2": MTLS}
    )
    assert got.narrow == Wire(
        {"service1": MTLS, "service2": MTLS}, {"service1": MTLS, "service2": MTLS}
    )
    assert not got.grant
    assert not got.stays


def test_mtls_becomes_plaintext_by_the_same_stages() -> None:
    got = stages(shop(OFF), settled(shop(STRICT)), {"gw1", "web1", "web2", "web3"})
    assert got.rollout.accept == {"service1": BOTH, "service2": BOTH}
    assert set(got.rollout.speak.values()) == {MTLS}
    assert set(got.speak.speak.values()) == {PLAINTEXT}
    assert set(got.narrow.accept.values()) == {PLAINTEXT}


@pytest.mark.parametrize("mode", [OFF, PERMISSIVE, STRICT])
def test_a_mesh_that_is_as_it_should_be_has_one_stage(mode: str) -> None:
    everybody = {"gw1", "web1", "web2", "web3"}
    got = stages(shop(mode), settled(shop(mode)), everybody)
    assert got.rollout == got.speak == got.narrow
    assert set(got.rollout.accept.values()) == {GOALS[mode][0]}
    assert not got.grant
    # Nor does it matter who takes part.
    assert stages(shop(mode), settled(shop(mode)), {"web1"}).stays == ()


@pytest.mark.parametrize("mode", [OFF, PERMISSIVE, STRICT])
def test_a_new_mesh_is_at_once_what_it_should_be(mode: str) -> None:
    got = stages(shop(mode), {}, {"gw1", "web1", "web2", "web3"})
    assert got.rollout == got.speak == got.narrow
    assert set(got.rollout.speak.values()) == {GOALS[mode][1]}


def test_a_host_that_takes_no_part_holds_back_what_it_runs_and_what_it_calls() -> None:
    got = stages(shop(STRICT), settled(shop(OFF)), {"gw1", "web1", "web3"})
    # web2 has service1, which calls service2.
    assert got.speak.speak == {"service1": PLAINTEXT, "service2": MTLS}
    assert got.narrow.accept == {"service1": BOTH, "service2": BOTH}
    assert got.stays == (
        "service1 is called in plaintext as before: web2 took no part, and service1 there may not"
        " accept mTLS yet.",
        "service2 stays permissive: web2 took no part and may call it in plaintext.",
    )


def test_a_host_of_which_nothing_is_known_may_speak_plaintext() -> None:
    there = settled(shop(OFF))
    del there["web2"]
    got = stages(shop(STRICT), there, {"gw1", "web1", "web3"})
    assert got.speak.speak["service1"] == PLAINTEXT
    assert got.narrow.accept["service2"] == BOTH


def test_callers_wait_for_a_host_of_which_nothing_is_known_also_in_the_next_run() -> None:
    there = settled(shop(PERMISSIVE))
    del there["web2"]
    for host, name, service in (("gw1", "front", "service1"), ("web1", "service1", "service2")):
        seen = there[host][name]
        there[host][name] = Seen(seen.accepts, {service: PLAINTEXT}, seen.knows, seen.lets)
    got = stages(shop(STRICT), there, {"gw1", "web1", "web3"})
    assert got.rollout.speak["service1"] == got.narrow.speak["service1"] == PLAINTEXT
    assert got.narrow.accept["service1"] == BOTH


def test_a_service_that_was_spoken_to_in_plaintext_stays_permissive() -> None:
    got = stages(
        shop(STRICT),
        settled(shop(OFF)),
        {"gw1", "web1", "web2", "web3"},
        {"service2": ["198.18.0.5", "10.0.0.5"]},
    )
    assert got.narrow.accept == {"service1": MTLS, "service2": BOTH}
    assert got.narrow.speak == {"service1": MTLS, "service2": MTLS}
    assert got.stays == ("service2 stays permissive: 10.0.0.5, 198.18.0.5 spoke plaintext.",)


@pytest.mark.parametrize(("mode", "accepts"), [(OFF, PLAINTEXT), (PERMISSIVE, BOTH)])
def test_plaintext_holds_nothing_back_where_it_is_wanted(mode: str, accepts: str) -> None:
    got = stages(
        shop(mode),
        settled(shop(PERMISSIVE)),
        {"gw1", "web1", "web2", "web3"},
        {"service2": ["198.18.0.5"]},
    )
    assert got.narrow.accept == {"service1": accepts, "service2": accepts}
    assert got.stays == ()


def test_a_new_caller_is_made_known_before_it_is_there() -> None:
    more = shop(STRICT, hosts=("web1", "web2", "web4"))
    got = stages(more, settled(shop(STRICT)), {"gw1", "web1", "web2", "web3", "web4"})
    assert got.grant == {"web3": ("service2",)}
    assert not got.refused


def test_a_new_caller_is_refused_where_it_cannot_be_made_known() -> None:
    more = shop(STRICT, hosts=("web1", "web2", "web4"))
    got = stages(more, settled(shop(STRICT)), {"gw1", "web1", "web2", "web4"})
    assert got.refused == (
        "service1 on web4 is to call service2, and service2 on web3 does not know it: web3 takes"
        " no part in this run, so it would refuse these calls. Have web3 take part, or take it"
        " out of the inventory.",
    )
    # In plaintext nobody asks who calls.
    plain = shop(OFF, hosts=("web1", "web2", "web4"))
    assert not stages(plain, settled(shop(OFF)), {"web4"}).refused


def test_a_run_that_was_interrupted_among_the_callers_is_completed() -> None:
    there = settled(shop(PERMISSIVE))
    there["web1"]["service1"] = Seen(
        BOTH, {"service2": PLAINTEXT}, *_trust(there["web1"]["service1"])
    )
    got = stages(shop(STRICT), there, {"gw1", "web1", "web2", "web3"})
    assert got.rollout.accept["service2"] == BOTH
    assert got.rollout.speak["service2"] == MTLS  # all accept it already
    assert got.narrow.accept["service2"] == MTLS


def _trust(seen: Seen) -> tuple[frozenset[str], frozenset[str] | None]:
    return seen.knows, seen.lets


def test_who_calls_whom_comes_from_the_compiled_mesh() -> None:
    wanted = Wanted.of(worlds.plan(worlds.inventory()), {"web1": "one"})
    assert {name: sorted(hosts) for name, hosts in wanted.hosts.items()} == {
        "front": ["web1", "web2"],
        "shop": ["shop1"],
        "stock": ["store1", "store2"],
        "stock-next": ["jaeger1"],
        "jaeger": ["jaeger1"],
    }
    # Not what is outside the mesh, such as the shop's bank.
    assert {name: sorted(calls) for name, calls in wanted.calls.items()} == {
        "front": ["jaeger", "shop", "stock"],
        "shop": ["jaeger", "stock"],
        "stock": ["jaeger"],
        "stock-next": ["jaeger"],
    }
    assert wanted.callers("stock") == [("web1", "front"), ("web2", "front"), ("shop1", "shop")]
    assert set(wanted.services) == {"shop", "stock", "stock-next", "jaeger"}


# Any mesh, any change, any order


@dataclass
class Proxy:
    """A running proxy: what it accepts and from whom, whom it calls, how and where."""

    accepts: str | None = None
    speaks: dict[str, str] = field(default_factory=dict)
    endpoints: dict[str, set[str]] = field(default_factory=dict)
    knows: set[str] = field(default_factory=set)
    lets: set[str] = field(default_factory=set)
    trusts: dict[str, set[str]] = field(default_factory=dict)


Pair = tuple[str, str, str, str]


@dataclass
class World:
    """Hosts with proxies, which a run changes one after the other."""

    running: dict[tuple[str, str], Proxy] = field(default_factory=dict)
    anchors: dict[str, str] = field(default_factory=dict)

    def reports(self) -> dict[str, dict[str, Seen]]:
        found: dict[str, dict[str, Seen]] = {}
        for (host, name), proxy in self.running.items():
            found.setdefault(host, {})[name] = Seen(
                proxy.accepts, dict(proxy.speaks), frozenset(proxy.knows), frozenset(proxy.lets)
            )
        return found

    def pairs(self) -> Iterator[tuple[Pair, bool]]:
        """Yield each call that can be made, and whether it succeeds."""
        for (host, name), proxy in self.running.items():
            for service, hosts in proxy.endpoints.items():
                for other in hosts:
                    if callee := self.running.get((other, service)):
                        yield (
                            (host, name, other, service),
                            self._succeeds(host, name, proxy, other, service, callee),
                        )

    def _succeeds(  # noqa: PLR0913, PLR0917 - both ends of a call
        self, host: str, name: str, proxy: Proxy, other: str, service: str, callee: Proxy
    ) -> bool:
        way = proxy.speaks[service]
        if callee.accepts not in {way, BOTH}:
            return False
        return way == PLAINTEXT or (
            self.anchors[host] in callee.knows
            and name in callee.lets
            and self.anchors[other] in proxy.trusts[service]
        )

    def broken(self) -> set[Pair]:
        """Return calls that fail, or that would where their target began to run."""
        dead = {
            (host, name, other, service)
            for (host, name), proxy in self.running.items()
            for service, hosts in proxy.endpoints.items()
            for other in hosts
            if (other, service) not in self.running
        }
        return dead | {pair for pair, succeeds in self.pairs() if not succeeds}

    def _contradictions(self, wanted: Wanted) -> set[Pair]:
        """Return calls of services of which no way of speaking suits all instances.

        That is so where a host left the inventory, was not reached, and came back later.
        """
        accepted: dict[str, set[str]] = {}
        for (host, name), proxy in self.running.items():
            if host in wanted.hosts.get(name, ()) and proxy.accepts:
                accepted.setdefault(name, set()).add(proxy.accepts)
        torn = {name for name, ways in accepted.items() if {PLAINTEXT, MTLS} <= ways}
        return {
            (host, name, other, service)
            for service in torn
            for host, name in wanted.callers(service)
            for other in wanted.hosts[service]
        }

    def run(
        self,
        wanted: Wanted,
        taking_part: Collection[str],
        order: random.Random,
        steps: int = 1000,
        plaintext: Collection[str] = (),
    ) -> Stages | None:
        """Run at most so many steps of a run; after each one no call fails that did not before."""
        self.anchors |= {host: f"anchor of {host}" for host in taking_part}
        wanted = replace(wanted, anchors=dict(self.anchors))
        plan = stages(wanted, self.reports(), taking_part, {s: ["10.0.0.5"] for s in plaintext})
        if plan.refused:
            return None
        failing = self.broken() | self._contradictions(wanted)
        inventory = {host for hosts in wanted.hosts.values() for host in hosts}
        for stage, host, name in self._steps(wanted, plan, taking_part, order):
            if steps == 0:
                return plan
            steps -= 1
            self._step(wanted, plan, stage, host, name)
            for pair, succeeds in self.pairs():
                forgotten = stage == "narrow" and pair[0] not in inventory
                assert succeeds or pair in failing or forgotten, (stage, host, name, pair)
        return plan

    def _steps(
        self, wanted: Wanted, plan: Stages, taking_part: Collection[str], order: random.Random
    ) -> Iterator[tuple[str, str, str]]:
        places = [(host, name) for name, hosts in wanted.hosts.items() for host in hosts]
        mine = [place for place in places if place[0] in taking_part]
        new = [place for place in mine if place not in self.running]
        old = [place for place in mine if place in self.running]
        gone = [place for place in self.running if place[0] in taking_part and place not in places]
        granting = [(host, name) for host, names in plan.grant.items() for name in names]
        for stage, its in (
            ("grant", granting),
            ("rollout", new),
            ("rollout", old),
            ("remove", gone),
            ("speak", mine),
            ("narrow", mine),
        ):
            order.shuffle(its)
            yield from ((stage, *place) for place in its)

    def _step(self, wanted: Wanted, plan: Stages, stage: str, host: str, name: str) -> None:
        if stage == "remove":
            del self.running[host, name]
            return
        callers = wanted.callers(name)
        knows = {anchor for other, _ in callers if (anchor := self.anchors.get(other))}
        lets = {caller for _, caller in callers}
        before = self.running.get((host, name), Proxy())
        if stage == "grant":
            before.knows |= knows
            before.lets |= lets
            return
        wire: Wire = getattr(plan, stage)
        trusts = {
            service: {self.anchors[h] for h in wanted.hosts[service] if h in self.anchors}
            for service in wanted.calls.get(name, ())
        }
        if stage != "narrow" or name not in plan.forget:
            knows |= before.knows
            lets |= before.lets
        if stage != "narrow":
            trusts = {s: each | before.trusts.get(s, set()) for s, each in trusts.items()}
        self.running[host, name] = Proxy(
            wire.accept.get(name),
            {service: wire.speak[service] for service in trusts},
            {service: set(wanted.hosts[service]) for service in trusts},
            knows,
            lets,
            trusts,
        )


def any_mesh(choose: random.Random, mode: str) -> Wanted:
    """Return some mesh of an edge and up to three services on up to four hosts."""
    names = choose.sample(SERVICES, choose.randint(1, 3))
    hosts = {name: choose.sample(HOSTS, choose.randint(1, 3)) for name in names}
    calls = {name: [o for o in names if o != name and choose.random() < 0.5] for name in names}
    edge = {"front": choose.sample(names, choose.randint(1, len(names)))}
    return Wanted(mode, {"front": ["gw1"], **hosts}, {**edge, **calls}, names)


@pytest.mark.parametrize("seed", range(200))
def test_no_call_fails_whoever_changes_when(seed: int) -> None:
    choose = random.Random(seed)
    world = World()
    for _ in range(6):
        mode = choose.choice([OFF, PERMISSIVE, STRICT])
        wanted = any_mesh(choose, mode)
        everywhere = {"gw1", *HOSTS}
        some = {host for host in sorted(everywhere) if choose.random() < 0.7}
        world.run(
            wanted,
            choose.choice([everywhere, everywhere, some]),
            choose,
            choose.choice([1000, 1000, choose.randint(0, 20)]),
            [name for name in SERVICES if choose.random() < 0.1],
        )
    # However it went so far: a run with all hosts brings all to what is wanted.
    last = any_mesh(choose, choose.choice([OFF, PERMISSIVE, STRICT]))
    plan = world.run(last, {"gw1", *HOSTS}, choose)
    assert plan is not None
    assert plan.stays == ()
    assert not world.broken()
    accepted, spoken = GOALS[last.mode]
    for proxy in world.running.values():
        assert proxy.accepts in {accepted, None}
        assert set(proxy.speaks.values()) <= {spoken}
