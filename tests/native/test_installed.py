"""The package and the collection, outside of a checkout: `vmesh` and `vmesh.mesh.site`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import installed
from tests.installed import Installed
from vmesh.artifacts import bundles
from vmesh.base import paths
from vmesh.compile.compiler import compile_mesh
from vmesh.model.inventory import load
from vmesh.render.renderer import write_files
from vmesh.rollout import description

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """A user whose own folder has an inventory and its apps, and nothing else."""
    ready = installed.install(tmp_path_factory.mktemp("installed"))
    shutil.copytree(paths.PROJECT / "inventory" / "example-own-vms", ready.work / "mine")
    for name in ("service1", "service2"):
        shutil.copytree(paths.PROJECT / "services" / name, ready.work / "services" / name)
    return ready


def texts(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def told(done: subprocess.CompletedProcess[str]) -> str:
    """Return what a command has told, without the line breaks of a terminal."""
    return " ".join((done.stdout + done.stderr).split())


def test_the_package_validates_and_renders_as_the_checkout_does(
    user: Installed, envoy: Path, tmp_path: Path
) -> None:
    assert envoy.is_file()
    valid = user.run("vmesh", "validate", "-i", "mine")
    assert (valid.returncode, valid.stdout) == (0, "mine: no problem found\n"), told(valid)
    rendered = user.run("vmesh", "render", "-i", "mine", "out")
    assert rendered.returncode == 0, told(rendered)
    write_files(compile_mesh(load(user.work / "mine")), tmp_path / "ours")
    assert texts(user.work / "out") == texts(tmp_path / "ours") != {}


def test_the_package_carries_all_that_goes_to_hosts(user: Installed) -> None:
    asked = (
        "import json, sys; from pathlib import Path;"
        " from vmesh.artifacts import bundles; from vmesh.rollout import description;"
        " print(json.dumps([bundles.version(Path('services/service1'), '3.11', 'x86_64'),"
        " *map(description.role_digest, sys.argv[1:])]))"
    )
    roles = sorted(path.name for path in (paths.PROJECT / "roles").iterdir())
    answer = user.run("python", "-c", asked, *roles)
    source = paths.PROJECT / "services" / "service1"
    assert json.loads(answer.stdout or "[]") == [
        bundles.version(source, "3.11", "x86_64"),
        *map(description.role_digest, roles),
    ], told(answer)


def test_what_needs_a_checkout_says_so(user: Installed) -> None:
    for command in (["check"], ["test"], ["bench", "change"]):
        refused = user.run("vmesh", *command)
        assert refused.returncode == 2
        assert f"Run `./mesh {command[0]}` there." in refused.stderr, told(refused)


def test_the_playbook_of_the_collection_is_that_of_the_checkout(user: Installed) -> None:
    own = user.run("ansible-playbook", "vmesh.mesh.site", "-i", "mine", "--list-tasks")
    ours = user.run(
        "ansible-playbook", paths.PROJECT / "site.yml", "-i", "mine", "--list-tasks",
        ANSIBLE_CONFIG=str(paths.PROJECT / "ansible.cfg"),
        ANSIBLE_COLLECTIONS_PATH=str(paths.PROJECT / "collections"),
    )  # fmt: skip
    assert own.returncode == 0, told(own)
    tasks = [text.partition("\n\n")[2] for text in (own.stdout, ours.stdout)]
    assert tasks[0] == tasks[1]
    assert "vmesh.mesh.envoy : " in tasks[0]


def test_the_collection_plans_a_mesh_in_the_users_folder(user: Installed, envoy: Path) -> None:
    assert envoy.is_file()
    planned = user.run("ansible-playbook", "vmesh.mesh.plan", "-i", "mine")
    assert planned.returncode == 0, told(planned)
    assert "gateway1" in {path.name for path in (user.work / "build" / "mine").iterdir()}
    # And finds the mistakes in the inventory, which begins in the user's folder.
    (user.work / "services" / "service2").rename(user.work / "away")
    try:
        refused = user.run("ansible-playbook", "vmesh.mesh.plan", "-i", "mine")
    finally:
        (user.work / "away").rename(user.work / "services" / "service2")
    assert refused.returncode == 2
    assert f"a relative path begins at {user.work}" in told(refused)


def test_the_commands_use_the_collection_that_the_package_carries(user: Installed) -> None:
    # A collection elsewhere does not count, however the user has set its place.
    asked = (
        "from vmesh.base import paths; from vmesh.remote import playbook; import subprocess, os;"
        " from pathlib import Path;"
        " env = playbook.environment(os.environ, Path('events'), fast=False);"
        " subprocess.run(['ansible-playbook', '-i', 'mine', '--list-tasks', '-vv',"
        " paths.playbook('rollback')], env=env, check=True)"
    )
    done = user.run(
        "python", "-c", asked, ANSIBLE_COLLECTIONS_PATH=str(user.home / "none"),
        PATH=f"{user.home / 'venv' / 'bin'}:/usr/bin:/bin",
    )  # fmt: skip
    assert done.returncode == 0, told(done)
    assert "Bring back the earlier state" in done.stdout


def test_a_missing_package_is_told_with_its_remedy(user: Installed) -> None:
    # This environment has the libraries and not the package.
    done = user.run(
        "python", "-c",
        "import sys; sys.modules['vmesh'] = None\n"
        "from ansible.cli.playbook import main; sys.argv[0] = 'ansible-playbook'; main()",
        "vmesh.mesh.plan", "-i", "mine",
    )  # fmt: skip
    assert done.returncode != 0
    assert re.search(r"needs the Python package vmesh.* pip install vmesh==\d", told(done))


def test_another_version_of_the_collection_is_told(user: Installed, tmp_path: Path) -> None:
    place = tmp_path / "ansible_collections" / "vmesh" / "mesh"
    shutil.copytree(user.collection, place)
    manifest = place / "MANIFEST.json"
    content = json.loads(manifest.read_text())
    content["collection_info"]["version"] = "0.9.0"
    manifest.write_text(json.dumps(content))
    done = user.run(
        "ansible-playbook", "vmesh.mesh.plan", "-i", "mine", ANSIBLE_COLLECTIONS_PATH=str(tmp_path)
    )
    assert done.returncode != 0
    assert "is version 0.9.0, but the Python package vmesh" in told(done)
    assert "pip install vmesh==0.9.0" in told(done)
