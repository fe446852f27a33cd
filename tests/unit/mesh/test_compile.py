"""What an inventory means, and what it is told when it is wrong."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from vmesh.compile import compile_mesh
from vmesh.inventory import Inventory
from vmesh.plan import Plan, egress_address
from vmesh.problems import Problem, Problems

MESH: dict[str, Any] = {
    "mesh_services": {
        "shop": {
            "port": 9001,
            "app": {"flask": "services/shop"},
            "calls": {"stock": {"timeout": 3}},
        },
        "stock": {"port": 9002, "group": "stores", "app": {"flask": "services/stock"}},
    },
    "mesh_edges": {
        "front": {"group": "web", "port": 8000, "routes": [{"prefix": "/", "to": "shop"}]}
    },
    "mesh_tracing": {"group": "tracing"},
}
HOSTS: dict[str, dict[str, Any]] = {
    "web1": {"ansible_host": "10.0.0.1"},
    "shop1": {"ansible_host": "10.0.0.2"},
    "store1": {"ansible_host": "203.0.113.9", "mesh_address": "10.0.0.3"},
    "store2": {"ansible_host": "10.0.0.4"},
    "jaeger1": {"ansible_host": "10.0.0.5"},
}
GROUPS = {
    "web": ("web1",),
    "shop": ("shop1",),
    "stores": ("store1", "store2"),
    "tracing": ("jaeger1",),
}


def inventory(mesh: dict[str, Any] | None = None, **hosts: dict[str, Any]) -> Inventory:
    return Inventory(Path("inventory"), GROUPS, {**HOSTS, **hosts}, mesh or MESH)


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return the mesh with the value at a dotted path replaced, or removed for `...`."""
    mesh = copy.deepcopy(MESH)
    *parents, last = path.split(".")
    target: Any = mesh
    for key in parents:
        target = target[int(key)] if isinstance(target, list) else target[key]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return mesh


def problems_of(given: Inventory) -> tuple[Problem, ...]:
    with pytest.raises(Problems) as caught:
        compile_mesh(given)
    return caught.value.items


def test_each_part_lands_on_the_hosts_of_its_group() -> None:
    plan = compile_mesh(inventory())
    parts = {
        host: ([p.name for p in h.proxies], [f.name for f in h.flask_services], bool(h.jaeger))
        for host, h in plan.hosts.items()
    }
    assert parts == {
        "web1": (["front"], [], False),
        "shop1": (["shop"], ["shop"], False),
        "store1": (["stock"], ["stock"], False),
        "store2": (["stock"], ["stock"], False),
        "jaeger1": ([], [], True),
    }


def endpoints(plan: Plan, host: str, cluster: str) -> list[Any]:
    (proxy,) = plan.hosts[host].proxies
    (found,) = [c for c in proxy.view["clusters"] if c["name"] == cluster]
    return [(each["address"], each["port"]) for each in found["endpoints"]]


def test_a_caller_knows_every_instance_by_its_mesh_address() -> None:
    plan = compile_mesh(inventory())
    assert endpoints(plan, "shop1", "stock") == [
        ("10.0.0.3", 9002),
        ("10.0.0.4", 9002),
    ]
    assert endpoints(plan, "web1", "shop") == [("10.0.0.2", 9001)]


def test_an_app_learns_its_upstreams_and_its_own_address() -> None:
    (app,) = compile_mesh(inventory()).hosts["shop1"].flask_services
    assert app.environment == {
        "STOCK_URL": f"http://{egress_address('shop')}:9002",
        "MESH_ADDRESS": "10.0.0.2",
        "SERVICE_NAME": "shop",
    }


def test_a_new_call_moves_no_existing_url() -> None:
    mesh = changed("mesh_services.billing", {"port": 9003, "group": "web", "app": {"flask": "b"}})
    mesh["mesh_services"]["shop"]["calls"] = {"billing": {}, "stock": {}}
    before, after = (
        compile_mesh(inventory(m)).hosts["shop1"].flask_services[0].environment["STOCK_URL"]
        for m in (MESH, mesh)
    )
    assert before == after


def test_a_group_may_be_a_single_host() -> None:
    plan = compile_mesh(inventory(changed("mesh_tracing.group", "store1")))
    assert plan.hosts["store1"].jaeger is not None


def test_longer_prefixes_are_matched_first() -> None:
    routes = [{"prefix": "/", "to": "shop"}, {"prefix": "/stock", "to": "stock"}]
    plan = compile_mesh(inventory(changed("mesh_edges.front.routes", routes)))
    (proxy,) = plan.hosts["web1"].proxies
    (site,) = proxy.view["routes"]["public"]["virtual_hosts"]
    assert [route["match"]["prefix"] for route in site["routes"]] == ["/stock", "/"]


