"""The host kit as it is installed on a host: by version, by its commands, without a leftover."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from plugins.action.host_kit import kit
from plugins.module_utils import host_kit
from plugins.module_utils.host_kit import install, is_current, is_there, missing_users
from plugins.module_utils.host_parts import shared_files
from plugins.module_utils.programs import PROGRAMS
from plugins.module_utils.releases import KIT_FILE


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "usr/local/bin").mkdir(parents=True)
    return tmp_path


def zipapp(root: Path) -> Path:
    return root / "opt/vmesh/current" / KIT_FILE


def test_a_version_is_installed_whole_and_becomes_the_current_one(root: Path) -> None:
    version, sources = kit()
    assert not is_there(root, version)
    install(root, version, sources)
    assert is_current(root, version)
    assert [path.name for path in (root / "opt/vmesh" / version).iterdir()] == [KIT_FILE]
    assert [path.name for path in (root / "opt/vmesh").iterdir() if path.name[0] == "."] == []


def test_the_users_of_units_may_read_it_whatever_roots_umask(root: Path) -> None:
    version, sources = kit()
    before = os.umask(0o077)
    try:
        install(root, version, sources)
    finally:
        os.umask(before)
    release = root / "opt/vmesh" / version
    for path in (release.parent, release, release / KIT_FILE):
        assert path.stat().st_mode & 0o777 == 0o755, path


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_program_of_it_says_how_it_is_used(root: Path, program: str) -> None:
    version, sources = kit()
    install(root, version, sources)
    done = subprocess.run(
        [sys.executable, "-I", zipapp(root), program, "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert program in done.stdout


def test_a_program_that_is_none_is_a_wrong_use(root: Path) -> None:
    version, sources = kit()
    install(root, version, sources)
    done = subprocess.run(
        [sys.executable, zipapp(root), "no"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "envoy-control" in done.stderr


def test_an_earlier_version_stays_and_can_come_back(root: Path) -> None:
    _, sources = kit()
    install(root, "one", sources)
    install(root, "two", {**sources, "programs": "def main(arguments): print('two'); return 0"})
    assert subprocess.check_output([sys.executable, zipapp(root)], text=True) == "two\n"
    install(root, "one", {})
    assert is_current(root, "one")
    assert is_there(root, "two")


def test_a_command_that_was_changed_by_hand_is_written_anew(root: Path) -> None:
    version, sources = kit()
    install(root, version, sources)
    for path, text in host_kit.COMMANDS.items():
        (root / path).write_text("#!/bin/sh\n")
        assert not is_current(root, version)
        install(root, version, {})
        assert (root / path).read_text() == text
        assert (root / path).stat().st_mode & 0o777 == 0o755
    assert is_current(root, version)


def test_snapshots_know_the_commands(root: Path) -> None:
    version, sources = kit()
    install(root, version, sources)
    found = {str(path.relative_to(root)) for path in shared_files(root)}
    assert found == set(host_kit.COMMANDS)


def test_users_that_the_host_lacks_are_told() -> None:
    assert missing_users(["root", "envoy-nowhere"]) == ["envoy-nowhere"]
