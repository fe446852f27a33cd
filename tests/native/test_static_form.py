"""Every shipped inventory is accepted by the real Envoy; a seeded fault of each kind is not."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.native import views
from tests.native.native import static_text
from vmesh.base import paths
from vmesh.base.problems import Problems
from vmesh.compile.compiler import compile_mesh
from vmesh.compile.host_spec import MeshSpec, ProxySpec, View
from vmesh.model.inventory import load
from vmesh.render import validate
from vmesh.render.renderer import Renderer, write_files
from vmesh.render.shared import Shared
from vmesh.render.static_form import STATIC_SUFFIX, StaticForm, StaticForms
from vmesh.render.validate import validate_all, validate_static_form

INVENTORIES = sorted(p.name for p in (paths.PROJECT / "inventory").iterdir() if p.is_dir())


def plan_of(name: str) -> MeshSpec:
    return compile_mesh(load(paths.PROJECT / "inventory" / name))


@pytest.mark.parametrize("name", INVENTORIES)
def test_shipped_inventories_are_accepted(name: str, envoy: Path, tmp_path: Path) -> None:
    forms = write_files(plan_of(name), tmp_path)
    assert forms
    assert validate_all(envoy, forms) == []


def test_the_same_inventory_gives_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_files(plan_of("lab"), tmp_path / folder)
    one, two = (
        {p.relative_to(tmp_path / f): p.read_bytes() for p in (tmp_path / f).rglob("*.*")}
        for f in ("one", "two")
    )
    assert one == two


def test_only_what_has_changed_is_written(tmp_path: Path) -> None:
    def places() -> dict[Path, tuple[int, int]]:
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}

    plan = plan_of("lab")
    forms = write_files(plan, tmp_path)
    before = places()
    edge = tmp_path / "edge" / "front-proxy" / "routes" / "public.json"
    whole = edge.read_text()
    for damaged in (whole[:100], whole.replace("/", "_")):
        edge.write_text(damaged)
        assert write_files(plan, tmp_path) == forms
        assert edge.read_text() == whole
    after = places()
    assert {path for path in before if before[path] != after[path]} == {edge}
    assert before.keys() == after.keys()


def test_what_the_inventory_no_longer_says_is_removed(tmp_path: Path) -> None:
    stale = tmp_path / "gone" / "proxy" / "bootstrap.json"
    stale.parent.mkdir(parents=True)
    stale.write_text("")
    write_files(plan_of("lab"), tmp_path)
    assert not stale.exists()


def _in(kind: str, mend: Callable[[dict[str, Any]], None]) -> Any:
    return pytest.param(kind, mend, id=kind)


def _set(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda resource: resource.update({key: value})


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        _in("listeners", _set("traffic_direction", "SIDEWAYS")),
        _in("clusters", _set("connect_timeout", "soon")),
        _in("routes", lambda r: r["virtual_hosts"][0]["routes"][0]["route"].update(cluster="no")),
        _in("endpoints", lambda r: r["endpoints"][0].update(lb_endpoints=[{"endpoint": 5}])),
    ],
)
def test_a_fault_in_any_kind_of_file_is_refused(
    kind: str, fault: Callable[[dict[str, Any]], None], envoy: Path, tmp_path: Path
) -> None:
    (proxy,) = plan_of("lab").hosts["edge"].proxies
    documents = copy.deepcopy(Renderer().documents(proxy))
    form = tmp_path / f"lab{STATIC_SUFFIX}"
    form.write_text(json.dumps(StaticForms(Shared()).form(documents)))
    assert validate_static_form(envoy, form) is None
    name = next(n for n in sorted(documents, reverse=True) if n.startswith(f"{kind}/"))
    fault(documents[name]["resources"][0])
    form.write_text(json.dumps(StaticForms(Shared()).form(documents)))
    assert validate_static_form(envoy, form)


TEXTS = ["y", "no", "on", "1e3", "~", "0x1f", "a: b", "'", '"', "{{ x }}", "# a", "- a", "\\ud83d"]
TEXTS += [
    '" : "',
    '": ',
    '{"a": [1]}',
    "a\nb\tc\r",
    "\u20ac \U0001f600",
    "\x7f\x85\u2028\ufeff",
    "%",
    " ",
]


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_texts_that_yaml_takes_for_something_else_arrive_as_they_are(text: str) -> None:
    routes = [
        views.answer("/", answer={"status": 200, "body": text}, operation=text),
        views.route("/", "shop", rewrite={"regex": text, "substitution": text}),
    ]
    tagged = views.tracing(tags=[views.tag("a", literal=text)])
    plan = views.proxy(
        [views.public(tracing=tagged)], {"public": views.table(views.host("all", routes))}, []
    )
    files = Renderer().files(plan)
    hosts = json.loads(files["routes/public.json"])["resources"][0]["virtual_hosts"]
    first, second = hosts[0]["routes"]
    assert first["decorator"]["operation"] == text
    assert first["direct_response"]["body"]["inline_string"] == text
    assert second["route"]["regex_rewrite"]["substitution"] == text
    (listener,) = json.loads(files["listeners/listeners.json"])["resources"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    assert manager["tracing"]["custom_tags"][0]["literal"]["value"] == text


def _everything() -> ProxySpec:
    """Return a proxy with all that a view can hold and the shipped inventories have not."""
    everything: View = {
        "filters": {
            "cors": {
                "origins": ["*"],
                "methods": ["GET"],
                "headers": [],
                "expose": [],
                "credentials": False,
                "max_age": 0,
            },
            "fault": {
                "delay": {"seconds": 0.001, "percent": 0.0001},
                "abort": {"status": 503, "percent": 33.3333},
            },
            "rate_limit": {"tokens": 1, "interval": 1 / 3, "burst": 3, "retry_after": 1},
            "max_request_bytes": 104857600,
            "compression": True,
        },
        "tracing": {"sampling": 12.5, "tags": [views.tag("a", literal="b")]},
    }
    match = views.match("/", headers=[{"name": "a", "exact": ""}, {"name": "b", "present": False}])
    tls: View = {"sni": "a.example.com", "verify": True, "ca_file": None}
    check: View = {"path": "/", "interval": 5.0, "timeout": 0.5}
    check |= {"healthy_threshold": 1, "unhealthy_threshold": 1}
    zones = [views.endpoint(1, "east"), views.endpoint(2, "west", 1), views.endpoint(3, None, 1)]
    given = {"health_check": check, "load_balancing": "ring_hash"}
    plan = views.proxy(
        [views.public(trusted_networks=[views.LOOPBACK], port=1)],
        {
            "public": views.table(
                views.host("all", [views.route("/", "zoned", match=match, **everything)]),
                views.host("other", [], domains=["a.example.com:80"]),
            )
        },
        [
            views.cluster("zoned", endpoints=zones, **given),
            views.cluster("outside", type="dns", endpoints=zones[:1], tls=tls, http2=True),
            views.collector(1),
        ],
    )
    plan.view["node"]["zone"] = "east"
    return plan


def test_all_that_a_view_can_hold_is_accepted(envoy: Path, tmp_path: Path) -> None:
    form = tmp_path / f"everything{STATIC_SUFFIX}"
    form.write_text(static_text(_everything()))
    assert validate_static_form(envoy, form) is None


@pytest.mark.parametrize("name", INVENTORIES)
def test_documents_that_share_parts_are_written_as_any_json(name: str) -> None:
    renderer = Renderer()
    proxies = [proxy for host in plan_of(name).hosts.values() for proxy in host.proxies]
    for proxy in [*proxies, _everything()]:
        documents = renderer.documents(proxy)
        for path, text in renderer.written(documents).items():
            plain = json.dumps(documents[path], indent=2, ensure_ascii=False)
            assert text == f"{plain}\n", path
            alone = Renderer().files(proxy)[path]
            assert text == alone, f"{path} depends on what was rendered before"


def test_an_authority_that_cannot_be_read_is_named() -> None:
    plan = _everything()
    plan.view["clusters"][1]["tls"]["ca_file"] = "no/such.pem"
    with pytest.raises(Problems, match=r"no/such\.pem"):
        Renderer().files(plan)


@pytest.fixture
def forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[StaticForm]]:
    """Return two equal forms and one that Envoy refuses; an Envoy that counts is beside them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    written = []
    for name, text in (("one", "good"), ("two", "good"), ("three", "bad")):
        form = tmp_path / "host" / f"{name}{STATIC_SUFFIX}"
        form.parent.mkdir(exist_ok=True)
        form.write_text(text)
        written.append(StaticForm(form, essence=text))
    yield written


