"""What `./mesh history` shows, and what `./mesh rollback` says and has Ansible do."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.test_cli_plan import inventory
from tests.unit.mesh import worlds
from vmesh import cli
from vmesh.base.exits import CliError
from vmesh.cli import history as history_command
from vmesh.cli import packages
from vmesh.cli import rollback as rollback_command
from vmesh.cli.output.plan import unrecorded
from vmesh.remote import playbook
from vmesh.render.renderer import Renderer
from vmesh.rollout import history, record

WHO = "root@controller"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an inventory's file; records are kept beside it."""
    monkeypatch.setenv("VMESH_APPLIED", str(tmp_path / "applied"))
    return inventory(tmp_path / "own.json")


def ran(place: Path, run: int, *edits: tuple[str, Any], **more: Any) -> None:
    """Record a run that applied the mesh with `edits`; `more` are a host's results."""
    folder = record.folder(place)
    known = record.read(folder)
    states = worlds.states(worlds.inventory(worlds.changed(*edits)), render=Renderer().files)
    hosts = {}
    for host, state in states.items():
        if known.get(host) == state:
            continue
        record.write(folder, host, state)
        history.keep(folder, host, run, state)
        before = max(history.numbers(folder, host)[:-1], default=0)
        hosts[host] = {"from": before, "to": run, "result": "applied", "what": ["edge front: new"]}
    for host, result in more.items():
        hosts[host] = {"from": 0, "to": 0, "result": result, "cause": f"no luck on {host}\nat all"}
    history.append(
        folder,
        {
            "run": run,
            "when": "2026-11-25T22:27:37+00:00",
            "who": WHO,
            "asked": "apply",
            "hosts": hosts,
        },
    )


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """Return what Ansible was asked for, which is not started."""
    asked: list[dict[str, Any]] = []

    def apply(_inventory: Any, _steps: Any, **options: Any) -> playbook.Outcome:
        (variables, *rest) = options["extra"]
        path = Path(variables.removeprefix("--extra-vars=@"))
        asked.append({**options, **json.loads(path.read_text()), "rest": rest})
        return playbook.Outcome(hosts={"web1": {"changed": 1}})

    monkeypatch.setattr(playbook, "apply", apply)
    monkeypatch.setattr(packages, "missing", lambda _: [])
    yield asked


def rolled_back(place: Path, name: str | None = None, to: int | None = None, **more: Any) -> int:
    arguments = argparse.Namespace(
        inventory=(place,), name=name, to=to, **{"check": False, "no_install": True, **more}
    )
    return rollback_command.run(arguments)


def shown(place: Path, capsys: pytest.CaptureFixture[str], **more: Any) -> str:
    options = {"host": None, "lines": 20, "json": False, **more}
    assert history_command.run(argparse.Namespace(inventory=(place,), **options)) == 0
    return capsys.readouterr().out


PORT = ("mesh_edges/front/port", 8080)
TIMEOUT = ("mesh_services/shop/calls/stock/timeout", 9)


def three_runs(place: Path) -> None:
    ran(place, 1)
    ran(place, 2, PORT)
    ran(place, 3, PORT, TIMEOUT)


# history


