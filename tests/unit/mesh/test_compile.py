"""What an inventory means, and what it is told when it is wrong."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from vmesh.base.problems import ERROR, WARNING, Problem, Problems
from vmesh.compile.compiler import compile_mesh
from vmesh.compile.host_spec import MeshSpec, egress_address
from vmesh.model.inventory import Inventory

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


def endpoints(plan: MeshSpec, host: str, cluster: str) -> list[Any]:
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


# What is said of wrong inventories is in tests/corpus, word for word.


def test_warnings_come_with_the_plan_and_with_problems() -> None:
    circle = changed("mesh_services.stock.calls", {"shop": {}})
    (warning,) = compile_mesh(inventory(circle)).warnings
    assert warning.severity == WARNING
    circle["mesh_edges"]["front"]["port"] = 0
    assert {problem.severity for problem in problems_of(inventory(circle))} == {ERROR, WARNING}


def test_what_is_told_has_the_same_order_every_time() -> None:
    mesh = changed("mesh_services.stock.port", 0)
    mesh["mesh_services"]["shop"].update(port=0, prot=1, calls={"stok": {}, "stick": {}})
    first = problems_of(inventory(mesh))
    assert len(first) == 5
    for _ in range(5):
        assert problems_of(inventory(copy.deepcopy(mesh))) == first


def test_an_inventory_is_not_changed_by_looking_at_it() -> None:
    given = inventory(copy.deepcopy(MESH))
    compile_mesh(given)
    assert given.mesh == MESH


def test_a_body_is_counted_in_bytes() -> None:
    route = {"prefix": "/x", "answer": {"status": 200, "body": "é" * 2048}}
    assert compile_mesh(inventory(changed("mesh_edges.front.routes", [route])))
    route["answer"] = {"status": 200, "body": "é" * 2049}
    (problem,) = problems_of(inventory(changed("mesh_edges.front.routes", [route])))
    assert problem.variable == "mesh_edges.front.routes[0].answer.body"
    assert "4096 bytes" in problem.remedy
    assert len(problem.value) < 100


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("mesh_services.shop.app.API_KEY", "s3cr3t-word"),
        ("mesh_services.shop.app.API_KEY", "0123456789" * 20),
        ("mesh_password", "s3cr3t-word"),
        ("mesh_edges.front.routes.0.prefix", "s3cr3t-word"),
        ("mesh_edges.front.routes.0.headers", {"x-key": {"regex": "(s3cr3t-word"}}),
        ("mesh_edges.front.routes.0.methods", ["s3cr3t-word"]),
    ],
)
def test_no_message_shows_what_the_vault_keeps(path: str, value: Any) -> None:
    kept = frozenset({"s3cr3t-word", "0123456789" * 20})
    with pytest.raises(Problems) as found:
        compile_mesh(dataclasses.replace(inventory(changed(path, value)), secrets=kept))
    said = str(found.value)
    assert "(hidden)" in said
    assert "s3cr3t" not in said
    assert "0123456789" not in said
    with pytest.raises(Problems) as shown:
        compile_mesh(inventory(changed(path, value)))
    assert "s3cr3t-word" in str(shown.value) or "0123456789" in str(shown.value)


# What a host's app has for itself


def with_environments(**hosts: dict[str, Any]) -> Inventory:
    """Return an inventory in which apps of `stock` have another environment on some hosts."""
    mesh = changed("mesh_services.stock.app.environment", {"NODE": "store1"})
    own = {host: {"stock": environment} for host, environment in hosts.items()}
    return dataclasses.replace(inventory(mesh), environments=own)


def test_an_app_has_the_environment_of_its_host() -> None:
    plan = compile_mesh(with_environments(store2={"NODE": 2, "MORE": 0.5}))
    found = {host: plan.hosts[host].flask_services[0].environment for host in ("store1", "store2")}
    assert found["store1"]["NODE"] == "store1"
    assert "MORE" not in found["store1"]
    assert (found["store2"]["NODE"], found["store2"]["MORE"]) == ("2", "0.5")
    assert {each["SERVICE_NAME"] for each in found.values()} == {"stock"}
    assert found["store2"]["MESH_ADDRESS"] == "10.0.0.4"


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({"NODE": ["a"]}, ".NODE"),
        ({"NODE": None}, ".NODE"),
        ({"NODE": "a\x00b"}, ".NODE"),
        ({"NO DE": "a"}, ""),
        ("all of it", ""),
        ({"MESH_ADDRESS": "10.0.0.9"}, ""),
    ],
)
def test_a_wrong_environment_of_one_host_is_told_of_that_host(environment: Any, place: str) -> None:
    (problem,) = problems_of(with_environments(store2=environment))
    assert problem.variable == f"store2: mesh_services.stock.app.environment{place}"
