"""Two runs do not change the same hosts at once, and a dead one keeps nobody waiting."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vmesh.base import paths
from vmesh.rollout import desired_state, run_lock
from vmesh.rollout.run_lock import Running, acquire, held_locally, held_on_hosts

ME = "root@controller"


def a_run(pid: int | None = None) -> Running:
    return Running.of(pid or os.getpid(), ME)


def test_a_run_that_goes_on_is_told_of(tmp_path: Path) -> None:
    path = tmp_path / "build" / "hosts.run.json"
    first = a_run()
    assert acquire(path, first) is None
    assert acquire(path, first) is None, "it may ask twice"
    with subprocess.Popen(["sleep", "60"]) as process:
        assert acquire(path, a_run(process.pid)) == first
        process.kill()
    assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_run_is_over_when_its_process_is_dead(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with subprocess.Popen(["sleep", "60"]) as process:
        killed = a_run(process.pid)
        assert acquire(path, killed) is None
        assert killed.lives()
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not killed.lives(), "also while nobody has asked what became of it"
    assert not killed.lives()
    assert acquire(path, a_run()) is None


def test_another_process_of_the_same_number_is_another_one(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    mine = a_run()
    assert mine.began.isdigit()
    assert acquire(path, Running(mine.pid, str(int(mine.began) - 1), ME, mine.when)) is None
    assert acquire(path, mine) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', "null"])
def test_a_file_in_pieces_keeps_nobody_waiting(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    assert acquire(path, a_run()) is None
    assert json.loads(path.read_text())["who"] == ME


def begun(who: str, seconds: float = 40.3) -> dict[str, Any]:
    return {"interrupted": {"run": 7, "who": who, "seconds": seconds}}


def test_it_is_refused_with_whom_to_wait_for(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    assert held_locally(path) == "", "a task of this run"
    with subprocess.Popen(["sleep", "60"]) as process:
        other = a_run(process.pid)
        path.unlink()
        acquire(path, other)
        text = held_locally(path)
        process.kill()
    assert text.startswith("Nothing was changed")
    for word in (ME, str(other.pid), other.when, f"kill -INT {other.pid}", "run this again"):
        assert word in text


def test_hosts_that_somebody_else_changes_are_left_alone() -> None:
    answers = {"one": begun("ann@tower"), "two": {"interrupted": {}}, "three": begun(ME)}
    text = held_on_hosts(answers, ME)
    assert "  one: run 7 of ann@tower, 40 s ago" in text
    assert "two" not in text
    assert "three" not in text
    assert "-e vmesh_take_over=true" in text
    assert "15 minutes" in text


@pytest.mark.parametrize(
    ("answer", "take_over"),
    [
        (begun("ann@tower"), True),
        (begun("ann@tower", run_lock.SECONDS_ON_A_HOST), False),
        (begun(""), False),
        (begun(ME), False),
        ({"interrupted": {}}, False),
    ],
    ids=["taken over", "long ago", "nobody", "my own", "none"],
)
def test_what_was_interrupted_is_gone_on_with(answer: dict[str, Any], take_over: bool) -> None:
    assert held_on_hosts({"one": answer}, ME, take_over=take_over) == ""


PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - name: Decide who takes part, in which order
      vmesh.mesh.mesh_rollout:
        hosts: "{{ ansible_play_hosts }}"
        rollback: {}
    - name: Another run meanwhile
      ansible.builtin.command: "{{ meanwhile }}"
      changed_when: false
      register: other
      failed_when: other.rc == 0
      when: meanwhile | default('') != ''
"""


def command(folder: Path, *options: str) -> list[str]:
    return [
        str(Path(sys.executable).with_name("ansible-playbook")),
        "-i",
        str(folder / f"{folder.name}.json"),
        str(folder / "play.yml"),
        *options,
    ]


def play(folder: Path, *options: str, meanwhile: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(folder, *options, "-v", "-e", json.dumps({"meanwhile": meanwhile or None})),
        cwd=paths.PROJECT,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
        env={
            "PATH": os.defpath,
            "HOME": str(folder),
            "VMESH_APPLIED": str(folder / "applied"),
            "ANSIBLE_CONFIG": str(paths.PROJECT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
        },
    )


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Path]:
    """Return a folder with a playbook and an inventory of a host that ann@tower is changing."""
    (tmp_path / "play.yml").write_text(PLAYBOOK)
    (tmp_path / f"{tmp_path.name}.json").write_text(
        json.dumps(
            {
                "all": {
                    "hosts": {
                        "one": {
                            "ansible_connection": "local",
                            "vmesh_answer": {"host": {"newest": 3, **begun("ann@tower")}},
                        }
                    }
                }
            }
        )
    )
    yield tmp_path
    desired_state.lock([tmp_path / f"{tmp_path.name}.json"]).unlink()


@pytest.mark.slow
def test_a_second_run_is_refused_while_the_first_goes_on(hosts: Path) -> None:
    refused = play(hosts)
    assert refused.returncode == 2
    assert "one: run 7 of ann@tower, 40 s ago" in refused.stdout
    second = command(hosts, "-e", "vmesh_take_over=true")
    first = play(hosts, "-e", "vmesh_take_over=true", meanwhile=" ".join(second))
    assert first.returncode == 0, first.stdout
    assert "is changing this inventory's hosts" in first.stdout
    assert play(hosts, "-e", "vmesh_take_over=true").returncode == 0, "the first one has ended"
    assert play(hosts, "--check").returncode == 0, "which changes nothing"