def _counting_envoy(folder: Path) -> tuple[Path, Path]:
    """Return a program that accepts the forms without "bad", and the file of what it saw."""
    envoy, saw = folder / "envoy", folder / "saw"
    envoy.write_text(f'#!/bin/sh\necho "$(cat "$4")" >>{saw}; ! grep -q bad "$4"\n')
    envoy.chmod(0o755)
    return envoy, saw


def test_envoy_sees_equal_forms_once_and_accepted_ones_never_again(
    forms: list[StaticForm], tmp_path: Path
) -> None:
    envoy, saw = _counting_envoy(tmp_path)
    for expected in (["bad", "good"], ["bad"]):
        problems = validate_all(envoy, forms)
        assert [problem.variable for problem in problems] == ["host/three"]
        assert sorted(saw.read_text().split()) == expected
        saw.unlink()
    os.utime(envoy, (0, 0))  # another binary
    validate_all(envoy, forms)
    assert sorted(saw.read_text().split()) == ["bad", "good"]


def test_replicas_are_the_same_to_envoy_and_other_proxies_are_not() -> None:
    def form(node: str, listening: str, upstreams: list[str]) -> str:
        plan = views.proxy(
            [views.public(address=listening, port=80)],
            {"public": views.table(views.host("all", [views.route("/", "shop")]))},
            [views.cluster("shop", endpoints=[{"address": a, "port": 1} for a in upstreams])],
        )
        plan.view["node"]["id"] = node
        renderer = Renderer()
        forms = StaticForms(renderer.shared)
        return forms.essence(forms.form(renderer.documents(plan)))

    first = form("shop@a", "10.0.0.1", ["10.0.0.8", "10.0.0.9"])
    assert form("shop@b", "10.0.0.2", ["10.0.0.8", "10.0.0.9"]) == first
    assert form("shop@b", "10.0.0.2", ["10.0.0.8", "10.0.0.8"]) != first
    assert form("shop@b", "10.0.0.2", ["10.0.0.8", "10.0.0.2"]) != first
    assert form("shop@b", "10.0.0.2", ["10.0.0.8"]) != first


def test_every_proxy_with_a_refused_form_is_named(forms: list[StaticForm], tmp_path: Path) -> None:
    envoy, _ = _counting_envoy(tmp_path)
    forms[0].path.write_text("bad")
    forms[0] = StaticForm(forms[0].path, essence="bad")
    problems = validate_all(envoy, forms)
    assert [problem.variable for problem in problems] == ["host/one", "host/three"]


def test_an_envoy_that_comes_to_no_end_is_a_problem_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "envoy"
    slow.write_text("#!/bin/sh\nexec sleep 30\n")
    slow.chmod(0o755)
    monkeypatch.setattr(validate, "SECONDS", 0.2)
    assert "0.2 s" in str(validate_static_form(slow, tmp_path / "form.json"))
