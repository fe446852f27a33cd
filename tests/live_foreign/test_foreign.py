"""The roles in somebody else's playbook, and vmesh.mesh.site in a folder without a checkout."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import installed, role_example
from tests.installed import Installed
from tests.live.target import Target, Vm
from tests.live_foreign import room
from vmesh import artifacts
from vmesh.artifacts import Artifact
from vmesh.base import paths
from vmesh.base.progress import Plain

pytestmark = pytest.mark.side_effect

# The only task of a run that changes something where the hosts have all that they should have:
# it writes the records, which this folder did not have, on the controller.
RECORD = "Record on the controller what was applied"
TCP = '{"socket_address": {"address": "127.0.0.1", "port_value": 7000}}'
UNIX = '{"pipe": {"path": "/run/flask/web/app.sock"}}'


@pytest.fixture(scope="module")
def user(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """A user whose own folder has the inventory of the mesh and its apps, and nothing else."""
    ready = installed.install(tmp_path_factory.mktemp("installed"))
    shutil.copytree(target.inventory, ready.work / "mine")
    shutil.copytree(paths.PROJECT / "services", ready.work / "services")
    return ready


def without(target: Target, proxy: bool, jaeger: bool) -> Vm:
    """Return a VM that has proxies or not, and Jaeger or not."""
    for vm in target.vms.values():
        if (bool(vm.plan.proxies), vm.plan.jaeger is not None) == (proxy, jaeger):
            return vm
    pytest.skip("the mesh has no VM with this and without that")


def on(vm: Vm, *arguments: str) -> str:
    """Run room.py on the VM."""
    program = Path(room.__file__).read_text()
    return vm.run("python3 -c %s " + " ".join("%s" for _ in arguments), program, *arguments)


@pytest.fixture
def app_vm(target: Target) -> Iterator[Vm]:
    """A VM that has no Envoy and no Flask service, and has none again in the end."""
    vm = without(target, proxy=False, jaeger=True)
    on(vm, "note")
    yield vm
    assert (
        json.loads(on(vm, "clean", "envoy@web.service", "flask@web.service", "flask@web.socket"))
        == []
    )


@pytest.fixture
def jaeger_vm(target: Target) -> Iterator[Vm]:
    """A VM that has no Jaeger, and has none again in the end."""
    vm = without(target, proxy=True, jaeger=False)
    on(vm, "note")
    yield vm
    assert json.loads(on(vm, "clean", "jaeger.service")) == []


def described(artifact: Artifact) -> dict[str, str]:
    return {"version": artifact.version, "archive": str(artifact.path)}


def get(vm: Vm, url: str) -> str:
    """Return the body of a GET from the VM itself."""
    program = (
        "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=30).read().decode())"
    )
    return vm.run("python3 -c %s %s", program, url)


def test_the_roles_work_in_a_foreign_playbook(
    user: Installed, app_vm: Vm, jaeger_vm: Vm, tmp_path: Path
) -> None:
    arch = app_vm.run("uname -m").strip()
    python = app_vm.run(
        "python3 -c %s", "import sys; print('%d.%d' % sys.version_info[:2])"
    ).strip()
    found = artifacts.require({"envoy": [arch], "jaeger": [arch]})
    bundle = artifacts.build_bundle(
        paths.PROJECT / "services" / "service2", "service2", python, arch, Plain()
    )
    (tmp_path / "greeting.txt").write_text("hello\n")
    with tarfile.open(tmp_path / "greeting.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "greeting.txt", "greeting.txt")
    shutil.copy(Path(__file__).with_name("foreign.yml"), user.work)
    role_example.written(user.work / "web", {TCP: UNIX})
    variables = {
        "app_host": app_vm.name,
        "jaeger_host": jaeger_vm.name,
        "greeting_archive": str(tmp_path / "greeting.tar.gz"),
        "bundle": described(bundle),
        "envoy": described(found["envoy"][arch]),
        "jaeger": described(found["jaeger"][arch]),
    }
    done = user.run(
        "ansible-playbook", "foreign.yml", "-i", "mine", "-e", json.dumps(variables), timeout=1200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "service 2" in get(app_vm, "http://127.0.0.1:8080/service/2")
    assert app_vm.run("cat /opt/greeting/current/greeting.txt") == "hello\n"
    assert '"data"' in get(jaeger_vm, "http://127.0.0.1:16686/api/services")


def test_a_mesh_is_unchanged_by_vmesh_mesh_site_in_a_folder_of_its_own(user: Installed) -> None:
    done = user.run("ansible-playbook", "vmesh.mesh.site", "-i", "mine", timeout=900)
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    # Each task's title, and what became of it on its hosts.
    changed = []
    for task in re.split(r"\n(?=TASK \[)", done.stdout):
        title = re.match(r"TASK \[(.*)\]", task)
        changed += [title[1] for _ in re.findall(r"^changed: ", task, re.MULTILINE) if title]
    assert set(changed) <= {RECORD}, told
    assert {path.name for path in user.work.iterdir()} >= {"applied", "build"}
