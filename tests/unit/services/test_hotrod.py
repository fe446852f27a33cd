"""HotROD's inventory, the units that its playbook installs, and what its tests ask of a trace."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import yaml
from ansible.plugins.filter.urlsplit import split_url
from jinja2 import Environment, StrictUndefined

from tests.live.spans import Node
from tests.live_hotrod.ride import DRIVERS, expected, is_look, mistakes
from tests.unit.units.test_units import HARDENING, needs_systemd, verify
from vmesh.base.paths import PROJECT
from vmesh.compile.host_spec import MeshSpec, egress_address
from vmesh.model.types import ExternalApp
from vmesh.remote.mesh import read
from vmesh.traces.span import Span

HOTROD = PROJECT / "inventory" / "example-hotrod"
SERVICES = ("frontend", "customer", "driver", "route")


@pytest.fixture(scope="module")
def plan() -> MeshSpec:
    return read(HOTROD).spec


def test_its_four_programs_run_behind_envoys_of_their_own(plan: MeshSpec) -> None:
    assert plan.warnings == ()
    assert set(plan.mesh.services) == set(SERVICES)
    apps = [service.app for service in plan.mesh.services.values()]
    assert all(isinstance(app, ExternalApp) for app in apps)
    # From elsewhere they are reached through their Envoys only.
    assert {app.listening.partition(":")[0] for app in apps if isinstance(app, ExternalApp)} == {
        "127.0.0.1"
    }
    assert len(set(plan.hosts)) == 3


def test_the_scenario_is_the_example_on_vms_that_are_there(plan: MeshSpec) -> None:
    scenario = read(PROJECT / "molecule" / "change" / "hotrod")
    assert scenario.spec == plan
    before = read(PROJECT / "molecule" / "change" / "inventory")
    for host in plan.hosts:
        here = ("lab_name", "lab_network_port", "lab_memory_mb", "ansible_port", "mesh_address")
        assert [scenario.variables(host)[name] for name in here] == [
            before.variables(host)[name] for name in here
        ]


def _unit(plan: MeshSpec, service: str) -> str:
    """Return the unit of a service as the playbook installs it."""
    [environment] = {
        "# Written by the role external_app.\n"
        + "".join(f"{name}={value}\n" for name, value in app.environment.items() if "_URL" in name)
        for host in plan.hosts.values()
        for app in host.external_apps
        if app.name == service
    }
    template = PROJECT / "services" / "hotrod" / "hotrod.service.j2"
    jinja = Environment(undefined=StrictUndefined, trim_blocks=True)
    jinja.filters["urlsplit"] = split_url
    apps = {
        name: {"app": {"external": each.app.listening}}
        for name, each in plan.mesh.services.items()
        if isinstance(each.app, ExternalApp)
    }
    return jinja.from_string(template.read_text()).render(
        mesh_services=apps,
        hotrod_service=service,
        hotrod_environment=environment,
        hotrod_collector="http://198.18.0.41:4318",
        hotrod_page_jaeger="http://127.0.0.1:16716",
        hotrod_release={"version": "2.13.0"},
        lookup=lambda name: {"vmesh.mesh.hardening": HARDENING}[name],
    )


def _places(unit: str) -> dict[str, str]:
    """Return the address and port that a unit's options give for each service."""
    options = dict(re.findall(r"--(\S+)=(\S+)", unit))
    return {
        name: f"{options[f'{name}-service-hostname']}:{options[f'{name}-service-port']}"
        for name in SERVICES
        if f"{name}-service-port" in options
    }


def test_a_program_listens_where_its_envoy_looks_and_calls_where_it_takes_calls(
    plan: MeshSpec,
) -> None:
    own = egress_address("frontend")
    assert _places(_unit(plan, "frontend")) == {
        "frontend": "127.0.0.1:8080",
        "customer": f"{own}:9302",
        "driver": f"{own}:9303",
        "route": f"{own}:9304",
    }
    assert _places(_unit(plan, "route")) == {"route": "127.0.0.1:8083"}
    # Its page leads to the Jaeger of the lab.
    lab = yaml.safe_load((HOTROD / "hosts.yml").read_text())["lab"]
    assert lab["hosts"]["front"]["lab_publish"][16716] == 16686
    assert lab["vars"]["hotrod_page_jaeger"] == "http://127.0.0.1:16716"


@needs_systemd
@pytest.mark.parametrize("service", SERVICES)
def test_systemd_understands_the_unit(service: str, plan: MeshSpec, tmp_path: Path) -> None:
    name = f"hotrod-{service}.service"
    done = verify(tmp_path, {name: _unit(plan, service)}, name)
    assert (done.returncode, done.stderr) == (0, "")


def _stored(root: Node) -> list[Span]:
    """Return spans as Jaeger would have them of `root`, with looks into the store of drivers."""
    numbers = count()
    spans: list[Span] = []

    def store(node: Node, parent: str | None) -> None:
        number = next(numbers)
        own = Span("t", f"s{number}", parent, node.service, node.operation, number, 1, node.kind)
        spans.append(own)
        for child in node.children:
            store(child, own.span_id)

    store(root, None)
    [driver] = [
        span
        for span in spans
        if span.operation.endswith("FindNearest")
        and (span.service, span.kind) == ("driver", "server")
    ]
    for _ in range(DRIVERS):
        store(Node("redis-manual", "GetDriver", "client"), driver.span_id)
    failed = replace(spans[-1], span_id="failed", error=True)
    return [*spans, failed]


def _changed(
    spans: Sequence[Span], service: str, operation: str, kind: str, parent: str | None
) -> list[Span]:
    """Return `spans` with another parent for the first span of that kind."""
    wanted = next(
        span
        for span in spans
        if (span.service, span.operation, span.kind) == (service, operation, kind)
    )
    return [replace(span, parent_id=parent) if span is wanted else span for span in spans]


def test_the_trace_of_a_ride_is_that_of_the_model(plan: MeshSpec) -> None:
    envoys = {service.operation for service in plan.mesh.services.values()}
    seen = {node.operation for node in expected().flat()}
    assert envoys < seen
    assert mistakes(_stored(expected())) == ""


@pytest.mark.parametrize(
    ("service", "operation", "kind", "parent"),
    [
        ("customer", "/customer", "server", "gone"),
        ("frontend", "/dispatch", "server", None),
        # As if the program had not seen what its Envoy told it.
        ("frontend", "findCustomer", "client", "s2"),
        ("redis-manual", "GetDriver", "client", "s0"),
    ],
)
def test_a_wrong_parent_an_orphan_and_a_second_root_are_seen(
    service: str, operation: str, kind: str, parent: str | None
) -> None:
    assert mistakes(_changed(_stored(expected()), service, operation, kind, parent)) != ""


def test_missing_and_extra_spans_are_seen() -> None:
    spans = _stored(expected())
    for gone in ("findRoute", "SQL SELECT", "GetDriver"):
        last = next(span for span in spans if span.operation == gone and not span.error)
        assert mistakes([span for span in spans if span is not last]) != ""
    leaf = next(span for span in spans if span.operation == "/route")
    assert mistakes([*spans, replace(leaf, span_id="again")]) != ""
    assert any(is_look(span) and span.error for span in spans)
