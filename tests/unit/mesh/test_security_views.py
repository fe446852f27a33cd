"""Whom a proxy trusts, whom it lets in, and what a plan says of a change of that."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from plugins.module_utils.envoy_security import security_of
from tests.unit.mesh import worlds
from vmesh.compile import security
from vmesh.compile.compiler import compile_mesh
from vmesh.compile.host_spec import MeshSpec, ProxySpec, View
from vmesh.compile.security import SecurityPlan
from vmesh.render.renderer import Renderer
from vmesh.rollout import change_report, changes

Edit = tuple[str, Any]
STRICT: Edit = ("mesh_security", {"mtls": "strict", "trust_domain": "shop.mesh"})


def target(*edits: Edit) -> SecurityPlan:
    """Return how the mesh speaks in its mode; an anchor is a word here."""
    spec = worlds.plan(worlds.inventory(worlds.changed(*edits)))
    return security.target(spec.mesh, {host: f"<{host}>" for host in worlds.HOSTS})


def compiled(*edits: Edit, plan: SecurityPlan | None = None) -> MeshSpec:
    return worlds.plan(worlds.inventory(worlds.changed(*edits)), plan or target(*edits))


def proxy(spec: MeshSpec, host: str, name: str) -> ProxySpec:
    (found,) = [each for each in spec.hosts[host].proxies if each.name == name]
    return found


def rules(spec: MeshSpec, host: str, name: str) -> View:
    (site,) = proxy(spec, host, name).view["routes"]["ingress"]["virtual_hosts"]
    found: View = site["filters"]["callers"]
    return found


@pytest.mark.parametrize("mode", ["off", "permissive", "strict"])
def test_a_plan_in_plaintext_is_in_plaintext_whatever_the_mode(mode: str) -> None:
    """As before the first stage of a run, and on a mesh that was never told of mTLS."""
    renderer = Renderer()

    def files(*edits: Edit) -> dict[str, dict[str, str]]:
        spec = worlds.plan(worlds.inventory(worlds.changed(*edits)), SecurityPlan())
        return {
            f"{host}/{each.name}": renderer.files(each)
            for host, found in spec.hosts.items()
            for each in found.proxies
        }

    before = files()
    assert files(("mesh_security", {"mtls": mode})) == before
    inside = {
        name: text
        for proxy_, written in before.items()
        for name, text in written.items()
        # One upstream of shop is outside the mesh, and speaks HTTPS.
        if (proxy_, name) != ("shop1/shop", "clusters/clusters.json")
    }
    for name, text in inside.items():
        assert not any(word in text.lower() for word in ("tls", "rbac", "trust/")), name


@pytest.mark.parametrize("mode", ["off", "permissive", "strict"])
def test_without_a_plan_proxies_speak_as_the_mode_wants(mode: str) -> None:
    edit = ("mesh_security", {"mtls": mode, "trust_domain": "shop.mesh"})
    inventory = worlds.inventory(worlds.changed(edit))
    anchors = {host: f"<{host}>" for host in worlds.HOSTS}
    assert compile_mesh(inventory, anchors=anchors).hosts == compiled(edit).hosts


def test_the_mode_off_is_a_plan_without_effect() -> None:
    off = ("mesh_security", {"mtls": "off"})
    assert compiled(off).hosts == worlds.plan(worlds.inventory(worlds.changed(off))).hosts


def test_a_service_trusts_the_hosts_of_its_callers_and_its_own() -> None:
    spec = compiled(STRICT)
    assert proxy(spec, "store1", "stock").view["trust"]["callers"] == {
        "anchors": {host: f"<{host}>" for host in ("shop1", "store1", "web1", "web2")},
        "identities": [],
        "accept_expired": False,
    }
    # Nobody calls it, and an empty bundle would be one that trusts everybody.
    trust = proxy(spec, "jaeger1", "stock-next").view["trust"]
    assert trust["callers"]["anchors"] == {"jaeger1": "<jaeger1>"}


def test_a_caller_trusts_the_instances_of_its_upstream_alone() -> None:
    trust = proxy(compiled(STRICT), "web1", "front").view["trust"]
    assert trust.keys() == {"upstream_shop", "upstream_stock", "upstream_jaeger"}
    assert trust["upstream_stock"]["anchors"] == {"store1": "<store1>", "store2": "<store2>"}
    assert trust["upstream_stock"]["identities"] == [
        "spiffe://store1.shop.mesh/stock",
        "spiffe://store2.shop.mesh/stock",
    ]


def test_what_is_no_proxy_of_the_mesh_is_spoken_to_as_before() -> None:
    view = proxy(compiled(STRICT), "shop1", "shop").view
    ways = {each["name"]: each.get("mtls") for each in view["clusters"]}
    assert ways == {
        "local_app": None,
        "tracing_collector": "upstream_jaeger",
        "stock": "upstream_stock",
        "bank": None,
    }
    own = {each["name"]: "mtls" in each for each in view["listeners"]}
    assert own == {"ingress": True, "egress-stock": False, "egress-bank": False}


def test_who_is_let_in_follows_from_calls_and_routes() -> None:
    spec = compiled(STRICT)
    assert rules(spec, "store1", "stock")["callers"] == ["front", "shop", "stock"]
    assert rules(spec, "shop1", "shop")["callers"] == ["front", "shop"]
    assert rules(spec, "jaeger1", "stock-next")["callers"] == ["stock-next"]


def test_revoked_hosts_are_trusted_nowhere_and_refused_by_name() -> None:
    edit = ("mesh_security/revoked", ["Old_1"])
    plan = target(STRICT, edit)
    plan = replace(
        plan,
        anchors={**plan.anchors, "Old_1": "<Old_1>"},
        still={"stock": [("Old_1", "shop")]},
    )
    spec = compiled(STRICT, edit, plan=plan)
    assert rules(spec, "store1", "stock")["revoked"] == ["spiffe://old-1.shop.mesh/"]
    assert "Old_1" not in proxy(spec, "store1", "stock").view["trust"]["callers"]["anchors"]


def test_those_who_called_before_are_let_in_while_the_plan_says_so() -> None:
    plan = replace(target(STRICT), still={"stock": [("jaeger1", "stock-next")]})
    spec = compiled(STRICT, plan=plan)
    assert rules(spec, "store1", "stock")["callers"] == ["front", "shop", "stock", "stock-next"]
    assert "jaeger1" in proxy(spec, "store1", "stock").view["trust"]["callers"]["anchors"]
    assert rules(spec, "shop1", "shop")["callers"] == ["front", "shop"]


def test_who_watches_trusts_every_host() -> None:
    spec = compiled(STRICT, ("mesh_security/authorization", "watch"))
    trusted = proxy(spec, "shop1", "shop").view["trust"]["callers"]["anchors"]
    assert trusted.keys() == worlds.HOSTS.keys()
    assert rules(spec, "shop1", "shop")["watch"] is True


def test_an_anchor_that_is_not_known_is_left_out() -> None:
    plan = replace(target(STRICT), anchors={"store2": "<store2>"})
    trust = proxy(compiled(STRICT, plan=plan), "web1", "front").view["trust"]
    assert trust["upstream_stock"]["anchors"] == {"store2": "<store2>"}
    assert trust["upstream_shop"]["anchors"] == {}
    bundle = json.loads(
        Renderer().files(proxy(compiled(STRICT, plan=plan), "web1", "front"))[
            "trust/upstream_shop.json"
        ]
    )
    # Envoy refuses this, and would take a bundle without this field for one that trusts everybody.
    assert bundle["resources"][0]["validation_context"]["trusted_ca"] == {"inline_string": ""}


@pytest.mark.parametrize(
    ("mode", "accepts", "speaks"),
    [
        ("off", "plaintext", "plaintext"),
        ("permissive", "both", "mtls"),
        ("strict", "mtls", "mtls"),
    ],
)
def test_a_host_can_tell_from_its_files_what_was_planned(
    mode: str, accepts: str, speaks: str
) -> None:
    edits: tuple[Edit, ...] = (
        ("mesh_security", {"mtls": mode}),
        ("mesh_services/shop/plaintext_from", ["10.9.0.0/16"]),
    )
    files = Renderer().files(proxy(compiled(*edits), "shop1", "shop"))
    told = security_of(files)
    assert (told["accepts"], told["speaks"]) == (
        accepts,
        {"stock": speaks, "jaeger": speaks},
    )
    assert told["lets"] == ([] if mode == "off" else ["front", "shop"])


PERMISSIVE: Edit = ("mesh_security", {"mtls": "permissive", "trust_domain": "shop.mesh"})
CALLS: Edit = ("mesh_services/stock-next/calls", {"stock": {}})


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            (),
            (PERMISSIVE,),
            {
                "stock's Envoy: callers speak plaintext -> mTLS or plaintext",
                "stock's Envoy: front may call stock",
                "stock's Envoy: shop may call stock",
                "shop's Envoy: calls to stock plaintext -> mTLS",
                "edge front: calls to shop plaintext -> mTLS",
            },
        ),
        ((PERMISSIVE,), (STRICT,), {"stock's Envoy: callers speak mTLS or plaintext -> mTLS"}),
        ((STRICT,), (), {"stock's Envoy: everybody may call", "shop's Envoy: everybody may call"}),
        (
            (STRICT,),
            (STRICT, CALLS),
            {
                "stock's Envoy: stock-next may call stock",
                "stock's Envoy: callers on jaeger1 are trusted",
            },
        ),
        (
            (STRICT, CALLS),
            (STRICT,),
            {
                "stock's Envoy: stock-next may no longer call stock",
                "stock's Envoy: callers on jaeger1 are no longer trusted",
            },
        ),
        (
            (STRICT,),
            (STRICT, ("mesh_security/revoked", ["old1"])),
            {"stock's Envoy: old1.shop.mesh is revoked"},
        ),
        (
            (STRICT,),
            (STRICT, ("mesh_security/authorization", "watch")),
            {"stock's Envoy: other callers are counted and let in"},
        ),
        (
            (STRICT,),
            (STRICT, ("mesh_security/accept_expired", True)),
            {"edge front: expired identities are accepted of instances of stock"},
        ),
        (
            (STRICT,),
            (STRICT, ("mesh_services/stock/plaintext_from", ["10.9.0.0/16"])),
            {"stock's Envoy: networks that speak plaintext none -> 10.9.0.0/16"},
        ),
        (
            (STRICT,),
            (STRICT, ("mesh_services/stock/identify_callers", True)),
            {"stock's Envoy: the app is told who calls"},
        ),
    ],
)
def test_a_plan_says_what_changes(
    old: tuple[Edit, ...], new: tuple[Edit, ...], expected: set[str]
) -> None:
    before, after = (
        worlds.states(worlds.inventory(worlds.changed(*edits)), security=target(*edits))
        for edits in (old, new)
    )
    found = change_report.group(changes.compare(before, after, worlds.rerender))
    told = {f"{each.part}: {each.text}" for each in found}
    assert expected <= told
    assert not [each for each in told if "its order only" in each or "mtls" in each], told


def test_a_plan_names_the_host_with_another_anchor() -> None:
    plan = target(STRICT)
    other = replace(plan, anchors={**plan.anchors, "store1": "<another>"})
    of = worlds.inventory(worlds.changed(STRICT))
    before, after = (worlds.states(of, security=each) for each in (plan, other))
    told = {
        each.text for each in change_report.group(changes.compare(before, after, worlds.rerender))
    }
    assert "instances of stock on store1 have another anchor" in told
    assert "callers on store1 have another anchor" in told