def test_the_history_says_who_did_what_where(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "No run is written down" in shown(place, capsys)
    ran(place, 1, web1="restored", web2="not begun")
    header, line = shown(place, capsys).splitlines()
    assert header.split() == ["RUN", "WHEN", "WHO", "WHAT", "HOSTS"]
    assert line.startswith("1    2026-11-25 ")
    assert f"  {WHO}  " in line
    assert "  apply: edge front: new  " in line
    assert line.count("edge front: new") == 1, "what many hosts share, once"
    assert "web1 restored: no luck on web1;" in line
    assert "web2 not begun" in line


def test_the_history_of_a_host_or_of_the_last_runs(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    three_runs(place)
    assert len(shown(place, capsys).splitlines()) == 4
    assert shown(place, capsys, lines=1).splitlines()[1].startswith("3 ")
    of_web1 = json.loads(shown(place, capsys, host="web1", json=True))
    assert [line["run"] for line in of_web1] == [1, 2]
    assert all(list(line["hosts"]) == ["web1"] for line in of_web1)
    with pytest.raises(CliError, match=r"called web9\. Known: jaeger1, shop1"):
        shown(place, capsys, host="web9")


# rollback


def test_without_a_word_the_last_run_is_taken_back(
    place: Path, started: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    three_runs(place)
    assert rolled_back(place) == 0
    (asked,) = started
    assert asked["vmesh_rollback"] == {"to": 2, "parts": [], "hosts": ["shop1"]}
    assert asked["playbook"] == "playbooks/rollback.yml"
    printed = capsys.readouterr().out
    assert "Rolling back the whole mesh to run 2:" in printed
    assert "shop1: as run 1 left it, now as run 3 left it" in printed
    assert "9 s -> 3 s" in printed, "what that means"
    assert "The inventory still says what was rolled back" in printed


def test_a_try_is_a_try(
    place: Path, started: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    three_runs(place)
    assert rolled_back(place, check=True) == 0
    assert started[0]["rest"] == ["--check"]
    assert "inventory still says" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "to", "goal"),
    [
        (None, 1, (1, ["shop1", "web1", "web2"], [])),
        ("web1", None, (1, ["web1"], [])),
        ("front", None, (1, ["web1", "web2"], ["envoy@front"])),
        ("shop", None, (2, ["shop1"], ["envoy@shop", "flask@shop"])),
        ("host:shop1", 1, (1, ["shop1"], [])),
        ("flask@shop", 1, None),  # the app itself has not changed
    ],
)
def test_what_is_named_goes_back(
    place: Path,
    started: list[dict[str, Any]],
    name: str | None,
    to: int | None,
    goal: tuple[int, list[str], list[str]] | None,
) -> None:
    three_runs(place)
    assert rolled_back(place, name, to) == 0
    found = [
        tuple(asked["vmesh_rollback"][key] for key in ("to", "hosts", "parts")) for asked in started
    ]
    assert found == ([] if goal is None else [goal])


def test_what_was_not_there_yet_is_left_alone(
    place: Path, started: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    three_runs(place)
    folder = record.folder(place)
    for number in (2, 1):
        (folder / "states/web2" / f"{number}.json").unlink()
    history.keep(folder, "web2", 3, record.read(folder)["web2"])
    lines = history.read(folder)
    for line in lines[:2]:
        line["hosts"].pop("web2")
    lines[2]["hosts"]["web2"] = {"from": 0, "to": 3, "result": "applied"}
    (folder / history.FILE).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert rolled_back(place) == 0
    assert started[0]["vmesh_rollback"]["hosts"] == ["shop1"]
    assert "nothing was applied there before run 3: web2" in capsys.readouterr().out


def test_what_the_controller_does_not_know_any_more_the_host_may(
    place: Path, started: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    three_runs(place)
    (record.folder(place) / "states/shop1/1.json").unlink()
    assert rolled_back(place) == 0
    assert started[0]["vmesh_rollback"] == {"to": 2, "parts": [], "hosts": ["shop1"]}
    assert "of which nothing is recorded here" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "to", "text"),
    [
        ("shopp", None, r"no service, edge or host called shopp.*edges: front, .*Hosts: jaeger1"),
        (None, 3, r"--to 3: there is no run after that to take back\. The last one is 3"),
        (None, -1, r"--to -1"),
        ("jaeger", None, r"No run that changed jaeger is written down"),
    ],
)
def test_a_mistake_is_told_before_anything_is_done(
    place: Path, started: list[dict[str, Any]], name: str | None, to: int | None, text: str
) -> None:
    three_runs(place)
    with pytest.raises(CliError, match=text) as caught:
        rolled_back(place, name, to)
    assert caught.value.code == 2
    assert started == []


def test_an_inventory_that_was_never_applied_has_nothing_to_go_back_to(
    place: Path, started: list[dict[str, Any]]
) -> None:
    with pytest.raises(CliError, match="Nothing that was applied to this inventory is recorded"):
        rolled_back(place)
    assert started == []


def test_a_failed_rollback_is_told(
    place: Path, started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    three_runs(place)
    failed = playbook.Outcome(code=2, failures=[playbook.Failure("shop1", "Restore", "no")])
    monkeypatch.setattr(playbook, "apply", lambda *_, **__: failed)
    assert rolled_back(place) == 1


def test_plan_says_what_is_not_known_after_a_rollback(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran(place, 1)
    folder = record.folder(place)
    state = record.read(folder)["shop1"]
    lines = unrecorded(record.read(folder))
    assert lines == []
    record.write(folder, "shop1", history.rolled_back(state, None, ["flask@shop"]))
    assert cli.main(["plan", "-i", str(place)]) == 0
    printed = capsys.readouterr().out
    assert "Rolled back, not recorded:" in printed
    assert "  i shop1: flask@shop" in printed
