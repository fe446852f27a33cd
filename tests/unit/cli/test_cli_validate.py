"""`./mesh validate`: all that is wrong, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vmesh import cli
from vmesh.cli import supplies

SHOP: dict[str, Any] = {
    "port": 9001,
    "app": {"flask": "services/service1"},
    "calls": {"bank": {"host": "bank.example.com", "port": 443}},
}
SHORT_ROUTE = {"prefix": "/", "to": "shop"}


def inventory(folder: Path, shop: dict[str, Any], **more: Any) -> Path:
    mesh = {
        "mesh_services": {"shop": {**SHOP, **shop}},
        "mesh_edges": {"front": {"group": "shop", "port": 8000, "routes": [SHORT_ROUTE]}},
        "mesh_tracing": {"group": "shop"},
        **more,
    }
    path = folder / "hosts.yml"
    hosts = {"shop": {"ansible_host": "10.0.0.1"}}
    path.write_text(json.dumps({"all": {"hosts": hosts, "vars": mesh}}))
    return path


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An Envoy that refuses the edge's configuration, and where it notes what it was shown."""
    envoy, seen = tmp_path / "envoy", tmp_path / "seen"
    envoy.write_text(
        f'#!/bin/sh\necho "$4" >>{seen}\ngrep -q \'"cluster": "front"\' "$4" || exit 0\n'
        "echo \"error initializing configuration 'x': it is not nice\"\nexit 1\n"
    )
    envoy.chmod(0o755)
    seen.touch()
    monkeypatch.setattr(supplies, "provide_envoy", lambda _, __: envoy)
    return seen


def run(path: Path, *options: str) -> int:
    return cli.main(["validate", "-i", str(path), *options])


def test_an_inventory_without_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = inventory(tmp_path, {})
    assert run(path, "--no-envoy") == 0
    assert capsys.readouterr().out == f"{path}: no problem found\n"
    assert run(path, "--no-envoy", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_warning_is_told_and_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = {**SHOP["app"], "environment": {"DB_PASSWORD": "hunter2"}}
    path = inventory(tmp_path, {"app": app})
    assert run(path, "--no-envoy") == 0
    told = capsys.readouterr()
    assert told.err.startswith("1 warning:\n  1. mesh_services.shop.app.environment")
    assert "hunter2" not in told.err
    assert "no problem found" in told.out
    assert run(path, "--no-envoy", "--json") == 0
    (warning,) = json.loads(capsys.readouterr().out)
    assert set(warning) == {"variable", "value", "message", "remedy", "severity"}
    assert warning["severity"] == "warning"


def test_all_problems_are_told_before_the_warnings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = {"bank": {**SHOP["calls"]["bank"], "tls": {"verify": False}}}
    path = inventory(tmp_path, {"port": "9001", "calls": calls, "prot": 1}, mesh_x=float("nan"))
    assert run(path, "--no-envoy") == 1
    told = capsys.readouterr()
    assert told.out == ""
    lines = told.err.splitlines()
    assert lines[0] == "3 problems:"
    assert lines.index("1 warning:") == 1 + 3 * 3
    assert '  2. mesh_services.shop.port = "9001"' in lines
    assert run(path, "--no-envoy", "--json") == 1

    def no_number(name: str) -> None:
        pytest.fail(f"{name} is not JSON")

    found = json.loads(capsys.readouterr().out, parse_constant=no_number)
    assert [problem["severity"] for problem in found].count("error") == 3


def test_what_the_inventory_names_is_looked_at_together_with_envoys_view(
    tmp_path: Path, asked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = inventory(tmp_path, {"app": {"flask": "services/nothing"}})
    assert run(path, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert [problem["variable"] for problem in found] == [
        "mesh_services.shop.app.flask",
        "shop/front",
    ]
    assert "it is not nice" in found[1]["message"]
    assert len(asked.read_text().splitlines()) == 2


def test_certificates_that_are_not_there_are_told_once(
    tmp_path: Path, asked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = {"bank": {**SHOP["calls"]["bank"], "tls": {"ca_file": "no.pem"}}}
    assert run(inventory(tmp_path, {"calls": calls}), "--json") == 1
    (problem,) = json.loads(capsys.readouterr().out)
    assert problem["variable"] == "mesh_services.shop.calls.bank.tls.ca_file"
    assert asked.read_text() == ""
