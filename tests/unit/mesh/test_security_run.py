"""What a run does about how proxies speak, from the hosts' answers and records."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from plugins.module_utils.certificates import new_anchor
from plugins.module_utils.envoy_security import digests, security_of
from plugins.plugin_utils import run_security
from tests.unit.mesh import worlds
from vmesh.compile import security
from vmesh.compile.compiler import compile_mesh
from vmesh.compile.host_spec import MeshSpec
from vmesh.compile.security import BOTH, MTLS, PLAINTEXT, SecurityPlan
from vmesh.render.renderer import Renderer
from vmesh.rollout.record import HostRecord
from vmesh.rollout.security_run import (
    NARROW,
    ROLLOUT,
    SPEAK,
    SecurityRun,
    all_plaintext,
    differing,
    digest_of,
    distrusted,
    needs_identity,
    reports,
    same,
    seen_in,
    trusting,
)
from vmesh.rollout.stages import Seen

ANCHORS = {
    host: new_anchor(f"{host}.shop.mesh", 1_700_000_000).certificate for host in worlds.HOSTS
}


def inventory(mode: str, **services: Any) -> Any:
    edits: list[tuple[str, Any]] = [
        ("mesh_security", {"mtls": mode, "trust_domain": "shop.mesh"}),
        *((f"mesh_services.{name}", value) for name, value in services.items()),
    ]
    return worlds.inventory(worlds.changed(*edits))


def compiled(mode: str, plan: SecurityPlan | None = None) -> MeshSpec:
    return compile_mesh(inventory(mode), plan, ANCHORS)


def answers(spec: MeshSpec) -> dict[str, Any]:
    """Return what the hosts tell that have what `spec` gives them."""
    renderer = Renderer()
    return {
        host: {"security": {each.name: security_of(renderer.files(each)) for each in found.proxies}}
        for host, found in spec.hosts.items()
    }


def recorded(spec: MeshSpec) -> dict[str, HostRecord]:
    return {
        host: {"host": {"proxies": [{"name": p.name, "view": p.view} for p in found.proxies]}}
        for host, found in spec.hosts.items()
    }


@pytest.mark.parametrize("mode", ["off", "permissive", "strict"])
def test_a_record_says_the_same_as_the_files_on_the_host(mode: str) -> None:
    renderer = Renderer()
    for found in compiled(mode).hosts.values():
        for proxy in found.proxies:
            told = Seen.told(security_of(renderer.files(proxy)))
            assert seen_in(proxy.view) == told, proxy.name


def test_an_anchor_is_known_by_the_same_digest_on_both_sides() -> None:
    for pem in ANCHORS.values():
        assert [digest_of(pem)] == digests(pem)


def test_from_plaintext_to_strict_each_stage_is_a_plan() -> None:
    before, spec = compiled("off"), compiled("strict")
    run = SecurityRun.of(spec, ANCHORS, answers(before), {})
    wires = [
        (plan.accept["stock"], plan.speak["stock"])
        for plan in map(run.plan, (ROLLOUT, SPEAK, NARROW))
    ]
    assert wires == [(BOTH, PLAINTEXT), (BOTH, MTLS), (MTLS, MTLS)]
    speak = differing(compiled("strict", run.plan(ROLLOUT)), compiled("strict", run.plan(SPEAK)))
    # All of them send spans.
    assert speak == {
        "shop1": ["shop"],
        "web1": ["front"],
        "web2": ["front"],
        "store1": ["stock"],
        "store2": ["stock"],
        "jaeger1": ["stock-next"],
    }
    narrow = differing(compiled("strict", run.plan(SPEAK)), compiled("strict", run.plan(NARROW)))
    assert set(narrow) == {"shop1", "store1", "store2", "jaeger1"}
    target = security.target(spec.mesh, ANCHORS)
    assert same(run.plan(NARROW), target, spec.mesh.services)
    assert not same(run.plan(ROLLOUT), target, spec.mesh.services)


def test_a_strict_mesh_stays_as_it_is_whether_hosts_answer_or_not() -> None:
    spec = compiled("strict")
    for run in (
        SecurityRun.of(spec, ANCHORS, answers(spec), {}),
        SecurityRun.of(spec, ANCHORS, {}, recorded(spec)),
    ):
        target = security.target(spec.mesh, ANCHORS)
        for stage in (ROLLOUT, SPEAK, NARROW):
            assert same(run.plan(stage), target, spec.mesh.services)
        assert not run.stages.grant


NEXT = {host: new_anchor(f"{host}.shop.mesh", 1_800_000_000).certificate for host in ANCHORS}


def test_in_a_rollover_both_anchors_are_trusted_until_the_last_stage() -> None:
    spec, both = compiled("strict"), {**ANCHORS, "web1": ANCHORS["web1"] + NEXT["web1"]}
    run = SecurityRun.of(spec, both, answers(spec), {}, turned=["web1"])
    assert [run.plan(stage).anchors["web1"] for stage in (ROLLOUT, SPEAK, NARROW)] == [
        both["web1"],
        both["web1"],
        NEXT["web1"],
    ]
    assert run.plan(NARROW).anchors["web2"] == ANCHORS["web2"]
    # A host that has not signed by the new one is trusted by both to the end.
    run = SecurityRun.of(spec, both, answers(spec), {})
    assert run.plan(NARROW).anchors == both


@pytest.mark.parametrize("trusted", ["older", "both", "newer"])
def test_no_caller_becomes_a_stranger_by_a_rollover(trusted: str) -> None:
    """Whatever a callee that takes no part knows, as its own record or its answer says."""
    old, new = ANCHORS["web1"], NEXT["web1"]
    known = {"older": old, "both": old + new, "newer": new}[trusted]
    told = {"older": old + new, "both": new, "newer": new}[trusted]
    before = compile_mesh(inventory("strict"), anchors={**ANCHORS, "web1": known})
    spec = compiled("strict")
    now = {**ANCHORS, "web1": told}
    alone = {"web1": answers(before)["web1"]}
    for there, records in ((answers(before), {}), (alone, recorded(before))):
        run = SecurityRun.of(spec, now, there, records)
        assert run.stages.grant == {}
        assert run.stages.refused == ()


def test_who_is_trusted_by_another_anchor_than_it_has_is_told() -> None:
    spec = compile_mesh(inventory("strict"), anchors=ANCHORS)
    (shop,) = (proxy for proxy in spec.hosts["shop1"].proxies if proxy.name == "shop")
    assert distrusted(shop.view, ANCHORS) == []
    rolled = {**ANCHORS, "store1": NEXT["store1"], "web1": ANCHORS["web1"] + NEXT["web1"]}
    assert distrusted(shop.view, rolled) == ["store1", "web1"]
    assert {"store1", "web1", "shop1"} <= trusting(shop.view).keys()
    assert distrusted(compiled("off").hosts["shop1"].proxies[0].view, rolled) == []


def test_another_anchor_is_another_plan_unless_all_is_plaintext() -> None:
    plan = security.target(compiled("strict").mesh, ANCHORS)
    other = replace(plan, anchors={**ANCHORS, "web1": ANCHORS["web2"]})
    assert not same(plan, other, ["stock"])
    assert same(SecurityPlan(ANCHORS), SecurityPlan(), ["stock"])


def test_who_the_inventory_has_no_more_is_let_in_until_the_last_stage() -> None:
    spec = compiled("strict")
    told = answers(spec)
    told["web9"] = {"security": {"old": {"accepts": None, "speaks": {"stock": MTLS}}}}
    told["web9"]["security"]["old"] |= {"knows": [], "lets": []}
    run = SecurityRun.of(spec, ANCHORS, told, {})
    assert run.plan(SPEAK).still == {"stock": frozenset({("web9", "old")})}
    assert run.plan(NARROW).still == {}


def test_hosts_with_proxies_that_speak_mtls_need_identities() -> None:
    for mode, needed in (("off", False), ("permissive", True), ("strict", True)):
        hosts = compiled(mode).hosts.values()
        assert {needs_identity(each.proxies) for each in hosts if each.proxies} == {needed}
        assert all_plaintext(reports(answers(compiled(mode)), {})) is not needed


def test_a_mesh_in_plaintext_that_is_to_stay_so_is_not_compiled_again() -> None:
    spec = compiled("off")
    variables = {
        "ansible_inventory_sources": ["shop"],
        "vmesh_plan": {"hosts": {host: {"identity": None} for host in spec.hosts}},
    }
    assert run_security.course(variables, answers(spec), [], {}) is None
