"""What the documents show is accepted by the real Envoy, and does what they say."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.documents import DOCS, Block, Command, Section, commands, lab_with, sections
from tests.native.lab import NativeLab, Place, running_lab
from tests.native.native import Upstream, eventually
from vmesh.cli import trace
from vmesh.cli.options import parser
from vmesh.compile.compiler import compile_mesh
from vmesh.model.inventory import Inventory
from vmesh.model.types import Edge
from vmesh.render.renderer import write_files
from vmesh.render.static_form import StaticForm
from vmesh.render.validate import validate_all

RECIPES = [
    (section, model)
    for section in sections(DOCS / "recipes.md")
    for model in section.models
    if "!vault" not in model
]
# What the lab's edge sees of a client on this machine.
LAB_CLIENT = "10.0.2.2/32"


def test_what_is_shown_is_accepted_by_envoy(envoy: Path, tmp_path: Path) -> None:
    """Proxies that look the same in several recipes are shown once."""
    forms: dict[bytes, StaticForm] = {}
    for number, (section, model) in enumerate(RECIPES):
        folder = tmp_path / f"{section}-{number}"
        plan = compile_mesh(lab_with(section.hosts, model, folder / "inventory"))
        for form in write_files(plan, folder / "files"):
            forms.setdefault(form.path.read_bytes(), form)
    assert len(forms) > len(RECIPES)
    assert validate_all(envoy, list(forms.values())) == []


def _demonstrations() -> Iterator[object]:
    """Yield each recipe whose commands can be run here, with the example that goes with them."""
    for section in sections(DOCS / "recipes.md"):
        model = ""
        for block in section.blocks:
            if block.text in section.models:
                model = block.text
            if (
                block.language == "console"
                and not block.needs_lab
                and "./mesh val" not in (text := block.text)
                and "curl" in text
            ):
                yield pytest.param(section, model, block, id=str(section))


@pytest.mark.parametrize(("section", "model", "block"), list(_demonstrations()))
@pytest.mark.slow
def test_the_commands_print_what_is_shown(
    section: Section, model: str, block: Block, envoy: Path, tmp_path: Path
) -> None:
    model = model.replace(LAB_CLIENT, "127.0.0.1/32")
    inventory = lab_with(section.hosts, model, tmp_path / "inventory")
    plan = compile_mesh(inventory)
    with (
        Upstream("collector") as collector,
        running_lab(envoy, plan, collector, _published(inventory)) as lab,
    ):
        for command in commands(block):
            output = lab.run(command.line)
            assert command.agrees(output), f"$ {command.line}\n{output}"


def _published(inventory: Inventory) -> dict[int, Place]:
    return {
        int(here): ("0.0.0.0", int(there))
        for variables in inventory.hosts.values()
        for here, there in variables.get("lab_publish", {}).items()
    }


OWN = [each for each in sections(DOCS / "your-own-service.md") if each.blocks]


@pytest.mark.parametrize("stage", ["On the VMs", "Settings", "The same in any language"])
def test_the_tutorials_service_answers_as_shown(stage: str, envoy: Path, tmp_path: Path) -> None:
    (number,) = [number for number, each in enumerate(OWN) if each.title.startswith(stage)]
    # The files and the model are those shown last.
    seen = [block for section in OWN[: number + 1] for block in section.blocks]
    model = [block for block in seen if block.language == "yaml"][-1].text
    for block in seen:
        if block.file:
            (tmp_path / block.file).write_text(block.text)
    inventory = lab_with({}, model.replace("/home/me/greeter", str(tmp_path)), tmp_path / "i")
    plan = compile_mesh(inventory)
    scripts = {"greeter": tmp_path / "greeter.py"}
    with (
        Upstream("collector") as collector,
        running_lab(envoy, plan, collector, _published(inventory), scripts) as lab,
    ):
        shown = [
            command
            for block in OWN[number].blocks
            if block.language == "console" and not block.needs_lab
            for command in commands(block)
            if command.line.startswith("curl")
        ]
        assert shown
        for command in shown:
            output = lab.run(command.line)
            assert command.agrees(output), f"$ {command.line}\n{output}"


@contextmanager
def _traced(
    section: Section, model: str, envoy: Path, folder: Path
) -> Iterator[tuple[NativeLab, Upstream]]:
    """Run an example whose traces matter; its Envoys send Zipkin's JSON, which can be read here."""
    values = yaml.safe_load(model.replace(LAB_CLIENT, "127.0.0.1/32"))
    values.setdefault("mesh_tracing", {"sampling": 100})["export"] = "zipkin"
    inventory = lab_with(section.hosts, yaml.safe_dump(values), folder)
    plan = compile_mesh(inventory)
    with (
        Upstream("collector") as collector,
        running_lab(envoy, plan, collector, _published(inventory)) as lab,
    ):
        yield lab, collector


