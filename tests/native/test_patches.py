"""mesh_patches: what they do to the configuration, and what the real Envoy says of it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.envoy_apply import bring
from tests.native.native import get, native, on_loopback, port_of
from vmesh.base import paths
from vmesh.base.problems import Problems
from vmesh.compile.compiler import compile_mesh
from vmesh.compile.host_spec import MeshSpec, ProxySpec
from vmesh.model.inventory import Inventory, load
from vmesh.render.patches import merged
from vmesh.render.renderer import Renderer, write_files
from vmesh.render.validate import validate_all

LAB = paths.PROJECT / "inventory" / "lab"
EDGE = "front-proxy"


def lab_with(*patches: dict[str, Any]) -> MeshSpec:
    """Return the lab's mesh, with patches of its edge unless they name another proxy."""
    inventory = load(LAB)
    mesh = {**copy.deepcopy(dict(inventory.mesh))}
    mesh["mesh_patches"] = [{"proxy": EDGE, **patch} for patch in patches]
    return compile_mesh(Inventory(**{**vars(inventory), "mesh": mesh}))


def edge_of(spec: MeshSpec) -> ProxySpec:
    (proxy,) = spec.hosts["edge"].proxies
    return proxy


# RFC 7396, appendix A.
@pytest.mark.parametrize(
    ("value", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_a_merge_patch_is_that_of_the_rfc(value: Any, patch: Any, result: Any) -> None:
    before = copy.deepcopy(value)
    assert merged(value, patch) == result
    assert value == before


CASES: list[tuple[dict[str, Any], str, Any]] = [
    (
        {
            "kind": "listener",
            "name": "public",
            "merge": {"per_connection_buffer_limit_bytes": 4096},
        },
        "listeners/listeners.json",
        lambda d: (
            [r.get("per_connection_buffer_limit_bytes") == 4096 for r in d["resources"]]
            == [r["name"] == "public" for r in d["resources"]]
        ),
    ),
    (
        {
            "kind": "cluster",
            "name": "service?",
            "patch": [{"op": "replace", "path": "/connect_timeout", "value": "3s"}],
        },
        "clusters/clusters.json",
        lambda d: (
            {r["name"] for r in d["resources"] if r["connect_timeout"] == "3s"}
            == {"service1", "service2"}
        ),
    ),
    (
        {
            "kind": "route",
            "name": "public",
            "patch": [{"op": "add", "path": "/response_headers_to_remove", "value": ["server"]}],
        },
        "routes/public.json",
        lambda d: d["resources"][0]["response_headers_to_remove"] == ["server"],
    ),
    (
        {
            "kind": "endpoint",
            "name": "service1",
            "merge": {"policy": {"overprovisioning_factor": 100}},
        },
        "endpoints/service1.json",
        lambda d: d["resources"][0]["policy"] == {"overprovisioning_factor": 100},
    ),
    (
        {"kind": "bootstrap", "merge": {"stats_flush_interval": "10s"}},
        "bootstrap.json",
        lambda d: d["stats_flush_interval"] == "10s",
    ),
]


@pytest.mark.parametrize(("patch", "path", "holds"), CASES, ids=[c[0]["kind"] for c in CASES])
def test_each_kind_is_changed_has_another_version_and_is_accepted(
    patch: dict[str, Any], path: str, holds: Any, envoy: Path, tmp_path: Path
) -> None:
    before = Renderer().files(edge_of(lab_with()))
    spec = lab_with(patch)
    after = Renderer().files(edge_of(spec))
    assert [name for name in after if after[name] != before[name]] == [path]
    assert holds(json.loads(after[path]))
    assert validate_all(envoy, write_files(spec, tmp_path)) == []
    other = spec.hosts["service1"].proxies[0]
    assert "patches" not in other.view


def test_a_running_envoy_takes_it(envoy: Path, tmp_path: Path) -> None:
    answer = {"status": 418, "body": {"inline_string": "patched"}}
    route = {"match": {"path": "/patched"}, "direct_response": answer}
    add = {"op": "add", "path": "/virtual_hosts/0/routes/0", "value": route}
    proxy = on_loopback(edge_of(lab_with({"kind": "route", "name": "public", "patch": [add]})))
    with native(envoy, tmp_path, proxy) as made:
        bring(made.proxy, made.files())
        status, _, body = get(port_of(proxy, "public"), "/patched")
        assert (status, body) == (418, "patched")


def problems_of(*patches: dict[str, Any]) -> list[tuple[str, str]]:
    with pytest.raises(Problems) as caught:
        Renderer().documents(edge_of(lab_with(*patches)))
    return [(each.variable, each.message) for each in caught.value.items]


def test_all_patches_that_cannot_be_applied_are_told_at_once() -> None:
    found = problems_of(
        {"kind": "listener", "patch": [{"op": "remove", "path": "/no/such"}]},
        {"kind": "cluster", "patch": [{"op": "test", "path": "/name", "value": "secret"}]},
        {"kind": "cluster", "patch": [{"op": "dance", "path": "/name"}]},
    )
    assert [variable for variable, _ in found] == [f"mesh_patches[{n}]" for n in range(3)]
    assert all(message.startswith("cannot be applied: ") for _, message in found)
    assert "secret" not in str(found)


@pytest.mark.parametrize(
    ("patch", "field"),
    [
        ({"kind": "listener", "name": "public", "merge": {"name": "other"}}, "name"),
        ({"kind": "endpoint", "name": "service1", "merge": {"cluster_name": "x"}}, "cluster_name"),
        ({"kind": "cluster", "merge": {"@type": "x"}}, "@type"),
        ({"kind": "bootstrap", "merge": {"admin": None}}, "admin"),
        ({"kind": "bootstrap", "merge": {"dynamic_resources": {"lds_config": None}}}, "dynamic"),
        (
            {"kind": "bootstrap", "merge": {"node": {"metadata": {"bootstrap_version": "1"}}}},
            "bootstrap_version",
        ),
        ({"kind": "listener", "name": "public", "merge": {"filter_chains": []}}, "route table"),
        ({"kind": "cluster", "name": "service1", "merge": {"alt_stat_name": "x"}}, "alt_stat_name"),
        ({"kind": "cluster", "name": "service1", "merge": {"type": None}}, "type"),
    ],
)
def test_what_vmesh_needs_cannot_be_changed(patch: dict[str, Any], field: str) -> None:
    ((variable, message),) = problems_of(patch)
    assert variable == "mesh_patches[0]"
    assert field in message
    assert message.endswith("which vmesh needs")


@pytest.mark.parametrize(
    "patch",
    [
        {"kind": "cluster", "name": "service1", "merge": {"transport_socket": "x"}},
        {
            "kind": "listener",
            "name": "public",
            "patch": [{"op": "add", "path": "/filter_chains/0/filters/0", "value": "x"}],
        },
    ],
)
def test_a_value_of_another_kind_is_told_with_the_patch(
    patch: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(Problems, match=r"mesh_patches\[0\].*another kind"):
        write_files(lab_with(patch), tmp_path)


def test_what_envoy_refuses_is_told_with_the_patch(envoy: Path, tmp_path: Path) -> None:
    spec = lab_with({"kind": "cluster", "merge": {"connect_timeout": "soon"}})
    (problem,) = validate_all(envoy, write_files(spec, tmp_path))
    assert "connect_timeout" in problem.message or "soon" in problem.message
    assert "mesh_patches[0]" in problem.remedy
