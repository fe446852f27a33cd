"""What `./mesh remove` says, asks, has Ansible do, and forgets."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.test_cli_plan import inventory
from tests.unit.mesh import worlds
from vmesh.base.exits import CliError
from vmesh.cli import packages
from vmesh.cli import remove as remove_command
from vmesh.remote import answers, playbook
from vmesh.rollout import desired_state, history, record, run_lock


@dataclass
class Mesh:
    """Hosts that are played: each has a release until it is removed; some do not answer or fail."""

    bare: set[str] = field(default_factory=set)
    kept: list[str] = field(default_factory=list)
    interrupted: dict[str, Any] = field(default_factory=dict)
    unreachable: set[str] = field(default_factory=set)
    failing: set[str] = field(default_factory=set)
    asked: list[dict[str, Any]] = field(default_factory=list)

    def apply(self, _inventory: Any, _steps: Any, **options: Any) -> playbook.Outcome:
        (variables, *rest) = options["extra"]
        path = Path(variables.removeprefix("--extra-vars=@"))
        wanted = json.loads(path.read_text())["vmesh_uninstall"]
        check = rest == ["--check"]
        self.asked.append({**wanted, "check": check})
        outcome = playbook.Outcome()
        for host in (*wanted["edges"], *wanted["hosts"]):
            if host in self.unreachable or (host in self.failing and not check):
                outcome.code, outcome.unreachable[host] = 2, "no route"
                continue
            there = [] if host in self.bare else ["/opt/envoy"]
            answer = {"removed": there, "kept": self.kept, "interrupted": self.interrupted}
            answers.write(Path(wanted["answers"]), host, answer)
            self.bare |= set() if check else {host}
        return outcome


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an inventory's file; its hosts are recorded."""
    monkeypatch.setenv("VMESH_APPLIED", str(tmp_path / "applied"))
    path = inventory(tmp_path / "own.json")
    folder = record.folder(path)
    for host, state in worlds.states(worlds.inventory()).items():
        record.write(folder, host, state)
        history.keep(folder, host, 1, state)
    return path


@pytest.fixture
def mesh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Mesh]:
    played = Mesh()
    monkeypatch.setattr(playbook, "apply", played.apply)
    monkeypatch.setattr(packages, "missing", lambda _: [])
    monkeypatch.setattr(desired_state, "lock", lambda _: tmp_path / "run.json")
    yield played


def removed(place: Path, **more: Any) -> int:
    options = {"host": None, "traces": False, "drain": 60.0, "check": False, "yes": True}
    arguments = argparse.Namespace(inventory=(place,), no_install=True, **{**options, **more})
    return remove_command.run(arguments)


def recorded(place: Path) -> set[str]:
    return set(record.read(record.folder(place)))


def test_edges_go_first_and_the_records_go_with_the_hosts(place: Path, mesh: Mesh) -> None:
    before = recorded(place)
    assert removed(place) == 0
    look, real = mesh.asked
    assert (look["check"], real["check"]) == (True, False)
    assert real["edges"] == ["web1", "web2"]
    assert set(real["hosts"]) == before - {"web1", "web2"}
    assert recorded(place) == set()
    assert history.numbers(record.folder(place), "web1") == []


def test_it_says_what_goes_and_what_stays_before_it_asks(
    place: Path, mesh: Mesh, capsys: pytest.CaptureFixture[str]
) -> None:
    mesh.kept = ["/var/lib/jaeger"]
    with pytest.raises(CliError, match="--yes removes without a question"):
        removed(place, yes=False)
    told = capsys.readouterr().out
    assert "web1: removed:\n  - /opt/envoy" in told
    assert "/var/lib/jaeger stays (--traces removes it)" in told
    assert [each["check"] for each in mesh.asked] == [True]
    assert "web1" in recorded(place)


def test_a_check_only_tells(place: Path, mesh: Mesh) -> None:
    assert removed(place, check=True) == 0
    assert [each["check"] for each in mesh.asked] == [True]
    assert "web1" in recorded(place)


def test_one_host_goes_alone(place: Path, mesh: Mesh) -> None:
    before = recorded(place)
    assert removed(place, host=["shop1"]) == 0
    assert (mesh.asked[1]["edges"], mesh.asked[1]["hosts"]) == ([], ["shop1"])
    assert recorded(place) == before - {"shop1"}
    with pytest.raises(CliError, match=r"has no host web9\. It has: "):
        removed(place, host=["web9"])


def test_a_host_that_is_not_reached_keeps_its_record(
    place: Path, mesh: Mesh, capsys: pytest.CaptureFixture[str]
) -> None:
    mesh.unreachable, mesh.failing = {"web1"}, {"shop1"}
    assert removed(place) == 1
    assert recorded(place) == {"web1", "shop1"}
    assert "web1" not in {*mesh.asked[1]["edges"], *mesh.asked[1]["hosts"]}
    mesh.unreachable, mesh.failing = set(), set()
    capsys.readouterr()
    assert removed(place) == 0, "the same again goes on from there"
    assert recorded(place) == set()
    assert "Nothing of vmesh is on " in capsys.readouterr().out


def test_a_run_of_somebody_else_is_not_disturbed(
    place: Path, mesh: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh.interrupted = {"run": 7, "who": "ann@tower", "seconds": 3.0}
    with pytest.raises(CliError, match=r"Nothing was changed: somebody else"):
        removed(place)
    mesh.interrupted = {}
    # The process of this test's parent runs site.yml.
    assert run_lock.held_locally(tmp_path / "run.json") == ""
    with pytest.raises(CliError, match=r"Nothing was changed: a run of "):
        removed(place)
    assert not [each for each in mesh.asked if not each["check"]]
