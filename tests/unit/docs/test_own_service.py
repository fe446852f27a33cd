"""The tutorial's files are a service, and its commands print what it shows; without VMs.

tests/native/test_docs.py starts the service behind real Envoys.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.documents import (
    DOCS,
    LAB,
    Section,
    commands,
    lay_over,
    run_session,
    sections,
    write_lab_with,
)
from vmesh.artifacts import bundles
from vmesh.base import paths
from vmesh.cli.plan import describe
from vmesh.remote.mesh import read
from vmesh.render.renderer import Renderer
from vmesh.rollout import record

APP, PLACE, _, SETTINGS, OTHER = sections(DOCS / "your-own-service.md")
SHOWN_FOLDER = "/home/me/greeter"
GUNICORN = (sys.executable, "-m", "gunicorn", "--config", "python:meshtrace.gunicorn_conf")


def _file(section: Section, name: str) -> str:
    (text,) = [block.text for block in section.blocks if block.file == name]
    return text


@pytest.mark.parametrize(("section", "like"), [(APP, "service2"), (SETTINGS, "service1")])
def test_the_files_are_a_service(section: Section, like: str, tmp_path: Path) -> None:
    """The lock is that of a service of the demo which needs the same libraries."""
    wanted = _file(section, "requirements.in")
    assert wanted == (paths.PROJECT / "services" / like / "requirements.in").read_text()
    lock = (paths.PROJECT / "services" / like / "requirements.txt").read_text()
    for name in ("app.py", "requirements.in"):
        (tmp_path / name).write_text(_file(section, name))
    (tmp_path / "requirements.txt").write_text(lock)
    assert re.fullmatch(r"[0-9a-f]{12}", bundles.version(tmp_path, "3.11", "x86_64"))
    # What the role asks of a release before it takes it into use.
    result = subprocess.run(
        [*GUNICORN, "--check-config"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(paths.PROJECT / "services" / "meshtrace"),
            "API_KEY": "s3cret",
            "SERVICE2_URL": "http://127.0.0.2:9002",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_libraries_are_locked_as_the_projects_own_are() -> None:
    (command,) = [
        each
        for block in APP.blocks
        if block.language == "console"
        for each in commands(block)
        if "uv pip compile" in each.line
    ]
    options = set(re.findall(r"--[a-z-]+(?: [\d.]+)?", command.line))
    ours = (paths.PROJECT / "CONTRIBUTING.md").read_text()
    (line,) = re.findall(r"uv\(\) \{ (.*) \"\$@\"; \}", ours)
    assert options == set(re.findall(r"--[a-z-]+(?: [\d.]+)?", line)) | {"--quiet"}


def _lab_as_applied(folder: Path) -> None:
    """Record in `folder` that the lab's inventory was applied to VMs with Debian 12."""
    mesh = read(LAB)
    platform = {"os": "debian", "os_version": "12", "arch": "x86_64", "python": "3.11"}
    known = {host: {"platform": platform} for host in mesh.spec.hosts}
    for host, described in describe(mesh, known, Renderer()).items():
        record.write(folder / "lab", host, described.state)


@pytest.mark.parametrize("section", [PLACE, SETTINGS], ids=str)
def test_the_commands_print_what_is_shown(section: Section, tmp_path: Path) -> None:
    service = tmp_path / "greeter"
    service.mkdir()
    (service / "app.py").write_text(_file(APP, "app.py"))
    lock = paths.PROJECT / "services" / "service2" / "requirements.txt"
    (service / "requirements.txt").write_text(lock.read_text())
    (model,) = section.models
    inventory = tmp_path / "lab"
    write_lab_with({}, yaml.safe_load(model.replace(SHOWN_FOLDER, str(service))), inventory)
    _lab_as_applied(tmp_path / "applied")
    shown = [
        command
        for block in section.blocks
        if block.language == "console" and not re.search("curl|mesh trace", block.text)
        for command in commands(block)
    ]
    outputs = run_session(shown, inventory, tmp_path, VMESH_APPLIED=str(tmp_path / "applied"))
    for command, output in zip(shown, outputs, strict=True):
        printed = output.replace(str(service), SHOWN_FOLDER)
        assert command.agrees(printed), f"$ {command.line}\n{printed}"


def test_a_mistake_in_the_place_is_told(tmp_path: Path) -> None:
    """What makes the tutorial's `no problem found` worth something."""
    (model,) = PLACE.models
    values = lay_over(yaml.safe_load(model), {"mesh_services": {"greeter": {"port": 9001}}})
    inventory = tmp_path / "lab"
    write_lab_with({}, values, inventory)
    (shown,) = [c for b in PLACE.blocks if "validate" in b.text for c in commands(b)]
    (output,) = run_session([shown], inventory, tmp_path)
    assert not shown.agrees(output)
    assert "is also the port of" in output
