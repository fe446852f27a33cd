"""vmesh as a user without a checkout has it: its wheel and its collection, built and installed."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

from vmesh.base import paths

UV = Path(sys.executable).with_name("uv")
GALAXY = Path(sys.executable).with_name("ansible-galaxy")
_ANSIBLE_PLAYBOOK = """\
#!{python}
import sys
from ansible.cli.playbook import main
sys.exit(main())
"""


@dataclass(frozen=True)
class Installed:
    """A virtual environment with the package, and a folder with the collection.

    home: the folder of both; the user's own folder is `home`/work, which is empty at first
    """

    home: Path

    @property
    def work(self) -> Path:
        return self.home / "work"

    @property
    def collection(self) -> Path:
        return self.home / "collections" / "ansible_collections" / "vmesh" / "mesh"

    def run(
        self, program: str, *arguments: str | Path, timeout: float = 120, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of the virtual environment in the user's folder.

        variables: of the environment, beside those of `_environment`
        """
        return subprocess.run(
            [self.home / "venv" / "bin" / program, *arguments],
            cwd=self.work,
            env={
                **_environment(),
                "ANSIBLE_COLLECTIONS_PATH": str(self.home / "collections"),
                "ANSIBLE_LOCAL_TEMP": str(self.home / "local"),
                **variables,
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )


def _environment() -> dict[str, str]:
    """Return the caller's variables that have no say in where vmesh and Ansible look for files.

    Other tests of the same process run commands of vmesh, which set ANSIBLE_CONFIG.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ANSIBLE_", "PYTHON", "VMESH_"))
    }


def build(folder: Path) -> tuple[Path, Path]:
    """Build the wheel and the collection into `folder` as CONTRIBUTING.md says; return both."""
    # The locked backend of this environment, so that no network is needed.
    backend = ("--no-build-isolation", "--python", sys.executable)
    _do(paths.PROJECT, UV, "build", "-q", "--wheel", *backend, "--out-dir", folder)
    _do(paths.PROJECT, GALAXY, "collection", "build", "--output-path", folder)
    (wheel,), (collection,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, collection


def install(home: Path) -> Installed:
    """Build both and install them below `home`.

    The libraries are those of this environment: what is tried is vmesh, not the package index.
    """
    installed = Installed(home)
    wheel, collection = build(home / "dist")
    venv.create(home / "venv", symlinks=True)
    python = home / "venv" / "bin" / "python"
    places = {"base": str(home / "venv"), "platbase": str(home / "venv")}
    site = Path(sysconfig.get_path("purelib", "venv", places))
    libraries = sysconfig.get_path("purelib")
    (site / "libraries.pth").write_text(f"import site; site.addsitedir({libraries!r})\n")
    _do(home, UV, "pip", "install", "-q", "--no-deps", "--offline", "--python", python, wheel)
    _do(home, GALAXY, "collection", "install", "--offline", "-p", home / "collections", collection)
    playbook = python.with_name("ansible-playbook")
    playbook.write_text(_ANSIBLE_PLAYBOOK.format(python=python))
    playbook.chmod(0o755)
    installed.work.mkdir()
    return installed


def _do(folder: Path, *command: str | Path) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
