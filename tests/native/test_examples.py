"""Every inventory that comes with the project is sound, and the real Envoy accepts its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmesh.base import paths
from vmesh.compile.compiler import compile_mesh
from vmesh.model.inventory import load
from vmesh.render.renderer import write_files
from vmesh.render.validate import validate_all

INVENTORIES = sorted(path.parent for path in (paths.PROJECT / "inventory").glob("*/hosts.yml"))


def test_there_are_examples() -> None:
    names = {path.name for path in INVENTORIES}
    assert names >= {"lab", "example-shop", "example-change", "example-hotrod"}


@pytest.mark.parametrize("inventory", INVENTORIES, ids=lambda path: str(path.name))
def test_envoy_accepts_an_example(inventory: Path, envoy: Path, tmp_path: Path) -> None:
    plan = compile_mesh(load(inventory))
    assert plan.warnings == ()
    forms = list(write_files(plan, tmp_path / "files"))
    assert len(forms) == sum(len(host.proxies) for host in plan.hosts.values())
    assert validate_all(envoy, forms) == []


@pytest.mark.parametrize("inventory", INVENTORIES, ids=lambda path: str(path.name))
def test_an_example_says_what_it_is(inventory: Path) -> None:
    if inventory.name != "lab":
        assert (inventory / "README.md").is_file()
