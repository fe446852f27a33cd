"""A host that is revoked at once leaves all files as a run of site.yml would have it leave them."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.mesh import worlds
from tests.unit.mesh.test_security_run import ANCHORS
from vmesh.compile import security
from vmesh.compile.compiler import compile_mesh
from vmesh.model.inventory import Inventory
from vmesh.render.renderer import Renderer
from vmesh.rollout import description, revocation

RENDERER = Renderer()


def inventory(*revoked: str) -> Inventory:
    """Return the world in strict mTLS, where revoked hosts have left their groups."""
    said = {"mtls": "strict", "trust_domain": "shop.mesh", "revoked": list(revoked)}
    groups = {
        name: tuple(host for host in hosts if host not in revoked)
        for name, hosts in worlds.GROUPS.items()
    }
    return worlds.inventory(worlds.changed(("mesh_security", said)), groups=groups)


def recorded() -> dict[str, Any]:
    """Return what a run has applied."""
    of = inventory()
    plan = security.target(compile_mesh(of).mesh, ANCHORS)
    return worlds.states(of, render=RENDERER.files, security=plan)


@pytest.mark.parametrize("host", ["store1", "web2"], ids=["a callee", "a caller"])
def test_the_files_that_change_are_those_of_a_run_of_site(host: str) -> None:
    found = revocation.changes(recorded(), host, f"spiffe://{host}.shop.mesh/", RENDERER)
    assert host not in found
    after = compile_mesh(inventory(host), anchors=ANCHORS)
    for other, spec in after.hosts.items():
        made = {change.proxy: change for change in found.get(other, [])}
        for proxy in spec.proxies:
            wanted = RENDERER.files(proxy)
            if change := made.get(proxy.name):
                assert change.changed
                assert {path: change.files[path] for path in change.changed} == {
                    path: wanted[path] for path in change.changed
                }
                assert change.unknown == ()
                assert change.files.keys() == wanted.keys()
                files = change.files
            else:
                (before,) = [
                    each
                    for each in recorded()[other]["host"]["proxies"]
                    if each["name"] == proxy.name
                ]
                files = RENDERER.files(description.proxy_from(before))
            differing = {
                path for path in wanted if wanted[path] != files[path] and path != "bootstrap.json"
            }
            assert differing == set()
    kinds = {path.split("/")[0] for each in found.values() for c in each for path in c.changed}
    assert kinds == ({"trust", "routes", "endpoints"} if host == "store1" else {"trust", "routes"})


def test_a_host_that_nobody_trusts_changes_nothing() -> None:
    gone = revocation.changes(recorded(), "store1", "spiffe://store1.shop.mesh/", RENDERER)
    states = copy.deepcopy(recorded())
    for host, each in gone.items():
        for change in each:
            for proxy in states[host]["host"]["proxies"]:
                if proxy["name"] == change.proxy:
                    proxy["view"] = revocation.without(
                        proxy["view"], "store1", "spiffe://store1.shop.mesh/", "10.0.0.4"
                    )
    assert revocation.changes(states, "store1", "spiffe://store1.shop.mesh/", RENDERER) == {}


def test_the_last_instance_stays_an_endpoint_so_that_there_is_one() -> None:
    states = recorded()
    (shop,) = states["shop1"]["host"]["proxies"]
    (stock,) = [each for each in shop["view"]["clusters"] if each["name"] == "stock"]
    one = [each for each in stock["endpoints"] if each["address"] == "10.0.0.4"]
    view = {**shop["view"], "clusters": [{**stock, "endpoints": one}]}
    found = revocation.without(view, "store1", "spiffe://store1.shop.mesh/", "10.0.0.4")
    assert found["clusters"][0]["endpoints"] == one
    assert "store1" not in found["trust"]["upstream_stock"]["anchors"]


def test_a_file_that_is_not_known_to_the_letter_is_named() -> None:
    states = recorded()
    path = "trust/upstream_stock.json"
    states["shop1"]["files"]["shop"][path] = "made by another release"
    found = revocation.changes(states, "store1", "spiffe://store1.shop.mesh/", RENDERER)
    (change,) = found["shop1"]
    assert change.unknown == (path,)
    assert replace(change, unknown=()).changed == change.changed
