"""What the documents show is an inventory without mistakes, and commands that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.documents import (
    DOCS,
    LAB,
    Command,
    Section,
    blocks,
    commands,
    lab_with,
    run_session,
    sections,
    write_lab_with,
)
from vmesh.base import paths
from vmesh.cli.options import COMMANDS
from vmesh.compile.compiler import compile_mesh

README = paths.PROJECT / "README.md"
FILES = [README, *sorted(DOCS.glob("*.md"))]
SHOWN = [
    pytest.param(section, model, id=f"{file.stem}-{section}-{number}")
    for file in FILES
    for section in sections(file)
    for number, model in enumerate(section.models)
    # These need Ansible and a password: see below, and test_own_service.py.
    if "!vault" not in model and "{{" not in model
]
VAULTED = [s for s in sections(DOCS / "recipes.md") if any("!vault" in m for m in s.models)]


@pytest.mark.parametrize(("section", "model"), SHOWN)
def test_what_is_shown_compiles_without_a_warning(
    section: Section, model: str, tmp_path: Path
) -> None:
    plan = compile_mesh(lab_with(section.hosts, model, tmp_path))
    assert plan.warnings == ()


def test_a_secret_is_encrypted_and_read_as_shown(tmp_path: Path) -> None:
    (section,) = VAULTED
    (model,) = [m for m in section.models if "!vault" in m]
    inventory = write_lab_with({}, {}, tmp_path / "inventory")
    mesh = (LAB / "group_vars" / "all" / "mesh.yml").read_text()
    app = "    app: {flask: services/service1}\n"
    assert app in mesh
    mesh = mesh.replace(app, model.partition("  service1:\n")[2])
    (inventory / "group_vars" / "all" / "mesh.yml").write_text(mesh)
    shown = [c for b in section.blocks if b.language == "console" for c in commands(b)]
    for command, output in zip(shown, run_session(shown, inventory, tmp_path), strict=True):
        assert command.agrees(output), f"{command}\n{output}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.stem))
def test_no_block_is_overlooked(file: Path) -> None:
    text = file.read_text()
    fences = len(re.findall(r"^```", text, re.MULTILINE))
    assert fences == 2 * len(list(blocks(text)))
    assert fences == 2 * sum(len(section.blocks) for section in sections(file))


def _words(command: Command) -> list[str]:
    return [found[1] for found in re.finditer(r"(?:^|[;|&] )\./mesh (\S+)", command.line)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.stem))
def test_every_command_of_ours_that_is_shown_is_there(file: Path) -> None:
    known = {name for name, _ in COMMANDS}
    used = [
        word
        for block in blocks(file.read_text())
        if block.language == "console"
        for command in commands(block)
        for word in _words(command)
    ]
    assert set(used) <= known


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.stem))
def test_every_link_leads_somewhere(file: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|<)([^)]+)\)", file.read_text()):
        name, _, anchor = target.partition("#")
        place = file.parent / name if name else file
        assert place.exists(), target
        if anchor:
            assert anchor in _anchors(place.read_text()), target


def _anchors(text: str) -> set[str]:
    """Return the anchors of a document: those written out, and those GitHub makes of headings."""
    titles = re.findall(r"^#+ (?:<a id=\S+></a>)?(.*)$", text, re.MULTILINE)
    made = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    return made | set(re.findall(r'<a id="([^"]+)"', text))


def test_the_readmes_mistakes_are_told_as_shown(tmp_path: Path) -> None:
    (shown,) = [
        command
        for block in blocks(README.read_text())
        if block.language == "console" and "problems:" in block.text
        for command in commands(block)
    ]
    inventory = write_lab_with({}, {}, tmp_path / "lab")
    mesh = inventory / "group_vars" / "all" / "mesh.yml"
    text = mesh.read_text()
    mesh.write_text(
        text.replace("service2: {}", "servise2: {}").replace(
            "operation: checkS", "opration: checkS"
        )
    )
    (output,) = run_session([shown], inventory, tmp_path)
    assert shown.agrees(output), output