@contextmanager
def _recipe(title: str, envoy: Path, folder: Path) -> Iterator[tuple[NativeLab, Upstream]]:
    (section,) = [each for each in sections(DOCS / "recipes.md") if each.title == title]
    (model,) = section.models
    with _traced(section, model, envoy, folder) as running:
        yield running


def _spans(collector: Upstream) -> list[dict[str, Any]]:
    return [span for request in collector.requests for span in json.loads(request.body)]


def _names(spans: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(span["localEndpoint"]["serviceName"], span["name"]) for span in spans}


def _traces(spans: list[dict[str, Any]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for span in spans:
        found[span["traceId"]] = found.get(span["traceId"], 0) + 1
    return found


ALL_HOPS = 4  # the edge, into service1, out of it, into service2


@pytest.mark.slow
def test_requests_are_traced_as_often_as_the_recipe_says(envoy: Path, tmp_path: Path) -> None:
    with _recipe("Sampling", envoy, tmp_path) as (lab, collector):
        lab.run("curl -s 127.0.0.1:8000/service/1?[1-10]")
        lab.run("curl -s 127.0.0.1:8000/service/2?[1-200]")
        lab.run("curl -s 127.0.0.1:8000/trace/1?[1-10]")
        assert eventually(lambda: list(_traces(_spans(collector)).values()).count(ALL_HOPS) == 10)
        by_service = _names(_spans(collector))
        assert ("front-proxy", "checkStock") in by_service
        # The edge's and service2's spans of the one time in ten.
        assert 5 <= list(_traces(_spans(collector)).values()).count(2) <= 45
        assert not any("/service/1" in str(span["tags"]) for span in _spans(collector))


def test_spans_carry_the_tags_of_the_recipe(envoy: Path, tmp_path: Path) -> None:
    with _recipe("Tags of your own", envoy, tmp_path) as (lab, collector):
        lab.run("curl -s -H 'x-tenant: acme' 127.0.0.1:8000/trace/1")
        assert eventually(lambda: len(_spans(collector)) == ALL_HOPS)
        tags = {
            (span["localEndpoint"]["serviceName"], span["kind"]): {
                name: value
                for name, value in span["tags"].items()
                if name in ("tenant", "kind", "site", "path")
            }
            for span in _spans(collector)
        }
        path = os.environ["PATH"]
        all_have = {"site": "berlin", "path": path}
        assert tags["front-proxy", "SERVER"] == {**all_have, "tenant": "acme", "kind": "checkout"}
        assert tags["service1", "SERVER"] == {**all_have, "tenant": "acme"}
        assert tags["service1", "CLIENT"] == {**all_have, "tenant": "none"}


def test_spans_have_the_names_of_the_recipe(envoy: Path, tmp_path: Path) -> None:
    with _recipe("Names of spans", envoy, tmp_path) as (lab, collector):
        lab.run("curl -s 127.0.0.1:8000/trace/1")
        assert eventually(lambda: len(_spans(collector)) == ALL_HOPS)
        assert _names(_spans(collector)) == {
            ("front-proxy", "browse"),
            ("service1", "checkAvailability"),
            ("service1", "checkStock"),
            ("service2", "checkStock"),
        }


def test_a_trusted_peer_forces_a_trace(envoy: Path, tmp_path: Path) -> None:
    with _recipe("Force a trace", envoy, tmp_path) as (lab, collector):
        lab.run("curl -s 127.0.0.1:8000/service/2")
        lab.run("curl -s -H 'x-envoy-force-trace: 1' 127.0.0.1:8000/trace/1")
        assert eventually(lambda: len(_spans(collector)) == ALL_HOPS)
        assert len(_traces(_spans(collector))) == 1


def _as_jaeger_tells(spans: list[dict[str, Any]]) -> bytes:
    """Return Jaeger's answer to the question for a trace, made from Zipkin's spans."""
    told = [
        {
            "traceID": span["traceId"],
            "spanID": span["id"],
            "references": [
                {"refType": "CHILD_OF", "traceID": span["traceId"], "spanID": span["parentId"]}
            ]
            if "parentId" in span
            else [],
            "operationName": span["name"],
            "startTime": span["timestamp"],
            "duration": span["duration"],
            "tags": [{"key": "span.kind", "value": span["kind"].lower()}],
            "process": {"serviceName": span["localEndpoint"]["serviceName"]},
        }
        for span in spans
    ]
    return json.dumps({"data": [{"spans": told}]}).encode()


@dataclass(frozen=True)
class Here:
    """What `./mesh trace` asks of the mesh."""

    first_edge: Edge
    address: str
    jaeger: str

    def edge(self, _: str | None) -> Edge:
        return self.first_edge

    def edge_url(self, path: str, _: str | None) -> str:
        return f"http://{self.address}{path}"

    def jaeger_url(self) -> str:
        return self.jaeger

    def jaeger_is_local(self) -> bool:
        return False


def _shown_traces() -> Iterator[object]:
    for name in ("recipes", "your-own-service"):
        files: dict[str, str] = {}
        for section in sections(DOCS / f"{name}.md"):
            for block in section.blocks:
                if block.file:
                    files = {**files, block.file: block.text}
                if block.language == "yaml" and "mesh_edges:" in block.text:
                    model = block.text
                for command in commands(block) if block.language == "console" else ():
                    if command.line.startswith("./mesh trace "):
                        yield pytest.param(section, model, files, command, id=f"{name}-{section}")


def _timeless(lines: Iterable[str]) -> list[str]:
    """Return a trace as `./mesh trace` prints it without what differs from time to time."""
    times = r"\d[\d.]* (ms|\u00b5s|s)\b|\b[0-9a-f]{32}\b|[ \u2588]{2,}"
    return [re.sub(times, " ", line).strip() for line in lines]


@pytest.mark.parametrize(("section", "model", "files", "command"), list(_shown_traces()))
@pytest.mark.slow
def test_a_trace_looks_as_shown(  # noqa: PLR0913, PLR0917 - what is shown, and what is needed
    section: Section,
    model: str,
    files: dict[str, str],
    command: Command,
    envoy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    model = model.replace("/home/me/greeter", str(tmp_path))
    monkeypatch.setattr(trace, "QUIET_SECONDS", 1.2)
    with (
        _traced(section, model, envoy, tmp_path / "i") as (lab, collector),
        Upstream("jaeger") as jaeger,
    ):
        jaeger.reply = lambda _: (200, _as_jaeger_tells(_spans(collector)))
        address = ":".join(map(str, lab.ports[8000]))
        mesh: Any = Here(lab.edge, address, f"http://127.0.0.1:{jaeger.port}/")
        arguments = parser().parse_args(shlex.split(command.line)[1:])
        headers = dict(text.split(": ", 1) for text in arguments.header)
        answer = trace.request(mesh, trace.Asked(arguments.path, None, headers))
        trace.show_answer(answer)
        assert trace.show_trace(mesh, answer, 15)
    output = capsys.readouterr().out
    output = output.replace(address, "127.0.0.1:8000").replace(f":{jaeger.port}/", ":16686/")
    shown = replace(command, prints=tuple(_timeless(command.prints)))
    assert shown.agrees("\n".join(_timeless(output.splitlines()))), output
