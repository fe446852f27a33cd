"""What a playbook picks from the plan for the hosts that answer."""

from __future__ import annotations

from typing import Any

import pytest

from plugins.filter.mesh import (
    callers_of,
    failed_hosts,
    failure_summary,
    left_by_callers,
    play_groups,
    wanted_artifacts,
    with_bundles,
)


def host(**parts: Any) -> dict[str, Any]:
    return {"proxies": [], "balanced": {}, "flask_services": [], "jaeger": None, **parts}


def answer(python: str, arch: str) -> dict[str, Any]:
    return {"vmesh_answer": {"host": {"python": python, "arch": arch}}}


SHOP = {"name": "shop", "source": "services/shop"}
HOSTS = {
    "web1": host(proxies=[{"name": "front"}]),
    "shop1": host(proxies=[SHOP], flask_services=[SHOP]),
    "shop2": host(proxies=[SHOP], flask_services=[SHOP]),
    "jaeger1": host(jaeger={"address": "10.0.0.5"}),
}
ANSWERS = {
    "web1": answer("3.11", "x86_64"),
    "shop1": answer("3.11", "x86_64"),
    "shop2": answer("3.13", "aarch64"),
    "jaeger1": answer("3.11", "x86_64"),
}


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
    settings = {
        "name": "shop",
        "wsgi": "app:app",
        "workers": 1,
        "threads": 8,
        "environment": {},
        "preload": False,
        "grace": 30,
        "health": "/healthz",
        "network": "any",
        "address": "10.0.0.7",
        "port": 9001,
    }
    host = {"python": "3.13", "arch": "aarch64"}
    (service,) = with_bundles([{**SHOP, **settings}], bundles, host)
    assert service == {**settings, "version": "0a1b", "archive": "/cache/shop.tar.gz"}


def test_hosts_come_in_the_order_of_their_batches() -> None:
    rollout = {
        "order": ["b", "a"],
        "new": {"c": [], "a": []},
        "removed": {"b": []},
        "rollover": ["a"],
        "forget": [],
        "firewall": ["c"],
        "stages": {"grant": {"b": []}, "speak": {"a": []}, "narrow": {"b": []}},
    }
    assert play_groups(rollout) == [
        {"name": "b", "groups": ["mesh_rollout", "mesh_grant", "mesh_remove", "mesh_narrow"]},
        {"name": "a", "groups": ["mesh_rollout", "mesh_add", "mesh_sign", "mesh_speak"]},
        {"name": "c", "groups": ["mesh_firewall", "mesh_add"]},
    ]


def test_callers_of_an_instance_are_told_where_others_can_answer() -> None:
    shop = {"name": "shop", "address": "10.0.0.7", "port": 9001}
    hosts = {
        "web1": host(balanced={"front": ["shop"]}),
        "shop1": host(flask_services=[shop]),
        "other": host(balanced={"lonely": []}),
    }
    assert callers_of(hosts, "shop1") == [
        {
            "cluster": "shop",
            "address": "10.0.0.7",
            "port": 9001,
            "host": "web1",
            "proxies": ["front"],
        }
    ]
    assert callers_of(hosts, "web1") == []


def test_a_failed_host_tells_who_has_what_and_what_to_do() -> None:
    told = failure_summary(
        {"task": "envoy : Bring it", "cause": "refused", "told": "It is back."},
        {"applied": ["web1"], "not_begun": ["web3", "web4"]},
    )
    assert told.splitlines() == [
        "envoy : Bring it: refused",
        "It is back.",
        "With the new state: web1.",
        "Not begun, with the old state: web3, web4.",
        "Mend the cause and run site.yml again: it goes on from here.",
    ]


def test_a_host_that_was_restored_has_failed_all_the_same() -> None:
    results = {
        "web1": {"vmesh_result": {"result": "failed", "restored": True}},
        "web2": {"vmesh_result": {"result": "applied"}},
        "web3": {},
    }
    assert failed_hosts(list(results), results) == ["web1"]


@pytest.mark.parametrize(
    ("answer", "left"),
    [
        ({"proxies": ["front"], "left_alone": {}}, ["shop", "stock"]),
        ({"proxies": [], "left_alone": {}}, ["shop", "stock"]),  # since an interrupted run
        (
            {"proxies": [], "left_alone": {"front": "of an earlier release"}},
            ["stock"],
        ),
        ({"unreachable": True}, ["stock"]),
        ({"skipped": True}, ["stock"]),
    ],
)
def test_a_service_is_left_when_all_its_callers_leave_it(
    answer: dict[str, Any], left: list[str]
) -> None:
    good = {"proxies": ["front"], "left_alone": {}}
    results = [
        {"item": {"cluster": "stock"}, **good},
        {"item": {"cluster": "shop"}, **answer},
        {"item": {"cluster": "shop"}, **good},
    ]
    assert left_by_callers({"results": results}) == left
    assert left_by_callers({"skipped": True}) == []
