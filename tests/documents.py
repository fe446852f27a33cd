"""What the documents show, taken out of them so that tests can run it.

Blocks of YAML are parts of an inventory: laid over the lab's (`laid_over`) they are one. Blocks
of console are commands with what they print. An HTML comment `<!-- lab -->` before a console
block says that it needs VMs, `<!-- file: NAME -->` before any block which file it is.
"""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from vmesh.base import paths
from vmesh.model.inventory import Inventory, load

DOCS = paths.PROJECT / "docs"
LAB = paths.PROJECT / "inventory" / "lab"

_BLOCK = re.compile(
    r"(?:<!-- (?P<mark>lab|file: \S+) -->\n+)?```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
# Of these the document shows all there is: they take the lab's place, key for key of the others.
_WHOLE = ("mesh_tracing", "app")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and what stands in the comment before it."""

    language: str
    text: str
    mark: str = ""

    @property
    def file(self) -> str | None:
        """The name of the file that this block is, where the document says so."""
        name = self.mark.removeprefix("file: ")
        return name if name != self.mark else None

    @property
    def needs_lab(self) -> bool:
        return self.mark == "lab"


@dataclass(frozen=True)
class Section:
    """A heading and the blocks below it."""

    title: str
    blocks: tuple[Block, ...]

    def __str__(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")

    @property
    def hosts(self) -> dict[str, Any]:
        """What the section adds to hosts.yml."""
        found: dict[str, Any] = {}
        for block in self.blocks:
            if block.language == "yaml" and not _is_model(block):
                lay_over(found, yaml.safe_load(block.text))
        return found

    @property
    def models(self) -> list[str]:
        """The texts that show mesh_* variables."""
        return [b.text for b in self.blocks if b.language == "yaml" and _is_model(b)]


def _is_model(block: Block) -> bool:
    return all(key.startswith("mesh_") for key in re.findall(r"^(\w+):", block.text, re.MULTILINE))


def blocks(text: str) -> Iterator[Block]:
    """Yield the fenced blocks of a document."""
    for found in _BLOCK.finditer(text):
        yield Block(found["language"], found["text"], found["mark"] or "")


def sections(file: Path) -> list[Section]:
    """Return the sections of a document that have blocks."""
    text = file.read_text()
    inside = [range(*found.span()) for found in _BLOCK.finditer(text)]
    headings = [
        found
        for found in re.finditer(r"^#{1,4} (.*)$", text, re.MULTILINE)
        if not any(found.start() in block for block in inside)
    ]
    ends = [found.start() for found in headings[1:]] + [len(text)]
    found = [
        Section(heading[1], tuple(blocks(text[heading.end() : end])))
        for heading, end in zip(headings, ends, strict=True)
    ]
    return [section for section in found if section.blocks]


def lay_over(under: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay the mapping `over` upon `under`, key by key; return it."""
    for key, value in over.items():
        mine = under.get(key)
        if isinstance(mine, dict) and isinstance(value, Mapping) and key not in _WHOLE:
            lay_over(mine, value)
        else:
            under[key] = copy.deepcopy(value)
    return under


def lab_with(hosts: Mapping[str, Any], model: str, folder: Path) -> Inventory:
    """Return the lab's inventory with what a document adds; files are written to `folder`.

    The text of `model` is laid over the lab's mesh.yml, `hosts` over its hosts.yml.
    """
    shown = yaml.safe_load(model) or {}
    if not hosts:
        lab = load(LAB)
        mesh = lay_over(copy.deepcopy(lab.mesh), shown)
        return replace(lab, mesh=mesh, hidden=lab.hidden | _hashes(shown))
    return load(write_lab_with(hosts, shown, folder))


def _hashes(shown: Mapping[str, Any]) -> frozenset[tuple[str, ...]]:
    """Return where hashes of passwords stand. A document shows them, and tells to encrypt them."""
    return frozenset(
        ("mesh_edges", edge, "users", group, user)
        for edge, keys in shown.get("mesh_edges", {}).items()
        for group, users in keys.get("users", {}).items()
        for user in users
    )


def write_lab_with(hosts: Mapping[str, Any], model: Mapping[str, Any], folder: Path) -> Path:
    """Write the lab's inventory with what a document adds to `folder`; return it."""
    all_vars = folder / "group_vars" / "all"
    all_vars.mkdir(parents=True)
    for name, over in (("hosts.yml", hosts), ("group_vars/all/mesh.yml", model)):
        values = yaml.safe_load((LAB / name).read_text())
        (folder / name).write_text(yaml.safe_dump(lay_over(values, over), sort_keys=False))
    (all_vars / "lab.yml").write_text((LAB / "group_vars" / "all" / "lab.yml").read_text())
    return folder


@dataclass(frozen=True)
class Command:
    """A command of a console block and the lines that the document says it prints."""

    line: str
    prints: tuple[str, ...]

    def agrees(self, output: str) -> bool:
        """Tell whether `output` is what the document says; `...` there stands for anything."""
        pattern = "".join(
            "(?:.*\n)*" if line == "..." else f"{_with_gaps(line)}\n" for line in self.prints
        )
        return re.fullmatch(pattern, _as_lines(output)) is not None


def _with_gaps(line: str) -> str:
    return ".*".join(map(re.escape, line.split("...")))


def _as_lines(output: str) -> str:
    return "".join(f"{line.rstrip()}\n" for line in output.splitlines())


def commands(block: Block) -> list[Command]:
    """Return the commands of a console block; a backslash at a line's end continues it."""
    found: list[tuple[str, list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append((line.removeprefix("$ "), []))
        elif found and found[-1][0].endswith("\\") and not found[-1][1]:
            command, prints = found[-1]
            found[-1] = (command[:-1].rstrip() + " " + line.strip(), prints)
        elif found:
            found[-1][1].append(line.rstrip())
    return [Command(line, tuple(prints)) for line, prints in found]


def run_session(
    shown: Sequence[Command], inventory: Path, home: Path, **environment: str
) -> list[str]:
    """Run commands in one shell, with `inventory` in the lab's place; return what each prints."""
    mark = "--- the next one ---"
    python = Path(sys.executable)
    lines = [
        command.line.replace(".venv/bin/", f"{python.parent}/")
        .replace("inventory/lab", str(inventory))
        .replace("./mesh validate", f"{python} -m vmesh validate --no-envoy -i {inventory}")
        .replace("./mesh plan", f"{python} -m vmesh plan -i {inventory}")
        for command in shown
    ]
    result = subprocess.run(
        ["bash", "-c", f"\necho '{mark}'\n".join(lines)],
        cwd=paths.PROJECT,
        env={**os.environ, "HOME": str(home), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    return result.stdout.replace(str(inventory), "inventory/lab").split(f"{mark}\n")
