"""What `./mesh certs` asks, shows, and finds worth a person's attention."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from plugins.action.host_info import offset
from plugins.module_utils.certificates import new_anchor
from tests.unit.cli.test_cli_plan import inventory
from vmesh.base.exits import CliError
from vmesh.cli import certs as command
from vmesh.cli import packages
from vmesh.cli.output.certs import duration
from vmesh.remote import answers, playbook
from vmesh.remote.mesh import read
from vmesh.rollout import anchors, record

HOUR = 3600
NAMES = ("front", "shop", "stock", "stock-next", "jaeger")
ANCHOR = new_anchor("web1.shop.mesh", time.time()).certificate
# Its ten years began nine and a half years ago.
ENDING = new_anchor("web1.shop.mesh", time.time() - 9.5 * 365 * 24 * HOUR).certificate


@dataclass
class Mesh:
    """Hosts that are played; `differing` is what their certificates have other than usual."""

    differing: dict[str, Any] = field(default_factory=dict)
    leaf: dict[str, Any] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    asked: dict[str, Any] = field(default_factory=dict)

    def apply(self, _inventory: Any, _steps: Any, **options: Any) -> playbook.Outcome:
        (limit, variables) = options["extra"]
        self.asked = json.loads(Path(variables.removeprefix("--extra-vars=@")).read_text())
        self.asked = self.asked["vmesh_certs"]
        hosts = Path(limit.removeprefix("--limit=@")).read_text().split()
        outcome = playbook.Outcome()
        for host in hosts:
            if host in self.silent:
                outcome.code, outcome.unreachable[host] = 4, "no route"
                continue
            good = {"why": "", "not_after": time.time() + 60 * HOUR, "served": None}
            leaves = {name: {**good, **self.leaf} for name in NAMES}
            usual = {"anchor": ANCHOR, "leaves": leaves, "offset": 0, "timer": "active"}
            answers.write(Path(self.asked["answers"]), host, {"certs": {**usual, **self.differing}})
        return outcome


def stand_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, apply: Callable[..., playbook.Outcome]
) -> None:
    """Have `apply` stand in for Ansible, with records below `tmp_path`."""
    monkeypatch.setenv("VMESH_APPLIED", str(tmp_path / "applied"))
    monkeypatch.setattr(playbook, "apply", apply)
    monkeypatch.setattr(packages, "missing", lambda _: [])


@pytest.fixture
def mesh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Mesh:
    played = Mesh()
    stand_in(monkeypatch, tmp_path, played.apply)
    return played


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return an inventory whose proxies have identities."""
    path = inventory(tmp_path / "own.json")
    data = json.loads(path.read_text())
    data["all"]["vars"]["mesh_security"] = {"mtls": "strict", "trust_domain": "shop.mesh"}
    path.write_text(json.dumps(data))
    return path


def run(
    place: Path,
    *names: str | None,
    what: str | None = None,
    name: str | None = None,
    as_json: bool = False,
    now: bool = False,
) -> int:
    first, other = (*(names or (name,)), None, None)[:2]
    options = {"what": what, "name": first, "other": other, "json": as_json, "now": now}
    return command.run(argparse.Namespace(inventory=(place,), no_install=True, **options))


def test_each_proxy_has_a_line(place: Path, mesh: Mesh, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(place) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[0] == "PROXY"
    (shop,) = [line for line in lines if line.startswith("shop ")]
    assert "shop.mesh/shop" in shop
    assert "60 h" in shop or "59 h" in shop
    assert "10 years" in shop
    assert mesh.asked["renew"] == {}
    assert run(place, as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["proxy"] for row in found} >= {"shop", "stock"}
    assert not any(row["attention"] for row in found)


@pytest.mark.parametrize(
    ("differing", "leaf", "told"),
    [
        ({}, {"not_after": time.time() + 3 * HOUR}, "its leaf ends soon"),
        ({"offset": -41 * HOUR}, {}, "its clock is off by -41 h"),
        ({"timer": "inactive"}, {}, "systemctl enable --now vmesh-certs.timer"),
        ({"anchor": None}, {}, "has no anchor"),
        ({"leaves": {}}, {}, "its leaf: it is missing"),
        ({"anchor": ENDING}, {}, "ends within a year -> ./mesh certs rollover"),
        ({}, {"served": False}, "serves an earlier leaf"),
    ],
)
def test_what_needs_attention_is_told_with_its_remedy_and_is_a_failure(
    place: Path, mesh: Mesh, differing: dict[str, Any], leaf: dict[str, Any], told: str
) -> None:
    mesh.differing, mesh.leaf = differing, leaf
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert run(place) == 1
    assert told in said.getvalue()


def test_another_anchor_than_the_recorded_one_is_told(
    place: Path, mesh: Mesh, capsys: pytest.CaptureFixture[str]
) -> None:
    (host, *_) = read(place).spec.hosts
    anchors.keep(record.folder(place), {host: "another"})
    assert run(place) == 1
    assert f"the anchor of {host} is another one" in capsys.readouterr().out


def test_a_rollover_that_is_not_complete_is_told(
    place: Path, mesh: Mesh, capsys: pytest.CaptureFixture[str]
) -> None:
    (host, *_) = read(place).spec.hosts
    anchors.keep(record.folder(place), {host: ANCHOR})
    mesh.differing = {"anchor": ANCHOR + ENDING}
    assert run(place) == 1
    assert f"./mesh certs rollover {host} completes it" in capsys.readouterr().out


def test_a_host_that_does_not_answer_is_told(
    place: Path, mesh: Mesh, capsys: pytest.CaptureFixture[str]
) -> None:
    host = next(h for h, spec in read(place).spec.hosts.items() if spec.identity)
    mesh.silent = {host}
    with pytest.raises(CliError, match=f"{host}: unreachable"):
        run(place)
    assert f"{host} did not answer" in capsys.readouterr().out


def test_all_or_those_of_one_name_are_renewed(place: Path, mesh: Mesh) -> None:
    planned = {h: s.identity for h, s in read(place).spec.hosts.items() if s.identity}
    run(place, what="renew")
    assert mesh.asked["renew"] == {host: ["--all"] for host in planned}
    host = next(iter(planned))
    run(place, what="renew", name=host)
    assert mesh.asked["renew"] == {host: ["--all"]}
    run(place, what="renew", name="shop")
    assert set(map(tuple, mesh.asked["renew"].values())) == {("shop",)}
    with pytest.raises(CliError, match="Nothing with an identity is called nobody"):
        run(place, what="renew", name="nobody")


def test_a_mesh_without_identities_says_why(
    tmp_path: Path, mesh: Mesh, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(inventory(tmp_path / "own.json")) == 0
    assert "mesh_security.mtls is off" in capsys.readouterr().out
    assert mesh.asked == {}


def test_a_clock_is_off_by_what_cannot_be_the_time_of_the_question() -> None:
    assert offset(100, 95.5, 103.2) == 0
    assert offset(90, 95.5, 103.2) == -4
    assert offset(200, 95.5, 103.2) == 97


def test_times_are_told_in_their_unit() -> None:
    told = [duration(each) for each in (5, 150, 3 * HOUR, 60 * HOUR, 23 * 86400, -41 * HOUR)]
    assert told == ["5 s", "2 min", "3 h", "60 h", "23 days", "-41 h"]
