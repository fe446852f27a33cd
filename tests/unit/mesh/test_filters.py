"""What a playbook picks from the plan for the hosts that answer."""

from __future__ import annotations

import json
from typing import Any

from plugins.filter.mesh import wanted_artifacts, with_bundles, with_groups


def host(**parts: Any) -> dict[str, Any]:
    return {"proxies": {"service": [], "edge": []}, "flask_services": [], "jaeger": None, **parts}


def answer(python: str, arch: str) -> dict[str, Any]:
    return {"vmesh_answer": {"stdout": json.dumps({"python": python, "arch": arch})}}


SHOP = {"name": "shop", "source": "services/shop"}
HOSTS = {
    "web1": host(proxies={"service": [], "edge": [{"name": "front"}]}),
    "shop1": host(proxies={"service": [SHOP], "edge": []}, flask_services=[SHOP]),
    "shop2": host(proxies={"service": [SHOP], "edge": []}, flask_services=[SHOP]),
    "jaeger1": host(jaeger={"address": "10.0.0.5"}),
}
ANSWERS = {
    "web1": answer("3.11", "x86_64"),
    "shop1": answer("3.11", "x86_64"),
    "shop2": answer("3.13", "aarch64"),
    "jaeger1": answer("3.11", "x86_64"),
}


def test_hosts_are_sorted_by_what_runs_on_them() -> None:
    assert with_groups(HOSTS, list(HOSTS)) == [
        {"name": "web1", "groups": ["mesh_hosts", "mesh_edges"]},
        {"name": "shop1", "groups": ["mesh_hosts", "mesh_services"]},
        {"name": "shop2", "groups": ["mesh_hosts", "mesh_services"]},
        {"name": "jaeger1", "groups": ["mesh_hosts", "mesh_jaeger"]},
    ]


def test_only_hosts_of_the_play_and_of_the_plan_are_sorted() -> None:
    assert [each["name"] for each in with_groups(HOSTS, ["other", "shop1"])] == ["shop1"]


def test_each_platform_gets_its_bundle_and_binaries() -> None:
    wanted = wanted_artifacts(HOSTS, ANSWERS, list(HOSTS))
    assert wanted["binaries"] == {"envoy": ["aarch64", "x86_64"], "jaeger": ["x86_64"]}
    assert [(b["python"], b["arch"]) for b in wanted["bundles"]] == [
        ("3.11", "x86_64"),
        ("3.13", "aarch64"),
    ]


def test_a_host_that_did_not_answer_needs_nothing() -> None:
    wanted = wanted_artifacts(HOSTS, {"web1": ANSWERS["web1"]}, ["web1"])
    assert wanted == {"binaries": {"envoy": ["x86_64"], "jaeger": []}, "bundles": []}


def test_a_service_gets_the_bundle_of_its_hosts_platform() -> None:
    bundles = {"shop": {"3.13/aarch64": {"version": "0a1b", "archive": "/cache/shop.tar.gz"}}}
    settings = {"name": "shop", "wsgi": "app:app", "workers": 1, "threads": 8, "environment": {}}
    host = {"python": "3.13", "arch": "aarch64"}
    (service,) = with_bundles([{**SHOP, **settings}], bundles, host)
    assert service == {**settings, "version": "0a1b", "archive": "/cache/shop.tar.gz"}
