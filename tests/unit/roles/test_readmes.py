"""Each role's README has the role's variables, and a playbook that Ansible accepts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from vmesh.base import paths
from vmesh.model import role_reference

READMES = dict(role_reference.readmes())
SPECS = {"argument_specs": {"main": {"options": {
    "web_port": {"type": "int", "default": 80, "description": "Its port, in C(ss -l)."},
    "web_sites": {
        "type": "list", "elements": "dict", "description": ["The sites.", "Any number."],
        "default": "{{ a | list }}",
        "options": {"name": {"type": "str", "required": True, "description": "The name."}},
    },
}}}}  # fmt: skip


def playbook(readme: Path) -> str:
    found = re.search(r"```yaml\n(.*?)```", readme.read_text(), re.DOTALL)
    assert found, f"{readme} has no playbook"
    return found[1]


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.parent.name)
def test_the_variables_are_those_of_the_argument_specs(readme: Path) -> None:
    fresh = READMES[readme]
    assert readme.read_text() == fresh, "run `python -m vmesh.model.role_reference`"


def test_ansible_accepts_the_playbooks(tmp_path: Path) -> None:
    files = []
    for readme in READMES:
        files.append(tmp_path / f"{readme.parent.name}.yml")
        files[-1].write_text(playbook(readme))
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "--syntax-check", *files],
        cwd=tmp_path,
        env={**os.environ, "ANSIBLE_CONFIG": str(paths.DATA / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.parent.name)
def test_a_playbook_sets_variables_as_the_role_takes_them(readme: Path) -> None:
    (play,) = yaml.safe_load(playbook(readme))
    (role,) = play["roles"]
    name = readme.parent.name
    assert role["role"] == f"vmesh.mesh.{name}"
    specs = yaml.safe_load((readme.parent / "meta" / "argument_specs.yml").read_text())
    options: dict[str, Any] = specs["argument_specs"]["main"]["options"]
    # A default may be a template, which only a play can read.
    given = {name: option for name, option in options.items() if name in role["vars"]}
    assert given.keys() == role["vars"].keys()
    result = ArgumentSpecValidator(given).validate(role["vars"])
    assert result.error_messages == []


def test_a_section_is_made_of_specs() -> None:
    made = role_reference.section(SPECS)
    assert made.splitlines()[-3:] == [
        "| `web_port` | int | `80` | Its port, in `ss -l`. |",
        r"| `web_sites` | list of dict | `{{ a \| list }}` | The sites. Any number. |",
        "| `web_sites[].name` | str | **required** | The name. |",
    ]


def test_a_section_replaces_the_one_before_it_and_nothing_else() -> None:
    before = "# web\n\nText.\n\n## Variables\n\nold\n\n## Files\n\nMore.\n"
    assert role_reference.with_section(before, "## Variables\n\nnew\n") == (
        "# web\n\nText.\n\n## Variables\n\nnew\n\n## Files\n\nMore.\n"
    )
    assert role_reference.with_section("# web\n", "## Variables\n\nnew\n") == (
        "# web\n\n## Variables\n\nnew\n"
    )
