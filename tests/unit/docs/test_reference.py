"""The reference of the inventory says what the schema says, and the schema says enough."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from vmesh.base import paths
from vmesh.model import reference, schema

TEXT = reference.FILE.read_text()


def keys(rule: Any, way: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every key that the schema describes in place, with where it stands."""
    for name, inner in rule.get("properties", {}).items():
        if set(inner) - {"$ref", "default"}:
            yield f"{way}.{name}", inner
            yield from keys(inner, f"{way}.{name}")
    if isinstance(rule.get("additionalProperties"), Mapping):
        yield from keys(rule["additionalProperties"], f"{way}.*")


def every_key() -> list[tuple[str, Mapping[str, Any]]]:
    model = schema.load()
    return [
        *keys(model, "mesh"),
        *(found for name, rule in model["$defs"].items() for found in keys(rule, name)),
        *((name, model["$defs"][name]) for name in reference.FILTERS),
    ]


def test_the_file_is_what_the_schema_says(tmp_path: Path) -> None:
    fresh = tmp_path / "reference.md"
    reference.write(fresh)
    assert fresh.read_text() == TEXT, "run `python -m vmesh.model.reference`"


@pytest.mark.parametrize(("way", "rule"), every_key())
def test_every_key_says_what_it_is_why_it_is_so_and_gives_an_example(
    way: str, rule: Mapping[str, Any]
) -> None:
    whole = schema.resolved(rule)
    assert whole["description"].endswith(".")
    assert whole["x-expected"]
    if "default" in whole and whole["default"] != {}:
        assert whole["x-why"], f"{way} has a default and no reason for it"
        assert _is_accepted(rule, whole["default"])
    assert whole["examples"]
    for example in whole["examples"]:
        assert _is_accepted(rule, example), example


def _is_accepted(rule: Mapping[str, Any], value: Any) -> bool:
    return bool(schema.validator().evolve(schema=rule).is_valid(value))


def test_every_key_has_a_place_of_its_own_in_the_file() -> None:
    for name, definition in (("policies", "policies"), ("routes", "route"), ("edges", "edge")):
        for key in schema.load()["$defs"][definition]["properties"]:
            assert TEXT.count(f'<a id="{name}.{key}"></a>') == 1, key


@pytest.mark.parametrize("definition", ["edge_tls", "acme"])
def test_the_keys_of_a_definition_that_one_key_names_are_listed_there(definition: str) -> None:
    for key in schema.load()["$defs"][definition]["properties"]:
        assert re.search(rf"^- <a id=\"edges\.tls[^\"]*\.{key}\"></a>", TEXT, re.M), key


def test_every_link_leads_somewhere() -> None:
    anchors = re.findall(r'<a id="([^"]+)"', TEXT)
    assert len(set(anchors)) == len(anchors)
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        file, _, anchor = target.partition("#")
        assert (reference.FILE.parent / file).exists(), target
        assert file or anchor in anchors, target


def test_the_examples_in_the_file_are_yaml_as_ansible_reads_it() -> None:
    lines = [line for line in TEXT.splitlines() if "*Example:*" in line]
    assert len(lines) > 100
    for line in lines:
        for example in re.findall(r"`([^`]+)`", line):
            (value,) = yaml.safe_load(example).values()
            assert value != [] and value is not None, example


@pytest.mark.parametrize(
    "value", ["yes", "on", "1", "a: b", "{x}", "*", "a,b", "no\n", "", "#x", "1.5", "null", "plain"]
)
def test_a_text_stays_a_text(value: str) -> None:
    assert yaml.safe_load(f"[{reference.flow(value)}]") == [value]
    assert yaml.safe_load(f"k: {reference.flow({value: [value]})}") == {"k": {value: [value]}}


def test_the_schema_that_the_inventory_names_for_editors_is_there() -> None:
    file = paths.PROJECT / "inventory" / "lab" / "group_vars" / "all" / "mesh.yml"
    found = re.fullmatch(
        r"# yaml-language-server: \$schema=(\S+)", file.read_text().splitlines()[0]
    )
    assert found is not None
    assert (file.parent / found[1]).resolve() == schema.SCHEMA_FILE
