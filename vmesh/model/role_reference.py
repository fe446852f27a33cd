"""The section "Variables" in the README of each role, made from the role's argument specs.

`python -m vmesh.model.role_reference` writes it. What a variable means is written in
meta/argument_specs.yml alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from vmesh.base import paths
from vmesh.model.reference import flow

ROLES = paths.PROJECT / "roles"
HEADING = "## Variables\n"
NOTE = "<!-- Made from meta/argument_specs.yml by `python -m vmesh.model.role_reference`. -->\n"

Option = Mapping[str, Any]

# Ansible's markup of code, as in C(/opt/<name>) and O(name):
# https://docs.ansible.com/ansible/latest/dev_guide/ansible_markup.html
_CODE = re.compile(r"\b[COVE]\(([^()]*)\)")


def section(specs: Mapping[str, Any]) -> str:
    """Return the section for `specs`, the content of a role's argument_specs.yml."""
    parts = [HEADING, NOTE]
    for entry, spec in specs["argument_specs"].items():
        if entry != "main":
            parts.append(f"With `tasks_from: {entry}`:\n")
        rows = list(_rows(spec.get("options", {}), ""))
        head = ("| variable | type | default | what it is |", "|---|---|---|---|")
        parts.append("\n".join([*head, *rows]) + "\n")
    return "\n".join(parts)


def with_section(readme: str, text: str) -> str:
    """Return the README with `text` as its section "Variables", which is added where it has none.

    The section ends at the next heading of its level.
    """
    before, found, rest = readme.partition(f"\n{HEADING}")
    _, heading, after = rest.partition("\n## ") if found else ("", "", "")
    return f"{before.rstrip()}\n\n{text}" + (f"{heading}{after}" if heading else "")


def _rows(options: Mapping[str, Option], prefix: str) -> Iterator[str]:
    """Yield a row for each option, followed by those of the keys inside it."""
    for name, option in options.items():
        cells = (f"`{prefix}{name}`", _type(option), _default(option), _description(option))
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
        inside = "[]." if option["type"] == "list" else "."
        yield from _rows(option.get("options", {}), f"{prefix}{name}{inside}")


def _type(option: Option) -> str:
    if choices := option.get("choices"):
        return ", ".join(f"`{choice}`" for choice in choices)
    elements = option.get("elements")
    return f"{option['type']} of {elements}" if elements else str(option["type"])


def _default(option: Option) -> str:
    if option.get("required"):
        return "**required**"
    # A template is easier to read without YAML's quotes around it.
    default = option.get("default")
    if isinstance(default, str) and default.startswith("{{"):
        return f"`{default}`"
    return "" if default is None else f"`{flow(default)}`"


def _description(option: Option) -> str:
    """Return the sentences of a description, which is a text or a list of texts."""
    told: str | Sequence[str] = option["description"]
    text = told if isinstance(told, str) else " ".join(told)
    return _CODE.sub(r"`\1`", " ".join(text.split()))


def readmes() -> Iterator[tuple[Path, str]]:
    """Yield the README of each role, and the text that it should have."""
    for role in sorted(ROLES.iterdir()):
        specs = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())
        file = role / "README.md"
        yield file, with_section(file.read_text(), section(specs))


def write() -> None:
    """Write the sections of all roles."""
    for file, text in readmes():
        file.write_text(text)


if __name__ == "__main__":
    write()