def test_operators_pages_are_on_the_mesh_address_unless_told_otherwise() -> None:
    def ui(mesh: dict[str, Any]) -> str:
        jaeger = compile_mesh(inventory(mesh)).hosts["jaeger1"].jaeger
        assert jaeger is not None
        return jaeger.endpoints["ui"]

    assert ui(MESH) == "10.0.0.5:16686"
    assert ui({**MESH, "mesh_operator_bind": "0.0.0.0"}) == "0.0.0.0:16686"


def test_an_unknown_upstream_and_a_service_without_hosts_are_told_in_one_run() -> None:
    mesh = changed("mesh_services.shop.calls", {"stok": {}})
    mesh["mesh_services"]["stock"]["group"] = "nowhere"
    mesh["mesh_edges"]["front"]["routes"] = [{"prefix": "/", "to": "shopp"}]
    mesh["mesh_tracing"]["samplng"] = 50
    found = {(p.variable, p.value) for p in problems_of(inventory(mesh))}
    assert found == {
        ("mesh_services.shop.calls", "stok"),
        ("mesh_services.stock.group", "nowhere"),
        ("mesh_edges.front.routes[0].to", "shopp"),
        ("mesh_tracing.samplng", 50),
    }


@pytest.mark.parametrize(
    ("path", "value", "variable"),
    [
        ("mesh_services", {}, "mesh_services"),
        ("mesh_services.shop.port", "9001", "mesh_services.shop.port"),
        ("mesh_services.shop.port", True, "mesh_services.shop.port"),
        ("mesh_services.shop.port", 70000, "mesh_services.shop.port"),
        ("mesh_services.shop.port", ..., "mesh_services.shop.port"),
        ("mesh_services.shop.port", 9002, "mesh_services.stock.port"),
        ("mesh_services.shop.prot", 1, "mesh_services.shop.prot"),
        ("mesh_services.shop.app", "services/shop", "mesh_services.shop.app"),
        ("mesh_services.shop.app.wsgi", "app.py", "mesh_services.shop.app.wsgi"),
        ("mesh_services.shop.app.workers", 0, "mesh_services.shop.app.workers"),
        ("mesh_services.shop.calls", {"shop": {}}, "mesh_services.shop.calls"),
        ("mesh_services.shop.calls.stock.timeout", -1, "mesh_services.shop.calls.stock.timeout"),
        ("mesh_services.Shop", {"port": 1, "app": {"flask": "x"}}, "mesh_services"),
        ("mesh_services.envoy", {"port": 1, "app": {"flask": "x"}}, "mesh_services"),
        ("mesh_edges.front.routes", [], "mesh_edges.front.routes"),
        ("mesh_edges.front.routes", [{"prefix": "x", "to": "shop"}], "mesh_edges.front.routes[0]"),
        ("mesh_edges.front.trusted_cidrs", ["10.0.0.1/8"], "mesh_edges.front.trusted_cidrs"),
        ("mesh_edges.shop", MESH["mesh_edges"]["front"], "mesh_edges"),
        ("mesh_tracing.sampling", 101, "mesh_tracing.sampling"),
        ("mesh_tracing.group", "stores", "mesh_tracing.group"),
        ("mesh_servces", {}, "inventory.mesh_servces"),
        ("mesh_operator_bind", "everywhere", "mesh_operator_bind"),
    ],
)
def test_a_mistake_is_named_with_a_remedy(path: str, value: Any, variable: str) -> None:
    found = problems_of(inventory(changed(path, value)))
    assert any(problem.variable.startswith(variable) for problem in found), found
    assert all(problem.message and problem.remedy for problem in found)


def test_a_misspelt_key_is_told_the_nearest() -> None:
    (problem,) = problems_of(inventory(changed("mesh_services.shop.opration", "buy")))
    assert "`operation`" in problem.remedy


@pytest.mark.parametrize(
    ("host", "variables"),
    [
        ("web1", {"ansible_host": "web1.example.org"}),
        ("web1", {"ansible_host": "127.0.0.1"}),
        ("web1", {}),
        ("web1", {"ansible_host": "10.0.0.2"}),
    ],
)
def test_a_host_needs_an_address_of_its_own(host: str, variables: dict[str, Any]) -> None:
    found = problems_of(inventory(None, **{host: variables}))
    assert any(host in p.variable or "web1" in p.message for p in found), found


def test_two_parts_cannot_share_a_port_of_a_host() -> None:
    mesh = changed("mesh_edges.front.port", 8001)
    (problem,) = problems_of(inventory(mesh))
    assert "front" in problem.variable
    assert "8001" in str(problem.value)
