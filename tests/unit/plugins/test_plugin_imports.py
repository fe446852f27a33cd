"""What plugins may import. Ansible loads them by file name, which import-linter cannot follow."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmesh.base import paths

PLUGINS = paths.PROJECT / "plugins"
MODULE_UTILS = sorted((PLUGINS / "module_utils").rglob("*.py"))
# Only these run on the controller, where the package vmesh is.
ON_THE_CONTROLLER = ("action", "filter", "plugin_utils")
ON_VMS = [
    path
    for path in sorted(PLUGINS.rglob("*.py"))
    if path.relative_to(PLUGINS).parts[0] not in ON_THE_CONTROLLER
]


def imported(source: str) -> Iterator[str]:
    """Yield the full names of what a module imports; relative imports are of its own folder."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def foreign_to_module_utils(source: str) -> list[str]:
    """Return the imports that a module of plugins/module_utils may not have."""
    return [
        name for name in imported(source) if name.partition(".")[0] not in sys.stdlib_module_names
    ]


def of_the_controller(source: str) -> list[str]:
    """Return the imports that a plugin which runs on VMs may not have."""
    return [name for name in imported(source) if name.partition(".")[0] == "vmesh"]


@pytest.mark.parametrize("path", MODULE_UTILS, ids=lambda path: path.name)
def test_module_utils_import_the_standard_library_and_each_other(path: Path) -> None:
    assert foreign_to_module_utils(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", ON_VMS, ids=lambda path: path.name)
def test_only_action_and_filter_plugins_import_vmesh(path: Path) -> None:
    assert of_the_controller(path.read_text(encoding="utf-8")) == []


def test_an_import_against_the_rules_is_seen() -> None:
    source = (
        "import json\n"
        "from .envoy_admin import Admin\n"
        "from ansible.module_utils.basic import AnsibleModule\n"
        "def late():\n"
        "    from vmesh.base import paths\n"
    )
    assert foreign_to_module_utils(source) == [
        "ansible.module_utils.basic.AnsibleModule",
        "vmesh.base.paths",
    ]
    assert of_the_controller(source) == ["vmesh.base.paths"]
    assert of_the_controller("import vmesh") == ["vmesh"]
