"""What a host says of itself, against what was applied there: each kind of drift is told."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.mesh import worlds
from vmesh.model.inventory import Inventory
from vmesh.rollout import drift
from vmesh.rollout.description import MASKED

KEY = "0123"
RUNNING = {"active": "active", "enabled": "enabled"}
PASSWORD = ("mesh_services", "shop", "app", "environment", "PASSWORD")


def world(password: str = "hunter2") -> Inventory:
    mesh = worlds.changed((f"{'/'.join(PASSWORD)}", password))
    return worlds.inventory(mesh, hidden=(PASSWORD,))


def environments(of: Inventory, host: str) -> dict[str, dict[str, str]]:
    return drift.environments(worlds.plan(of).hosts[host])


def answer(of: Inventory, host: str) -> dict[str, Any]:
    """Return what a host says that has exactly what was applied."""
    described = worlds.described(of)[host]
    state = described.state
    codes = {
        name: {variable: drift.code(KEY, value) for variable, value in each.items()}
        for name, each in environments(of, host).items()
    }
    flask = [app["name"] for app in state["host"]["flask_services"]]
    return copy.deepcopy(
        {
            **worlds.PLATFORM,
            "releases": {**state["versions"], **state["bundles"]},
            "proxies": {
                name: {
                    "files": dict(files),
                    "unit": RUNNING,
                    "runs": "1.40.0",
                    "answers": True,
                    "waiting": [],
                    "bootstrap": True,
                }
                for name, files in described.exact.items()
            },
            "apps": {
                name: {
                    "unit": RUNNING,
                    "socket": RUNNING,
                    "environment": codes[name],
                    "current": True,
                }
                for name in flask
            },
            "offered": {name: each for name, each in codes.items() if name not in flask},
            "firewall": state["host"]["firewall"] is not None,
            "drops": state["host"]["firewall"] is not None,
            "jaeger": {"unit": RUNNING, "current": True} if state["host"]["jaeger"] else None,
        }
    )


def told(host: str, change: Callable[[dict[str, Any]], Any], **more: Any) -> list[tuple[str, str]]:
    """Return the drift of a host whose answer was changed."""
    of = more.pop("of", None) or world()
    said = answer(more.pop("on_host", of), host)
    change(said)
    options: dict[str, Any] = {
        "recorded": worlds.states(of)[host],
        "wanted": worlds.described(of)[host],
        **more,
    }
    found = drift.drift(
        host,
        options["recorded"],
        options["wanted"],
        said,
        environments(of, host) if options["wanted"] else {},
        key=KEY,
    )
    assert {each.host for each in found} <= {host}
    return [(each.part, each.text) for each in found]


def put(*way: Any) -> Callable[[dict[str, Any]], None]:
    """Return a function that sets (the last argument) or, for `...`, removes a value."""
    *parents, last, value = way

    def change(said: dict[str, Any]) -> None:
        target: Any = said
        for key in parents:
            target = target[key]
        if value is ...:
            del target[last]
        else:
            target[last] = value

    return change


@pytest.mark.parametrize("host", sorted(worlds.HOSTS))
def test_a_host_that_is_as_it_was_applied_has_no_drift(host: str) -> None:
    assert told(host, lambda _: None) == []


@pytest.mark.parametrize("host", sorted(worlds.HOSTS))
def test_a_host_without_a_record_is_compared_with_the_inventory(host: str) -> None:
    assert told(host, lambda _: None, recorded=None) == []


def stopped(**more: str) -> dict[str, str]:
    return {**RUNNING, **more}


CASES: list[tuple[str, Callable[[dict[str, Any]], None], tuple[str, str]]] = [
    (
        "web1",
        put("proxies", "front", "files", "rest.yaml", "0" * 64),
        ("edge front", "edited by hand, or applied from elsewhere: rest.yaml"),
    ),
    ("web1", put("proxies", "front", "files", "rest.yaml", ...),
     ("edge front", "missing: rest.yaml")),
    ("web1", put("proxies", "front", "files", "routes/own.json", "0" * 64),
     ("edge front", "not from vmesh: routes/own.json")),
    ("web1", put("proxies", "front", ...), ("edge front", "is not on the host")),
    ("web1", put("proxies", "front", "unit", stopped(active="inactive")),
     ("edge front", "stopped")),
    ("web1", put("proxies", "front", "unit", stopped(active="failed")), ("edge front", "failed")),
    ("web1", put("proxies", "front", "unit", stopped(enabled="disabled")),
     ("edge front", "not enabled: it would not start after a reboot")),
    ("web1", put("proxies", "front", "unit", stopped(active="not installed", enabled="")),
     ("edge front", "unit is not installed")),
    ("web1", put("proxies", "front", "answers", False),
     ("edge front", "does not answer on its admin socket")),
    ("web1", put("proxies", "front", "runs", "1.39.0"),
     ("edge front", "another release runs: 1.39.0, while 1.40.0 is installed")),
    ("web1", put("proxies", "front", "waiting", ["routes/public.json"]),
     ("edge front", "Envoy has not accepted routes/public.json")),
    ("web1", put("proxies", "front", "bootstrap", False),
     ("edge front", "was started from another bootstrap than the one that is there")),
    ("jaeger1", put("releases", "jaeger", "2.12.0"),
     ("Jaeger", "another release is installed: 2.12.0, not 2.13.0")),
    ("web1", put("python", "3.13"),
     ("host", "is Python 3.13 on x86_64 now, and was 3.11 on x86_64: site.yml brings what fits")),
    ("shop1", put("releases", "shop", "0000"),
     ("app shop", "another release is installed: 0000, not aaaa")),
    ("shop1", put("releases", "shop", ...), ("app shop", "no release of it is installed")),
    ("shop1", put("apps", "shop", ...), ("app shop", "is not on the host")),
    ("shop1", put("apps", "shop", "unit", stopped(active="inactive")), ("app shop", "stopped")),
    ("shop1", put("apps", "shop", "socket", stopped(active="inactive")),
     ("app shop", "socket: stopped")),
    ("shop1", put("apps", "shop", "current", False),
     ("app shop", "runs with an older release or older settings than are there")),
    ("shop1", put("apps", "shop", "environment", "COLOR", drift.code(KEY, "red")),
     ("app shop", "environment COLOR was changed by hand")),
    ("shop1", put("apps", "shop", "environment", "COLOR", ...),
     ("app shop", "environment COLOR is missing")),
    ("shop1", put("apps", "shop", "environment", "PASSWORD", drift.code(KEY, "other")),
     ("app shop", "environment PASSWORD is not what the inventory says (its value is not"
      " recorded)")),
    ("store1", put("offered", "stock", ...),
     ("app stock", "/etc/vmesh/stock.env is not on the host")),
    ("store1", put("offered", "stock", "SERVICE_NAME", drift.code(KEY, "other")),
     ("app stock", "environment SERVICE_NAME was changed by hand")),
    ("jaeger1", put("jaeger", None), ("Jaeger", "is not on the host")),
    ("jaeger1", put("jaeger", "unit", stopped(active="inactive")), ("Jaeger", "stopped")),
    ("jaeger1", put("jaeger", "current", False),
     ("Jaeger", "runs with older settings than are there")),
    ("store1", put("proxies", "old", {"files": {}}),
     ("host", "envoy@old was not put there by this inventory; nothing removes it")),
    ("store1", put("apps", "old", {}),
     ("host", "flask@old was not put there by this inventory; nothing removes it")),
    ("store1", put("jaeger", {}),
     ("host", "jaeger was not put there by this inventory; nothing removes it")),
]  # fmt: skip


@pytest.mark.parametrize(("host", "change", "expected"), CASES)
def test_each_kind_of_drift_is_told(
    host: str, change: Callable[[dict[str, Any]], None], expected: tuple[str, str]
) -> None:
    assert told(host, change) == [expected]


def test_another_envoy_is_told_as_installed_and_as_running() -> None:
    assert told("web1", put("releases", "envoy", "1.39.0")) == [
        ("Envoy", "another release is installed: 1.39.0, not 1.40.0"),
        ("edge front", "another release runs: 1.40.0, while 1.39.0 is installed"),
    ]


FIREWALL_CASES = [
    (put("firewall", False), "is not on the host"),
    (put("drops", False),
     "its rules are not loaded: `systemctl reload vmesh-firewall` there does it"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "text"), FIREWALL_CASES)
def test_a_firewall_that_is_gone_or_not_loaded_is_told(
    change: Callable[[dict[str, Any]], None], text: str
) -> None:
    walled = worlds.inventory(worlds.changed(("mesh_firewall", {"enabled": True})))
    assert told("web1", lambda _: None, of=walled) == []
    assert told("web1", change, of=walled) == [("firewall", text)]


def test_a_firewall_of_which_the_inventory_knows_nothing_is_told() -> None:
    text = "is on the host, and the inventory has none"
    assert told("web1", put("firewall", True)) == [("firewall", text)]


def test_what_was_applied_from_elsewhere_as_the_inventory_says_is_no_drift() -> None:
    newer = worlds.inventory(worlds.changed(("mesh_edges/front/routes/0/timeout", 5)))
    old = worlds.states()["web1"]
    assert told("web1", lambda _: None, of=newer, recorded=old) == []


def test_a_secret_that_changed_is_seen_on_the_host() -> None:
    """The record has no value to compare; the inventory's of now and the host's differ."""
    found = told("shop1", lambda _: None, of=world("new"), on_host=world("old"))
    assert found == [
        (
            "app shop",
            "environment PASSWORD is not what the inventory says (its value is not recorded)",
        ),
    ]
    assert told("shop1", lambda _: None, of=world("same"), on_host=world("same")) == []


def test_of_files_with_hidden_values_only_the_inventory_can_tell() -> None:
    way = ("mesh_services", "shop", "operation")
    of = worlds.inventory(worlds.changed(("/".join(way), "secret")), hidden=(way,))
    recorded = worlds.states(of)["shop1"]
    assert recorded["files"]["shop"]["rest.yaml"].startswith(MASKED)
    assert told("shop1", lambda _: None, of=of) == []
    edited = put("proxies", "shop", "files", "rest.yaml", "0" * 64)
    assert told("shop1", edited, of=of) == [
        (
            "shop's Envoy",
            "not what the inventory says, or a hidden value has changed in it: rest.yaml",
        ),
    ]


def test_a_host_that_has_left_the_mesh_tells_what_is_still_there() -> None:
    assert told("shop1", lambda _: None, recorded=None, wanted=None) == [
        ("host", "envoy@shop was not put there by this inventory; nothing removes it"),
        ("host", "flask@shop was not put there by this inventory; nothing removes it"),
    ]
