"""The script `mesh`, with a stand-in for Python that notes what it is asked to do."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from vmesh.base import paths

NEEDED = (
    "sh", "env", "dirname", "readlink", "cksum", "cat", "mkdir", "date", "rm", "find",
    "tail", "id", "flock", "cp",
)  # fmt: skip

FAKE_PYTHON = """\
#!/bin/sh
echo "$*" >>"$CALLS"
case "$*" in
"-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
"-c import ensurepip, venv") [ -z "${NO_VENV-}" ] || [ -e "$APT_DONE" ] ;;
"-c import pip") ;;
"-m pip install "*) [ -z "${PIP_FAILS-}" ] ;;
"-P -m vmesh"* | "-P -B -m vmesh"*) echo "vmesh was called: $*" ;;
esac
"""


class Checkout:
    """A project folder with only the script, two locks, and a PATH of our making."""

    def __init__(self, folder: Path) -> None:
        self.project = folder / "project"
        self.bin = folder / "bin"
        self.calls_file = folder / "calls"
        self.apt_done = folder / "apt-done"
        self.project.mkdir()
        self.bin.mkdir()
        shutil.copy(paths.PROJECT / "mesh", self.project)
        for lock in ("requirements.txt", "requirements-dev.txt"):
            (self.project / lock).write_text("something==1\n")
        for name in NEEDED:
            (self.bin / name).symlink_to(str(shutil.which(name)))
        self.command(
            "apt-get", 'echo "$*" >>"$CALLS"; case "$*" in install*) : >"$APT_DONE";; esac'
        )
        self.command("sudo", '"$@"')
        self.command("sleep", f"exec {shutil.which('sleep')} 0.05")  # no need to wait in a test
        self.home = folder / "home"

    def command(self, name: str, script: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def add_python(self) -> None:
        path = self.bin / "python3"
        path.write_text(FAKE_PYTHON)
        path.chmod(0o755)

    def run(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        self.calls_file.write_text("")
        return subprocess.run(
            [str(self.project / "mesh"), *arguments],
            env={
                "PATH": str(self.bin),
                "HOME": str(self.home),
                "CALLS": str(self.calls_file),
                "APT_DONE": str(self.apt_done),
                **env,
            },
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )

    def calls(self, word: str) -> list[str]:
        return [line for line in self.calls_file.read_text().splitlines() if word in line]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_without_python_the_missing_packages_are_named_and_nothing_is_installed(
    checkout: Checkout,
) -> None:
    run = checkout.run("up", "--no-install")
    assert run.returncode == 2
    assert "missing system packages: python3 python3-venv" in run.stderr
    assert "apt-get install -y --no-install-recommends python3 python3-venv" in run.stderr
    assert checkout.calls("install") == []
    assert run.stdout == ""


def test_missing_venv_support_is_named_then_installed_and_the_command_goes_on(
    checkout: Checkout,
) -> None:
    checkout.add_python()
    run = checkout.run("ps", NO_VENV="1")
    assert run.returncode == 0, run.stderr
    assert run.stderr.index("missing system packages: python3-venv") < run.stderr.index("making")
    assert checkout.calls("install -y --no-install-recommends python3-venv")
    assert run.stdout == "vmesh was called: -P -m vmesh ps\n"


def test_libraries_are_installed_once_with_their_hashes_checked(checkout: Checkout) -> None:
    checkout.add_python()
    assert checkout.run("ps").returncode == 0
    (install,) = checkout.calls("-m pip")
    assert "--require-hashes" in install
    again = checkout.run("ps", "--json")
    assert checkout.calls("-m pip") == []
    assert again.stderr == ""
    assert again.stdout == "vmesh was called: -P -m vmesh ps --json\n"


def test_a_changed_lock_is_installed_anew(checkout: Checkout) -> None:
    checkout.add_python()
    checkout.run("ps")
    (checkout.project / "requirements.txt").write_text("something==2\n")
    checkout.run("ps")
    assert len(checkout.calls("-m pip")) == 1


def test_the_tools_of_contributors_are_installed_for_check_only(checkout: Checkout) -> None:
    checkout.add_python()
    checkout.run("ps")
    assert checkout.calls("requirements-dev.txt") == []
    checkout.run("check")
    assert len(checkout.calls("requirements-dev.txt")) == 1


def test_a_failed_preparation_says_where_to_look_and_is_done_again(checkout: Checkout) -> None:
    checkout.add_python()
    run = checkout.run("ps", PIP_FAILS="1")
    assert run.returncode == 1
    assert "setup.log" in run.stderr
    again = checkout.run("ps")
    assert again.returncode == 0
    # What an unfinished installation left behind is not built upon.
    assert len(checkout.calls("-m venv")) == 1


def test_help_prepares_nothing(checkout: Checkout) -> None:
    checkout.add_python()
    run = checkout.run("up", "--help")
    assert run.returncode == 0
    assert "up --help" in run.stdout
    assert not (checkout.project / ".venv").exists()


def test_it_works_through_a_link_and_from_another_folder(
    checkout: Checkout, tmp_path: Path
) -> None:
    checkout.add_python()
    link = tmp_path / "elsewhere"
    link.symlink_to(checkout.project / "mesh")
    run = subprocess.run(
        [str(link), "ps"],
        env={
            **os.environ,
            "PATH": str(checkout.bin),
            "CALLS": str(checkout.calls_file),
            "HOME": str(checkout.home),
            "APT_DONE": "/none",
        },
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert (checkout.project / ".venv" / "bin" / "python").exists()
