"""The example shop's inventory: what its README promises, and that its services call as it says."""

from __future__ import annotations

import pytest

from tests.live.spans import expected
from vmesh.base.paths import PROJECT
from vmesh.compile.host_spec import MeshSpec
from vmesh.model.types import ExternalApp
from vmesh.remote.mesh import read

from .conftest import LoadService

SHOP = PROJECT / "inventory" / "example-shop"


@pytest.fixture(scope="module")
def plan() -> MeshSpec:
    return read(SHOP).spec


def test_it_is_sound_and_as_large_as_it_says(plan: MeshSpec) -> None:
    assert plan.warnings == ()
    assert len(plan.mesh.services) == 11
    assert len(plan.mesh.edges) == 2
    assert {name: host.zone for name, host in plan.hosts.items()} == {
        "east1": "east",
        "east2": "east",
        "west1": "west",
        "west2": "west",
    }
    assert all(len(host.proxies) > 2 for host in plan.hosts.values())


def test_one_request_crosses_five_levels_and_ends_at_the_foreign_application(
    plan: MeshSpec,
) -> None:
    trace = expected(plan.mesh, plan.mesh.edges["shop"], "/checkout")
    assert trace.levels() == 1 + 5
    leaves = {node.service for node in trace.flat() if node.kind == "server" and not node.children}
    assert leaves == {"cart", "catalog", "payment", "stock"}
    assert isinstance(plan.mesh.services["stock"].app, ExternalApp)


def test_each_service_calls_all_that_it_is_told_of_and_no_more(
    plan: MeshSpec, load_service: LoadService
) -> None:
    """On this the traces that the tests expect rest."""
    for host in plan.hosts.values():
        for flask in host.flask_services:
            app = load_service("shop", flask.environment)
            calls = {call.upstream for call in plan.mesh.services[flask.name].calls}
            assert set(app.upstreams(flask.environment)) == calls, flask.name


def test_only_named_services_can_be_made_to_fail(plan: MeshSpec) -> None:
    able = {
        flask.name
        for host in plan.hosts.values()
        for flask in host.flask_services
        if "FAIL_FILE" in flask.environment
    }
    assert able == {"warehouse", "catalog-next"}


def test_the_scenario_is_the_example_in_another_place(plan: MeshSpec) -> None:
    scenario = read(PROJECT / "molecule" / "shop" / "inventory")
    assert scenario.spec == plan
    example = read(SHOP)
    for host in plan.hosts:
        ours, theirs = example.variables(host), scenario.variables(host)
        assert ours["lab_name"] != theirs["lab_name"]
        assert ours["ansible_port"] != theirs["ansible_port"]
        ports = [set(each.get("lab_publish", {})) for each in (ours, theirs)]
        assert not ports[0] & ports[1]
