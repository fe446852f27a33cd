from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vmesh.base import paths
from vmesh.base.progress import Steps
from vmesh.cli.up import apply_all
from vmesh.remote import playbook
from vmesh.remote.playbook import Outcome


def outcome(*events: dict[str, object], code: int = 0) -> playbook.Outcome:
    result = playbook.Outcome(code=code)
    for event in events:
        result.take(event)
    return result


def counts(**more: int) -> dict[str, int]:
    return {"ok": 5, "changed": 0, "failures": 0, "unreachable": 0, **more}


def test_a_run_that_changed_nothing_says_so() -> None:
    ended = outcome({"event": "stats", "hosts": {"a": counts(), "b": counts()}})
    assert playbook.summary(ended) == ["changed 0: nothing to do on 2 hosts"]


def test_a_run_that_changed_something_says_how_much() -> None:
    ended = outcome({"event": "stats", "hosts": {"a": counts(changed=3), "b": counts(changed=4)}})
    assert playbook.summary(ended) == ["changed 7 on 2 hosts"]


def test_failures_and_unreachable_hosts_are_named_and_so_are_the_others() -> None:
    ended = outcome(
        {"event": "failed", "host": "a", "task": "flask_service : Start", "message": "no module"},
        {"event": "unreachable", "host": "b", "task": "Gather", "message": "timed out"},
        {
            "event": "stats",
            "hosts": {"a": counts(failures=1), "b": counts(unreachable=1), "c": counts(changed=2)},
        },
        code=2,
    )
    assert playbook.summary(ended) == [
        "a: failed: flask_service : Start",
        "    no module",
        "b: unreachable: timed out",
        "without a failure: c",
    ]


def test_two_runs_one_after_the_other_count_as_one() -> None:
    first = outcome({"event": "stats", "hosts": {"a": counts(changed=3), "b": counts()}})
    first.followed_by(
        outcome(
            {"event": "failed", "host": "a", "task": "Run each service", "message": "no unit"},
            {"event": "unreachable", "host": "c", "message": "timed out"},
            {"event": "stats", "hosts": {"a": counts(changed=1, failures=1), "c": counts()}},
            code=2,
        )
    )
    assert (first.code, first.changed) == (2, 4)
    assert first.hosts["a"] == counts(ok=10, changed=4, failures=1)
    assert playbook.summary(first) == [
        "a: failed: Run each service",
        "    no unit",
        "c: unreachable: timed out",
        "without a failure: b",
    ]


def test_a_run_does_not_take_the_events_of_one_before_it_for_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(1, tmp_path / "up.log", io.StringIO())
    said = iter(
        [
            {"event": "failed", "host": "a", "task": "Old", "message": "old"},
            {"event": "stats", "hosts": {"a": counts(changed=1)}},
        ]
    )

    def follow(_command: object, env: dict[str, str], _log: Path, look: Callable[[], None]) -> int:
        with Path(env["VMESH_EVENTS"]).open("a") as file:
            file.write(json.dumps(next(said)) + "\n")
        look()
        return 0

    monkeypatch.setattr(playbook, "follow", follow)
    first = playbook.apply([tmp_path], steps, fast=False)
    second = playbook.apply([tmp_path], steps, fast=False, playbook="services/mine/install.yml")
    assert [failure.task for failure in first.failures] == ["Old"]
    assert (second.failures, second.changed) == ([], 1)


@pytest.mark.parametrize(
    ("codes", "ran"),
    [
        ([0, 0, 0], ["site.yml", "a.yml", "b.yml"]),
        ([0, 2], ["site.yml", "a.yml"]),
        ([4], ["site.yml"]),
    ],
)
def test_applications_come_after_the_mesh_and_only_when_it_is_there(
    codes: list[int], ran: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def apply(*_: object, playbook: str, **__: object) -> Outcome:
        done.append(playbook)
        return Outcome(code=codes[len(done) - 1])

    monkeypatch.setattr(playbook, "apply", apply)
    steps = Steps(1, tmp_path / "up.log", io.StringIO())
    ended, last = apply_all([tmp_path], steps, ["site.yml", "a.yml", "b.yml"], fast=True)
    assert done == ran
    assert (ended.code, last) == (codes[-1], ran[-1])


def test_the_users_own_settings_of_ansible_win_and_their_callbacks_stay() -> None:
    base = {"ANSIBLE_STRATEGY": "free", "ANSIBLE_CALLBACKS_ENABLED": "timer"}
    env = playbook.environment(base, Path("/e"), fast=True, strategies=Path("/s"))
    assert env["ANSIBLE_STRATEGY"] == "free"
    assert env["ANSIBLE_STRATEGY_PLUGINS"] == "/s"
    assert env["ANSIBLE_CALLBACKS_ENABLED"] == "vmesh_events,timer"


def test_without_the_fast_strategy_ansible_keeps_its_own() -> None:
    assert "ANSIBLE_STRATEGY" not in playbook.environment({}, Path("/e"), fast=False)


def test_only_whole_lines_are_read_while_a_file_grows(tmp_path: Path) -> None:
    path = tmp_path / "events"
    tail = playbook.Tail(path)
    assert list(tail.lines()) == []
    path.write_text("one\ntw")
    assert list(tail.lines()) == ["one"]
    with path.open("a") as file:
        file.write("o\n")
    assert list(tail.lines()) == ["two"]


def test_an_interrupted_command_is_told_and_waited_for(tmp_path: Path) -> None:
    def look() -> None:
        if (tmp_path / "ready").exists():
            raise KeyboardInterrupt

    script = (
        "import pathlib, signal, time\n"
        # Background jobs of shells, as this test may be, are begun with it ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "try:\n"
        "    pathlib.Path('ready').touch(); time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    pathlib.Path('tidied').touch()\n"
    )
    with pytest.raises(KeyboardInterrupt):
        playbook.follow(
            [sys.executable, "-c", script], os.environ, tmp_path / "log", look, cwd=tmp_path
        )
    assert (tmp_path / "tidied").exists()


def test_the_callback_tells_what_a_real_run_does(tmp_path: Path) -> None:
    """One real ansible-playbook on this machine, so that the callback fits this Ansible."""
    play = tmp_path / "play.yml"
    play.write_text(
        json.dumps(
            [
                {
                    "name": "Two hosts",
                    "hosts": "all",
                    "gather_facts": False,
                    "tasks": [
                        {"name": "Fine", "ansible.builtin.debug": {"msg": "hello"}},
                        {
                            "name": "Broken",
                            "ansible.builtin.fail": {"msg": "not {{ item }}"},
                            "when": "inventory_hostname == 'b'",
                            "loop": ["this", "that"],
                        },
                    ],
                }
            ]
        )
    )
    (tmp_path / "hosts").write_text("[all]\na ansible_connection=local\nb ansible_connection=local")
    events = tmp_path / "events"
    (tmp_path / "ansible.cfg").touch()
    base = {**os.environ, "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg")}
    env = playbook.environment(base, events, fast=False)
    run = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "hosts", "play.yml"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    ended = outcome(*map(json.loads, events.read_text().splitlines()), code=run.returncode)
    assert ended.code == 2, run.stdout + run.stderr
    assert ended.play == "Two hosts"
    (failure,) = ended.failures
    assert (failure.host, failure.task) == ("b", "Broken")
    assert failure.message.splitlines() == ["not this", "not that"]
    assert "without a failure: a" in playbook.summary(ended)


def test_the_projects_settings_file_is_the_one_used() -> None:
    env = playbook.environment({}, Path("/e"), fast=False)
    assert env["ANSIBLE_CONFIG"] == str(paths.PROJECT / "ansible.cfg")
