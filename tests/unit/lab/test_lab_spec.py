"""What the inventory may say about the lab."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest

from vmesh.base.problems import Problems
from vmesh.lab.spec import LabSpec, lab_spec

HOSTS: dict[str, dict[str, Any]] = {
    "front": {
        "ansible_host": "127.0.0.1",
        "ansible_port": 2221,
        "mesh_address": "198.18.0.11",
        "lab_publish": {8000: 80},
        "lab_name": "mine",
    },
    "back": {
        "ansible_host": "127.0.0.1",
        "ansible_port": "2222",
        "mesh_address": "198.18.0.12",
        "lab_memory_mb": 1024,
        "lab_name": "mine",
    },
}


@dataclass
class Inventory:
    groups: dict[str, tuple[str, ...]]
    hosts: dict[str, dict[str, Any]]


def read(**changes: dict[str, Any]) -> LabSpec:
    """Read the lab of HOSTS with some of a host's variables changed."""
    hosts = copy.deepcopy(HOSTS)
    for host, variables in changes.items():
        hosts[host].update(variables)
    return lab_spec(Inventory({"lab": ("front", "back")}, hosts))


def problems(**changes: dict[str, Any]) -> dict[str, Any]:
    """Return the problems' variables and values."""
    with pytest.raises(Problems) as caught:
        read(**changes)
    return {item.variable: item.value for item in caught.value.items}


def test_a_lab_is_read_with_defaults_filled_in() -> None:
    spec = read()
    assert (spec.name, spec.suite, spec.acceleration) == ("mine", "bookworm", "auto")
    assert spec.apps == ()
    front, back = spec.vms
    assert [(f.host_port, f.vm_port) for f in front.forwards] == [(2221, 22), (8000, 80)]
    assert (front.memory_mb, back.memory_mb, back.ssh_port) == (512, 1024, 2222)


def test_cards_and_machine_ids_differ_between_vms_and_outlive_the_lab_and_its_ports() -> None:
    spec, other = read(), read(front={"ansible_port": 3000, "lab_name": "other"})
    assert len({vm.mac for vm in spec.vms}) == len({vm.uuid for vm in spec.vms}) == 2
    assert [(vm.mac, vm.uuid) for vm in spec.vms] == [(vm.mac, vm.uuid) for vm in other.vms]


def test_everything_wrong_is_told_at_once_with_variable_and_value() -> None:
    found = problems(
        front={
            "ansible_port": "ssh",
            "mesh_address": "10.0.0.1",
            "lab_suite": "sid",
            "lab_memory_mb": 64,
            "lab_publish": [8000],
            "lab_network_port": True,
            "lab_apps": "install.yml",
        },
        back={"ansible_host": "back.example.org", "ansible_user": "root"},
    )
    assert found == {
        "ansible_port of front": "ssh",
        "mesh_address of front": "10.0.0.1",
        "lab_suite": "sid",
        "lab_memory_mb of front": 64,
        "lab_publish of front": [8000],
        "lab_network_port": True,
        "lab_apps": "install.yml",
        "ansible_host of back": "back.example.org",
        "ansible_user of back": "root",
    }


@pytest.mark.parametrize("name", ["../up", "a b", "Lab", "", 7, "a,b"])
def test_a_lab_name_must_be_fit_for_a_folder_and_a_process(name: Any) -> None:
    assert problems(front={"lab_name": name}) == {"lab_name": name}


def test_what_two_vms_share_is_told_with_both_places() -> None:
    assert problems(back={"mesh_address": "198.18.0.11", "lab_publish": {2221: 22}}) == {
        "mesh_address of front and mesh_address of back": "198.18.0.11",
        "ansible_port of front and lab_publish of back": 2221,
    }


def test_an_inventory_without_a_lab_says_so() -> None:
    with pytest.raises(Problems, match="group lab"):
        lab_spec(Inventory({"edge": ("front",)}, HOSTS))
