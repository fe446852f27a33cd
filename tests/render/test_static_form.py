"""Every shipped inventory is accepted by the real Envoy; a seeded fault of each kind is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from vmesh import paths
from vmesh.compile import compile_mesh
from vmesh.inventory import load
from vmesh.plan import Plan
from vmesh.render import Renderer, write_plan
from vmesh.static_form import static_form
from vmesh.validate import validate_all, validate_static_form

INVENTORIES = sorted(p.name for p in (paths.PROJECT / "inventory").iterdir() if p.is_dir())


def plan_of(name: str) -> Plan:
    return compile_mesh(load(paths.PROJECT / "inventory" / name))


@pytest.mark.parametrize("name", INVENTORIES)
def test_shipped_inventories_are_accepted(name: str, envoy: Path, tmp_path: Path) -> None:
    forms = write_plan(plan_of(name), tmp_path)
    assert forms
    assert validate_all(envoy, forms) == []


def test_the_same_inventory_gives_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_plan(plan_of("lab"), tmp_path / folder)
    one, two = (
        {p.relative_to(tmp_path / f): p.read_bytes() for p in (tmp_path / f).rglob("*.*")}
        for f in ("one", "two")
    )
    assert one == two


def test_what_the_inventory_no_longer_says_is_removed(tmp_path: Path) -> None:
    stale = tmp_path / "gone" / "proxy" / "bootstrap.yaml"
    stale.parent.mkdir(parents=True)
    stale.write_text("")
    write_plan(plan_of("lab"), tmp_path)
    assert not stale.exists()


def _in(kind: str, mend: Callable[[dict[str, Any]], None]) -> Any:
    return pytest.param(kind, mend, id=kind)


def _shipped(content: dict[str, Any]) -> str:
    """Return `content` as a file whose resources begin as in the renderer's."""
    return "resources:\n" + "".join(
        yaml.safe_dump([{"@type": each.pop("@type"), **each}], sort_keys=False).replace(
            "- '@type'", '- "@type"'
        )
        for each in content["resources"]
    )


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
    files = Renderer().files(proxy)
    name = next(n for n in sorted(files, reverse=True) if n.startswith(f"{kind}/"))
    content = yaml.safe_load(files[name])
    fault(content["resources"][0])
    form = tmp_path / "faulty.static.json"
    form.write_text(json.dumps(static_form({**files, name: _shipped(content)})))
    assert validate_static_form(envoy, form)
    form.write_text(json.dumps(static_form(files)))
    assert validate_static_form(envoy, form) is None


@pytest.mark.parametrize("text", ["y", "no", "on", "1e3", "~", "0x1f", "a: b", "'", '"', "{{ x }}"])
def test_texts_that_yaml_takes_for_something_else_arrive_as_they_are(text: str) -> None:
    (proxy,) = plan_of("lab").hosts["edge"].proxies
    for route in proxy.view["routes"]["public"]["virtual_hosts"][0]["routes"]:
        route["operation"] = text
    routes = yaml.safe_load(Renderer().files(proxy)["routes/public.yaml"])
    first = routes["resources"][0]["virtual_hosts"][0]["routes"][0]
    assert first["decorator"]["operation"] == text
