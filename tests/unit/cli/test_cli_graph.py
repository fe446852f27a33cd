from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from vmesh import cli
from vmesh.base.exits import FAILED, USAGE, CliError
from vmesh.cli import graph, packages
from vmesh.cli.output.graph import Picture

LAB = ["graph", "-i", "inventory/lab"]


def test_mermaid_text_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(LAB) == 0
    assert capsys.readouterr().out.startswith("flowchart LR\n")


def test_the_name_of_the_file_tells_the_format(tmp_path: Path) -> None:
    for name, begin in (
        ("a.md", "```mermaid\nflowchart LR\n"),
        ("a.mmd", "flowchart LR\n"),
        ("a.dot", "digraph"),
    ):
        assert cli.main([*LAB, "-o", str(tmp_path / name)]) == 0
        assert (tmp_path / name).read_text().startswith(begin)
    assert (tmp_path / "a.md").read_text().endswith("\n```\n")


def test_a_format_that_is_named_counts(tmp_path: Path) -> None:
    assert cli.main([*LAB, "-o", str(tmp_path / "a.txt"), "--format", "mermaid"]) == 0
    assert (tmp_path / "a.txt").read_text().startswith("flowchart")


def test_a_name_that_tells_nothing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*LAB, "-o", str(tmp_path / "a.png")]) == USAGE
    assert ".svg" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*LAB, "-o", str(tmp_path / "none" / "a.md")]) == USAGE
    assert "a.md cannot be written" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("dot") is None, reason="needs Graphviz")
def test_svg_is_drawn(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        assert cli.main([*LAB, "-o", str(tmp_path / name)]) == 0
    text = (tmp_path / "a.svg").read_text()
    assert "front-proxy" in list(ElementTree.fromstring(text).itertext())
    assert text == (tmp_path / "b.svg").read_text()


def test_a_machine_without_graphviz_is_told_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "missing", lambda required: [p for _, p in required])
    assert cli.main([*LAB, "-o", str(tmp_path / "a.svg"), "--no-install"]) == USAGE
    assert "apt-get install -y --no-install-recommends graphviz" in capsys.readouterr().err
    assert not (tmp_path / "a.svg").exists()


def test_what_graphviz_says_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dot = tmp_path / "dot"
    dot.write_text("#!/bin/sh\necho no font >&2\nexit 1\n")
    dot.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.defpath}")
    with pytest.raises(CliError, match="no font"):
        graph.svg(Picture((), ()))


def test_mistakes_of_the_inventory_are_told_as_ever(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "hosts.json"
    path.write_text(json.dumps({"all": {"hosts": {"a": {"mesh_services": {}}}}}))
    assert cli.main(["graph", "-i", str(path)]) == FAILED
    assert "mesh_services" in capsys.readouterr().err
