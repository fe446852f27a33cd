from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.unit.mesh import worlds
from vmesh import cli
from vmesh.base.problems import HIDDEN
from vmesh.cli import plan
from vmesh.remote import playbook
from vmesh.remote.mesh import read
from vmesh.render.renderer import Renderer
from vmesh.rollout import record


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the inventory's file; records are kept beside it, and there is no cache."""
    monkeypatch.setenv("VMESH_APPLIED", str(tmp_path / "applied"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return inventory(tmp_path / "own.json")


def inventory(path: Path, mesh: dict[str, Any] | None = None, **more: Any) -> Path:
    """Write an inventory that leads nowhere: nothing on this machine is ever changed by it."""
    mesh = mesh or worlds.MESH
    services = {
        name: {**each, "app": {**each["app"], "flask": "services/service1"}}
        if "flask" in each["app"]
        else each
        for name, each in mesh["mesh_services"].items()
    }
    path.write_text(
        json.dumps(
            {
                "all": {
                    "vars": {
                        **mesh,
                        "mesh_services": services,
                        "ansible_connection": "local",
                        "ansible_become": False,
                        **more,
                    },
                    "children": {
                        group: {"hosts": {host: worlds.HOSTS[host] for host in hosts}}
                        for group, hosts in worlds.GROUPS.items()
                    },
                }
            }
        )
    )
    return path


def applied(
    path: Path, platform: dict[str, str] | None = None, more: tuple[Path, ...] = ()
) -> None:
    """Record the inventory as it is now, as if site.yml had been run."""
    mesh = read(path, *more)
    # As a run finds them: what the hosts are is not known before.
    first: Any = {host: {"platform": platform or worlds.PLATFORM} for host in mesh.spec.hosts}
    for host, described in plan.describe(mesh, first, Renderer()).items():
        record.write(record.folder(path, *more), host, described.state)


def told(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    assert cli.main(["plan", "-i", *map(str, arguments)]) == code
    return capsys.readouterr().out


def test_it_tells_what_the_inventory_means(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [" ".join(line.split()) for line in told(capsys, place).splitlines()]
    assert "SERVICE PORT HOSTS APP CALLS CALLED BY" in lines
    assert (
        "shop 9001 shop1 Flask, services/service1 stock, bank (api.bank.example:443) front"
    ) in lines
    assert "stock 9002 store1, store2 on the host, 127.0.0.1:7001 - front, shop" in lines
    assert "EDGE FOR ROUTE TO WITH" in lines
    assert "front (web1, web2; 0.0.0.0:8000) * /stock (exactly) [GET] stock 15 s" in lines
    assert "/ shop 15 s" in lines, "what is as above is not repeated"
    assert "Traced: 100 % of the requests; spans go to 10.0.0.6:4318." in lines


def test_a_route_that_is_traced_otherwise_says_so(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inventory(place, worlds.changed(("mesh_edges/front/routes/0/tracing", {"sampling": 2.5})))
    lines = [" ".join(line.split()) for line in told(capsys, place).splitlines()]
    assert "/ shop 15 s, 2.5 % traced" in lines


def test_without_a_record_all_is_new(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = told(capsys, place).splitlines()
    assert "Never applied from this controller: everything is new." in lines
    assert "Would change on 6 hosts:" in lines
    at = lines.index("web1, web2:")
    assert lines[at + 1] == "  + edge front: new Envoy for clients on 0.0.0.0:8000, with 2 routes"


def test_after_it_was_applied_nothing_would_change(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    applied(place)
    text = told(capsys, place, "--exit-code", "--diff")
    assert "Nothing would change.\n" in text
    assert "+ " not in text
    assert "---" not in text


def test_a_change_is_told_once_for_all_hosts_and_by_line_with_diff(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    applied(place)
    inventory(place, worlds.changed(("mesh_edges/front/routes/0/timeout", 5)))
    lines = told(capsys, place, "--exit-code", "--diff", code=1).splitlines()
    assert lines.count("  ~ edge front: route /: timeout 15 s -> 5 s") == 1
    assert lines[lines.index("  ~ edge front: route /: timeout 15 s -> 5 s") - 1] == "web1, web2:"
    assert "front on web1, web2:" in lines
    assert "--- before/routes/public.json" in lines
    assert [line for line in lines if line.startswith("-") and "15s" in line]
    assert [line for line in lines if line.startswith("+") and "5s" in line]
    assert not [line for line in lines if "version_info" in line]


def test_only_with_exit_code_a_change_is_no_success(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told(capsys, place, code=0)
    told(capsys, place, "--exit-code", code=1)


def test_changed_code_of_a_service_is_a_new_release(
    place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    source = tmp_path / "shop"
    source.mkdir()
    (source / "requirements.txt").write_text("gunicorn==23.0.0 --hash=sha256:0\n")
    (source / "app.py").write_text("one")
    mesh = worlds.changed(("mesh_services/shop/app/flask", str(source)))
    inventory(place, mesh)
    mine = json.loads(place.read_text())
    mine["all"]["vars"]["mesh_services"]["shop"]["app"]["flask"] = str(source)
    place.write_text(json.dumps(mine))
    applied(place)
    assert "Nothing would change." in told(capsys, place)
    (source / "app.py").write_text("two")
    text = told(capsys, place)
    assert "shop1:\n  ~ app shop: new release (code or libraries)\n" in text


def test_templates_that_changed_since_are_told(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    applied(place)
    original = Renderer.files
    monkeypatch.setattr(
        Renderer,
        "files",
        lambda self, proxy: {
            name: f"# new\n{text}" for name, text in original(self, proxy).items()
        },
    )
    text = told(capsys, place, "--diff")
    assert "Envoy's configuration is written differently by this version of vmesh" in text
    assert "No file of a recorded Envoy would change in what the inventory says." in text


SECRET = "correct horse"


def test_no_secret_is_printed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    applied(place)
    environment = ("mesh_services/shop/app/environment/DB_PASSWORD", "plain {{ 1 }}" + SECRET)
    header = ("mesh_edges/front/routes/0/headers", {"x-key": "{{ the_key }}"})
    inventory(place, worlds.changed(environment, header), the_key=SECRET)
    for options in (("--diff",), ("--json", "--diff")):
        assert cli.main(["plan", "-i", str(place), *options]) == 0
        captured = capsys.readouterr()
        assert SECRET not in captured.out + captured.err
        assert "DB_PASSWORD" in captured.out
        assert HIDDEN in captured.out
    applied(place)
    written = "".join(path.read_text() for path in record.folder(place).iterdir())
    assert SECRET not in written
    assert "Nothing would change." in told(capsys, place)


def test_json_has_all_of_it(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads(told(capsys, place, "--json"))
    assert [service["name"] for service in data["services"]] == ["shop", "stock", "stock-next"]
    assert data["edges"][0]["routes"][1]["match"] == "/"
    assert data["recorded"] == []
    assert {
        "host": "store1",
        "part": "app stock",
        "kind": "add",
        "text": "stands on the host already, on 127.0.0.1:7001",
    } in data["changes"]
    assert data["drifts"] is None


def test_warnings_are_shown(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inventory(place, worlds.changed(("mesh_services/shop/calls/bank/tls", {"verify": False})))
    assert cli.main(["plan", "-i", str(place)]) == 0
    assert "1 warning:" in capsys.readouterr().err


def test_a_host_that_left_is_told_with_what_to_do_about_its_record(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    applied(place)
    mine = json.loads(place.read_text())
    del mine["all"]["children"]["web"]["hosts"]["web2"]
    place.write_text(json.dumps(mine))
    text = told(capsys, place, "--exit-code")
    assert "Nothing would change.\n\nLeft behind:\nweb2:\n  i host: is no longer in" in text
    assert "delete" in text


def test_a_damaged_record_is_named_with_a_remedy(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    applied(place)
    (record.folder(place) / "web1.json").write_text("{")
    assert cli.main(["plan", "-i", str(place)]) == 1
    text = capsys.readouterr().err
    assert "web1.json" in text
    assert "delete it" in text
    assert "Traceback" not in text


@pytest.mark.skipif(shutil.which("ssh") is None, reason="Ansible needs ssh to be installed")
def test_refresh_asks_the_hosts_with_one_module_each(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Really run by Ansible, against this machine, where nothing of vmesh is."""
    applied(place)
    ran: list[playbook.Outcome] = []
    original = playbook.apply

    def apply(*arguments: Any, **options: Any) -> playbook.Outcome:
        ran.append(original(*arguments, **options))
        return ran[-1]

    monkeypatch.setattr(playbook, "apply", apply)
    text = told(capsys, place, "--refresh", "--exit-code", code=1)
    (outcome,) = ran
    assert outcome.tasks == 1
    assert {host: counts["ok"] for host, counts in outcome.hosts.items()} == dict.fromkeys(
        worlds.HOSTS, 1
    )
    assert outcome.changed == 0
    assert "Nothing would change.\n" in text
    assert "Other than applied:" in text
    assert "web1, web2:\n  ! edge front: is not on the host\n" in text


def test_hosts_that_do_not_answer_are_named_and_end_with_1(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    applied(place)
    outcome = playbook.Outcome(code=4, unreachable={"web1": "Connection refused\nmore"})
    monkeypatch.setattr(playbook, "apply", lambda *_, **__: outcome)
    text = told(capsys, place, "--refresh", code=1)
    assert "Not known, as these did not answer:" in text
    assert "  web1: Connection refused\n" in text
    assert "  shop1: no answer\n" in text
    assert "No drift" not in text


def test_of_several_inventories_all_count_and_have_records_of_their_own(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    over = place.with_name("over.yml")
    over.write_text("all: {vars: {mesh_envoy_version: 1.39.3}}")
    applied(place)
    # The record of one is not that of both.
    assert "Nothing would change." not in told(capsys, place, "-i", over)
    applied(place, more=(over,))
    assert record.folder(place, over).name == "own+over"
    assert "Nothing would change." in told(capsys, place, "-i", over)
    over.write_text("all: {vars: {mesh_envoy_version: 1.40.0}}")
    assert "1.39.3" in told(capsys, place, "-i", over)
    assert "Nothing would change." in told(capsys, place)
