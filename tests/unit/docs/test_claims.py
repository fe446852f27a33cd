"""What the recipes say beside their commands, where no Envoy is needed to see it."""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2 import Environment, StrictUndefined

from tests.documents import DOCS, LAB, commands, lab_with, sections
from vmesh.base import paths
from vmesh.base.problems import Problems
from vmesh.compile.compiler import compile_mesh
from vmesh.compile.host_spec import MeshSpec, ProxySpec
from vmesh.model.inventory import load
from vmesh.model.parse import policies
from vmesh.render.renderer import Renderer

SECTIONS = {section.title: section for section in sections(DOCS / "recipes.md")}


def model_of(title: str) -> dict[str, Any]:
    """Return the last example of a recipe."""
    found: dict[str, Any] = yaml.safe_load(SECTIONS[title].models[-1])
    return found


def compiled(title: str, model: dict[str, Any], folder: Path) -> MeshSpec:
    return compile_mesh(lab_with(SECTIONS[title].hosts, yaml.safe_dump(model), folder))


def proxy(plan: MeshSpec, name: str) -> ProxySpec:
    (found,) = [p for host in plan.hosts.values() for p in host.proxies if p.name == name]
    return found


def problems(title: str, model: dict[str, Any], folder: Path) -> list[str]:
    with pytest.raises(Problems) as caught:
        compiled(title, model, folder)
    return [problem.variable for problem in caught.value.items]


OUTSIDE = "An address outside the mesh"


def test_an_app_finds_an_address_outside_as_a_plain_url(tmp_path: Path) -> None:
    plan = compiled(OUTSIDE, model_of(OUTSIDE), tmp_path)
    (app,) = plan.hosts["service1"].flask_services
    assert app.environment["RATES_URL"].startswith("http://127.")
    assert app.environment["RATES_URL"].endswith(":443")
    view = proxy(plan, "service1").view
    (route,) = view["routes"]["egress-rates"]["virtual_hosts"][0]["routes"]
    assert route["rewrite"] == {"host": "api.example.com"}
    (cluster,) = [each for each in view["clusters"] if each["name"] == "rates"]
    assert (cluster["tls"]["sni"], cluster["tls"]["verify"]) == ("api.example.com", True)


def test_a_certificate_that_is_not_verified_gets_a_warning(tmp_path: Path) -> None:
    model = model_of(OUTSIDE)
    model["mesh_services"]["service1"]["calls"]["rates"]["tls"] = {"verify": False}
    (warning,) = compiled(OUTSIDE, model, tmp_path).warnings
    assert warning.variable == "mesh_services.service1.calls.rates.tls.verify"


def test_an_address_needs_the_name_in_its_certificate(tmp_path: Path) -> None:
    model = model_of(OUTSIDE)
    model["mesh_services"]["service1"]["calls"]["rates"]["host"] = "203.0.113.5"
    assert problems(OUTSIDE, model, tmp_path) == ["mesh_services.service1.calls.rates.tls"]
    model["mesh_services"]["service1"]["calls"]["rates"]["tls"] = {"sni": "api.example.com"}
    assert compiled(OUTSIDE, model, tmp_path).warnings == ()


def test_an_app_that_runs_already_is_told_where_its_upstream_is(tmp_path: Path) -> None:
    title = "An app that runs already"
    plan = compiled(title, yaml.safe_load(SECTIONS[title].models[0]), tmp_path)
    (app,) = plan.hosts["service2"].external_apps
    assert app.environment["SERVICE2_URL"].startswith("http://127.")
    assert proxy(plan, "legacy").user == "envoy-legacy"
    template = paths.PROJECT / "roles" / "external_app" / "templates" / "env.j2"
    environment = Environment(trim_blocks=True, undefined=StrictUndefined)
    environment.filters["dictsort"] = lambda value: sorted(value.items())
    written = environment.from_string(template.read_text()).render(item=asdict(app))
    (command,) = [
        command
        for block in SECTIONS[title].blocks
        if block.language == "console"
        for command in commands(block)
        if command.line.endswith("cat /etc/vmesh/legacy.env")
    ]
    assert command.agrees(written), written


def test_a_secret_in_plain_text_gets_a_warning(tmp_path: Path) -> None:
    model = yaml.safe_load(SECTIONS["Environment and secrets"].models[0])
    model["mesh_services"]["service1"]["app"]["environment"]["API_KEY"] = "s3cret"
    (warning,) = compiled("Environment and secrets", model, tmp_path).warnings
    assert warning.variable == "mesh_services.service1.app.environment"
    assert "s3cret" not in str(warning)


def test_a_route_that_no_request_can_reach_is_an_error(tmp_path: Path) -> None:
    title = "Route matches and their order"
    model = model_of(title)
    routes = model["mesh_edges"]["front-proxy"]["routes"]
    routes.append({"prefix": "/item", "to": "service2"})
    assert problems(title, model, tmp_path) == ["mesh_edges.front-proxy.routes[6]"]


def test_a_change_of_weights_is_a_change_of_routes_alone(tmp_path: Path) -> None:
    title = "Canary by weights"
    before = model_of(title)
    after = copy.deepcopy(before)
    after["mesh_edges"]["front-proxy"]["routes"][0]["to"] = {"service1": 50, "service1-next": 50}
    one, other = (
        Renderer().files(proxy(compiled(title, model, tmp_path), "front-proxy"))
        for model in (before, after)
    )
    assert [name for name in one if one[name] != other[name]] == ["routes/public.json"]


def test_every_origin_with_cookies_is_an_error(tmp_path: Path) -> None:
    model = model_of("CORS")
    model["mesh_edges"]["front-proxy"]["cors"] = {"origins": ["*"], "credentials": True}
    assert problems("CORS", model, tmp_path) == ["mesh_edges.front-proxy.cors.credentials"]


def test_another_collector_takes_jaegers_place(tmp_path: Path) -> None:
    assert compile_mesh(load(LAB)).hosts["jaeger"].jaeger is not None
    plan = compiled("Another collector", model_of("Another collector"), tmp_path)
    assert "jaeger" not in plan.hosts


@pytest.mark.parametrize(
    ("title", "path", "said"),
    [
        ("Timeout", "timeout", 10.0),
        ("Circuit breaking", "circuit_breaker.max_requests", 1024),
        ("Load balancing", "load_balancing", "least_request"),
        ("Outlier detection", "outlier_detection.consecutive_5xx", 0),
        ("Outlier detection", "outlier_detection.consecutive_local_failures", 5),
        ("Outlier detection", "outlier_detection.ejection_time", 30.0),
        ("Retry budget", "retries.budget_percent", 20.0),
        ("Retry budget", "retries.min_concurrent", 3),
        ("Retries", "retries.attempts", 2),
        ("Timeout of each attempt", "retries.per_try_timeout", None),
        ("Active health checks", "health_check", None),
    ],
)
def test_the_defaults_are_those_that_the_recipe_names(title: str, path: str, said: Any) -> None:
    assert title in SECTIONS
    found: Any = policies({})
    for part in path.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == said
