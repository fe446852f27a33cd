"""Mutated inventories: compile tells what is wrong and never fails; Envoy accepts the rest.

`./mesh check` runs few examples, always the same. VMESH_FUZZ=5000 runs as many, others each time.
"""

from __future__ import annotations

import functools
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from plugins.module_utils import mutual_tls
from plugins.module_utils.certificates import new_anchor, new_leaf
from plugins.module_utils.envoy_apply import bring
from tests.native.certificates import Authority
from tests.native.inventories import (
    BEGINNINGS,
    SECRET,
    beginning,
    fitting_inventories,
    wild_inventories,
)
from tests.native.mutual import identity_text
from tests.native.native import native, on_loopback
from vmesh.base.problems import ERROR, WARNING, Problem, Problems
from vmesh.compile import security
from vmesh.compile.compiler import compile_mesh
from vmesh.compile.host_spec import MeshSpec, ProxySpec
from vmesh.compile.security import SecurityPlan
from vmesh.model import schema
from vmesh.model.inventory import Inventory
from vmesh.render.renderer import Renderer
from vmesh.render.static_form import StaticForms
from vmesh.render.validate import validate_static_form

MANY = int(os.environ.get("VMESH_FUZZ", "0"))


def examples(few: int, share: float = 1.0) -> settings:
    """Return the settings for `few` examples, or for a share of VMESH_FUZZ."""
    return settings(
        max_examples=max(few, int(MANY * share)),
        derandomize=not MANY,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def compiled(given: Inventory) -> MeshSpec | tuple[Problem, ...]:
    """Return the plan of an inventory, or what is wrong with it."""
    try:
        return compile_mesh(given)
    except Problems as found:
        return found.items


def assert_helpful(problems: tuple[Problem, ...]) -> None:
    for problem in problems:
        assert problem.variable
        assert problem.message
        assert problem.remedy
        assert problem.severity in {ERROR, WARNING}
        assert SECRET not in f"{problem} {json.dumps(asdict(problem))}"


@examples(100)
@given(wild_inventories())
def test_whatever_stands_in_an_inventory_compile_tells_what_is_wrong(given: Inventory) -> None:
    result = compiled(given)
    if isinstance(result, MeshSpec):
        assert_helpful(result.warnings)
    else:
        assert any(problem.severity == ERROR for problem in result)
        assert_helpful(result)


@pytest.fixture(scope="module")
def looked_at(envoy: Path) -> Iterator[Any]:
    """Ask Envoy about forms, about none twice; returns what it says against one."""
    with tempfile.TemporaryDirectory() as folder:
        form = Path(folder) / "proxy.static.json"

        @functools.cache
        def ask(digest: str) -> str | None:
            return validate_static_form(envoy, form)

        def look(text: str, essence: str) -> str | None:
            form.write_text(text)
            return ask(essence)

        yield look


RENDERER = Renderer()


@examples(12, share=0.5)
@given(fitting_inventories())
def test_what_compiles_is_accepted_by_envoy(looked_at: Any, given: Inventory) -> None:
    forms = StaticForms(RENDERER.shared)
    plan = security.target(compile_mesh(given).mesh, {})
    for host in compile_mesh(given, plan).hosts.values():
        for proxy in host.proxies:
            form = forms.form(RENDERER.documents(proxy))
            refusal = looked_at(forms.text(form), forms.essence(form))
            assert refusal is None, f"{proxy.name}: {refusal}"


def proxies_of(given: Inventory, how: SecurityPlan | None = None) -> dict[str, ProxySpec]:
    plan = compile_mesh(given, how)
    return {proxy.name: proxy for host in plan.hosts.values() for proxy in host.proxies}


def with_certificates(plan: ProxySpec, folder: Path) -> ProxySpec:
    """Return `plan` with a certificate from here where the one that it names is not."""
    file = Authority(folder).certificate("shop.example.com")
    for listener in plan.view["listeners"]:
        if "tls" in listener:
            listener["tls"]["folder"] = None
            pair = {"certificate": str(file), "key": file.read_text()}
            plan.view["certificates"] = {listener["tls"]["certificate"]: pair}
    # Those that a host makes, it makes outside of `folder`.
    for key in ("acme", "local"):
        plan.view.pop(key, None)
    return plan


@pytest.mark.parametrize("name", sorted(proxies_of(beginning("rich"))))
def test_every_file_of_the_rich_inventory_is_accepted_as_files(
    name: str, envoy: Path, tmp_path: Path
) -> None:
    proxy = proxies_of(beginning("rich"), SecurityPlan())[name]
    plan = with_certificates(on_loopback(proxy), tmp_path)
    with native(envoy, tmp_path, plan) as made:
        bring(made.proxy, made.files())
        assert made.proxy.accepts(made.files())


@pytest.mark.parametrize("name", sorted(proxies_of(beginning("rich"))))
def test_every_file_of_the_rich_inventory_is_accepted_with_mtls(
    name: str, envoy: Path, tmp_path: Path
) -> None:
    given, host = beginning("rich"), "host.pay.mesh"
    anchor = new_anchor(host, time.time())
    anchors = dict.fromkeys(given.hosts, anchor.certificate)
    how = security.target(compile_mesh(given).mesh, anchors)
    plan = with_certificates(on_loopback(proxies_of(given, how)[name]), tmp_path)
    with native(envoy, tmp_path, plan) as made:
        leaf = new_leaf(anchor, f"spiffe://{host}/{name}", int(time.time()) + 3600)
        file = Path(made.layout.config_dir(name)) / mutual_tls.IDENTITY
        file.parent.mkdir(parents=True)
        file.write_text(identity_text(leaf))
        bring(made.proxy, made.files())
        assert made.proxy.accepts(made.files())


@pytest.mark.skipif(not MANY, reason="takes long: VMESH_FUZZ is not set")
@examples(1, share=0.02)
@given(fitting_inventories())
def test_what_compiles_is_accepted_as_files(envoy: Path, given: Inventory) -> None:
    for name, proxy in proxies_of(given, SecurityPlan()).items():
        with (
            tempfile.TemporaryDirectory() as folder,
            native(
                envoy, Path(folder) / name, with_certificates(on_loopback(proxy), Path(folder))
            ) as made,
        ):
            bring(made.proxy, made.files())
            assert made.proxy.accepts(made.files())


def used(value: Any, rule: Mapping[str, Any], name: str = "") -> set[str]:
    """Return the keys of the schema that `value` uses, by the place that describes them."""
    name = rule.get("$ref", name).replace("/properties/", ".")
    whole = schema.resolved(rule)
    found: set[str] = set()
    if isinstance(value, list):
        return found.union(*(used(item, whole.get("items", {}), f"{name}[]") for item in value))
    if not isinstance(value, Mapping):
        return found
    for key, item in value.items():
        if key in whole.get("properties", {}):
            place = f"{name}.{key}"
            found |= {place} | used(item, whole["properties"][key], place)
        elif isinstance(whole.get("additionalProperties"), Mapping):
            found |= used(item, whole["additionalProperties"], f"{name}.*")
    return found


def known(rule: Mapping[str, Any], name: str = "") -> set[str]:
    """Return every key of the schema, by the place that describes it."""
    name = rule.get("$ref", name).replace("/properties/", ".")
    whole = schema.resolved(rule)
    found: set[str] = set()
    for key, inner in whole.get("properties", {}).items():
        found |= {f"{name}.{key}"} | known(inner, f"{name}.{key}")
    if isinstance(whole.get("additionalProperties"), Mapping):
        found |= known(whole["additionalProperties"], f"{name}.*")
    if "items" in whole:
        found |= known(whole["items"], f"{name}[]")
    return found


def test_what_the_mutations_begin_with_uses_every_key_of_the_schema() -> None:
    found: set[str] = set()
    for each in map(beginning, BEGINNINGS):
        for variables in (each.mesh, *each.hosts.values()):
            found |= used(variables, schema.load())
    assert known(schema.load()) - found == set()


@pytest.mark.parametrize("name", BEGINNINGS)
def test_nothing_is_wrong_with_what_the_mutations_begin_with(name: str) -> None:
    assert compile_mesh(beginning(name)).warnings == ()
