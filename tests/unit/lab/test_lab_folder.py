"""A lab's folder and what is decided by looking at it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vmesh.lab import Lab
from vmesh.lab.image import Image
from vmesh.lab.machine import adopt_image
from vmesh.lab.spec import Forward, LabSpec, VmSpec

FREE_PORT = 29321


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    vm = VmSpec("edge", "198.18.0.11", 256, (Forward(FREE_PORT, 22, "ansible_port of edge"),))
    spec = LabSpec("lab", "bookworm", 29322, 6, "auto", (vm,))
    return Lab(spec, tmp_path / "labs" / "lab", tmp_path / "cache")


def with_disk(lab: Lab, name: str, image: str) -> None:
    folder = lab.folder / "vms" / name
    folder.mkdir(parents=True)
    (folder / "disk.qcow2").touch()
    (folder / "image").write_text(f"{image}\n")


def test_a_new_lab_has_no_vms(lab: Lab) -> None:
    assert {name: state.status for name, state in lab.status().items()} == {"edge": "absent"}


def test_a_disk_of_another_debian_is_not_started_as_this_one(lab: Lab) -> None:
    with_disk(lab, "edge", "trixie-0123")
    (problem,) = [item for item in lab.preflight() if item.variable == "lab_suite"]
    assert "trixie" in problem.message
    assert "--purge" in problem.remedy


def test_a_playbook_that_is_not_there_is_told_before_a_vm_is_started(lab: Lab) -> None:
    apps = ("services/stock/install.yml", "services/none/install.yml")
    lab.spec = replace(lab.spec, apps=apps)
    found = [item for item in lab.preflight() if item.variable == "lab_apps"]
    assert [item.value for item in found] == ["services/none/install.yml"]


def test_purging_removes_also_what_the_inventory_forgot(lab: Lab, tmp_path: Path) -> None:
    class Silent:
        log_path = tmp_path / "log"

        def step(self, text: str) -> None:
            pass

    with_disk(lab, "edge", "bookworm-0123")
    with_disk(lab, "renamed", "bookworm-0123")
    assert lab.down(Silent(), purge=True) == {"edge": True, "renamed": True}
    assert not lab.folder.exists()
    assert lab.down(Silent(), purge=True) == {"edge": False}


def test_a_lab_keeps_its_image_when_the_cache_makes_another_of_the_same_recipe(
    lab: Lab, tmp_path: Path
) -> None:
    image = Image(tmp_path / "cache" / "images" / "bookworm-0123")
    image.folder.mkdir(parents=True)
    for path in image.files:
        path.write_text(f"first {path.name}")
    own = adopt_image(image, lab.folder)
    assert own.complete()
    for path in image.files:
        path.unlink()
        path.write_text(f"second {path.name}")
    assert adopt_image(image, lab.folder) == own
    assert own.disk.read_text() == "first root.qcow2"
    assert own.identity != image.identity
