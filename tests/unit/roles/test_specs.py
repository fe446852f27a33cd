"""Every role says the same in its argument specs and in its defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from vmesh.base import paths

ROLES = sorted((paths.PROJECT / "roles").iterdir())
TYPES: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "path": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
    "list": list,
    "dict": dict,
}


def options(role: Path) -> dict[str, dict[str, Any]]:
    specs = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())
    return dict(specs["argument_specs"]["main"].get("options", {}))


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_specs_equal_defaults(role: Path) -> None:
    defaults = yaml.safe_load((role / "defaults" / "main.yml").read_text()) or {}
    specified = {n: o["default"] for n, o in options(role).items() if not o.get("required")}
    assert specified == defaults


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_variable_is_named_for_its_role_and_described(role: Path) -> None:
    for name, option in options(role).items():
        assert name.startswith(f"{role.name}_"), name
        assert option["description"], name
        default = option.get("default")
        if default is not None and not (isinstance(default, str) and "{{" in default):
            assert isinstance(default, TYPES[option["type"]]), name


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_the_table_of_contents_is_short(role: Path) -> None:
    assert len((role / "tasks" / "main.yml").read_text().splitlines()) <= 40
