"""What is found in the lab's way before anything is started."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from vmesh.lab import preflight
from vmesh.lab.preflight import Machine, Needs, decide
from vmesh.lab.requirements import REQUIREMENTS, Requirement, missing_requirements
from vmesh.lab.spec import Forward

NEEDS = Needs(
    forwards=[Forward(2221, 22, "ansible_port of edge"), Forward(8000, 80, "lab_publish of edge")],
    network_port=24018,
    memory_mb=2000,
    disk_mb={"/state": 5000, "/cache": 3000},
)
ROOMY = Machine(
    taken={},
    network_holder=None,
    available_memory_mb=8000,
    free_disk_mb={"/state": ("disk", 20000), "/cache": ("disk", 20000)},
)


def test_a_machine_with_room_has_no_problems() -> None:
    assert decide(NEEDS, ROOMY) == []


def test_a_taken_port_names_the_port_the_program_and_the_setting() -> None:
    (problem,) = decide(NEEDS, replace(ROOMY, taken={8000: "nginx (process 77)"}))
    assert problem.variable == "lab_publish of edge"
    assert "8000" in problem.message
    assert "nginx (process 77)" in problem.message
    assert "lab_publish of edge" in problem.remedy


def test_an_unknown_holder_of_a_port_is_left_out() -> None:
    (problem,) = decide(NEEDS, replace(ROOMY, taken={2221: ""}))
    assert problem.message.endswith("is taken")


def test_another_lab_on_the_same_network_is_refused() -> None:
    (problem,) = decide(NEEDS, replace(ROOMY, network_holder="vmesh-other-edge (process 5)"))
    assert (problem.variable, problem.value) == ("lab_network_port", 24018)
    assert "vmesh-other-edge" in problem.message


def test_too_little_memory_tells_both_amounts() -> None:
    (problem,) = decide(NEEDS, replace(ROOMY, available_memory_mb=2100))
    assert problem.variable == "lab_memory_mb"
    assert "2400 MB" in problem.message
    assert "2100 MB" in problem.message


def test_a_lab_that_starts_nothing_needs_no_memory() -> None:
    assert decide(replace(NEEDS, memory_mb=0), replace(ROOMY, available_memory_mb=10)) == []


def test_folders_on_one_disk_share_its_space() -> None:
    apart = {"/state": ("a", 6000), "/cache": ("b", 4000)}
    together = {"/state": ("a", 6000), "/cache": ("a", 6000)}
    assert decide(NEEDS, replace(ROOMY, free_disk_mb=apart)) == []
    (problem,) = decide(NEEDS, replace(ROOMY, free_disk_mb=together))
    assert problem.value == "/state and /cache"
    assert "8500 MB" in problem.message


def test_all_problems_are_told_in_one_go() -> None:
    crowded = replace(
        ROOMY,
        taken={2221: "", 8000: ""},
        available_memory_mb=1,
        free_disk_mb={"/state": ("a", 1), "/cache": ("b", 1)},
        missing=[Requirement("qemu-utils", command="qemu-img")],
        subordinate_ids=False,
    )
    assert [problem.variable for problem in decide(NEEDS, crowded)] == [
        "system packages",
        "/etc/subuid",
        "ansible_port of edge",
        "lab_publish of edge",
        "lab_memory_mb",
        "disk space",
        "disk space",
    ]


def test_missing_packages_are_each_named_once() -> None:
    missing = missing_requirements(has_command=lambda name: False, has_path=lambda path: True)
    (problem,) = decide(NEEDS, replace(ROOMY, missing=missing))
    assert problem.remedy.count("openssh-client") == 1
    assert {"qemu-system-x86", "mmdebstrap"} <= set(problem.remedy.split())


def test_only_what_is_missing_is_asked_for() -> None:
    assert missing_requirements(has_command=lambda _: True, has_path=lambda _: True) == []
    names = [
        item.name
        for item in missing_requirements(
            REQUIREMENTS, has_command=lambda name: name != "mke2fs", has_path=lambda _: True
        )
    ]
    assert names == ["mke2fs"]


# -- reading the real machine


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def datagram_port() -> Iterator[int]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def test_a_port_somebody_listens_on_is_found_with_its_process(listener: int) -> None:
    assert not preflight.can_listen(listener)
    holder = preflight.holder_of(listener, "tcp", frozenset())
    assert holder is not None
    assert f"(process {os.getpid()})" in holder


def test_a_port_of_our_own_vms_is_nobodys(datagram_port: int) -> None:
    assert preflight.holder_of(datagram_port, "udp", frozenset({os.getpid()})) is None
    assert preflight.holder_of(datagram_port, "udp", frozenset()) is not None


def test_a_port_is_free_again_when_its_listener_went_though_a_connection_lingers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        peer, _ = server.accept()
    peer.close()  # the side that closes first keeps the port in TIME_WAIT
    client.close()
    assert preflight.can_listen(port)
    assert preflight.holder_of(port, "tcp", frozenset()) is None


def test_available_memory_is_what_the_kernel_calls_available() -> None:
    text = "MemTotal:  8000000 kB\nMemFree:  100 kB\nMemAvailable:  2097152 kB\n"
    assert preflight.available_memory_mb(text) == 2048


def test_the_survey_reads_folders_that_do_not_exist_yet(tmp_path: object) -> None:
    path = f"{tmp_path}/not/yet"
    machine = preflight.survey(Needs([], 24018, 0, {path: 1}), frozenset())
    assert machine.free_disk_mb[path][1] > 0
    assert machine.available_memory_mb > 0
