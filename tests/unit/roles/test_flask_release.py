"""The module flask_release: what it finds on a host, what it tries, what it puts in place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from plugins.module_utils import flask_takeover
from plugins.module_utils.environment_file import read_environment
from plugins.module_utils.flask_release import Host, Plan, Refused, install_result, plan_result
from plugins.module_utils.flask_settings import RESERVED, Wanted
from plugins.module_utils.host_parts import app_drop_in
from plugins.module_utils.systemd import Done
from vmesh.base.paths import PROJECT
from vmesh.compile.checks_apps import GUNICORN_ENVIRONMENT

SHOP: dict[str, Any] = {
    "name": "shop",
    "version": "1",
    "archive": "/cache/shop-1.tar.gz",
    "wsgi": "app:app",
    "workers": 1,
    "threads": 8,
    "preload": False,
    "grace": 30,
    "health": "/healthz",
    "network": "any",
    "address": "10.0.0.1",
    "port": 9001,
    "environment": {"DATABASE_URL": "postgres://a:secret@b/c"},
}
STOCK = {**SHOP, "name": "stock", "archive": "/cache/stock-1.tar.gz", "environment": {}}


def wanted(*services: dict[str, Any], only: Sequence[str] = ("shop", "stock")) -> Wanted:
    """Return what a host with the role's defaults is to have."""
    return Wanted(services, only, "gthread", 75, "info", False, "[Service]\n", "envoy-%i")


class Machine:
    """A host below a folder of the test's own, whose files belong to the user of the test."""

    def __init__(self, root: Path) -> None:
        self.root, self.told = root, list[list[str]]()
        self.trials: dict[str, Done] = {}  # of the services that are refused
        self.groups = {"flask-shop", "flask-stock", "envoy-shop", "envoy-stock"}
        for name in ("shop", "stock"):
            for folder in ("etc", "run"):
                (root / folder / "flask" / name).mkdir(parents=True, mode=0o750)
                (root / folder / "flask" / name).chmod(0o750)
        self.host = Host(
            root,
            self.run,
            os.getuid(),
            lambda name: os.getgid() if name in self.groups else None,
            lambda name: 1 if name in self.groups else None,
        )

    def run(self, arguments: Sequence[str]) -> Done:
        self.told.append(list(arguments))
        if "trial" not in arguments:
            return Done(0)
        return self.trials.get(arguments[arguments.index("trial") + 1], Done(0))

    def unpack(self, name: str, version: str) -> None:
        (self.root / "opt" / name / version).mkdir(parents=True)

    def install(self, *services: dict[str, Any]) -> list[str]:
        """Install the services; return the names of those that got something new."""
        return list(install_result(self.host, wanted(*services), 20, check=False)["installed"])

    def plan(self, *services: dict[str, Any]) -> dict[str, Any]:
        return plan_result(self.host, wanted(*services))

    def current(self, name: str) -> str:
        return str((self.root / "opt" / name / "current").readlink())

    def settings(self, name: str) -> dict[str, str]:
        return read_environment((self.root / "etc/flask" / name / "env").read_text())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    for name in ("shop", "stock"):
        made.unpack(name, "1")
    return made


def test_a_new_service_is_installed_without_a_trial(machine: Machine) -> None:
    assert machine.plan(SHOP)["installing"] == ["shop"]
    assert machine.install(SHOP) == ["shop"]
    assert (machine.current("shop"), machine.told) == ("1", [])
    path = machine.root / "etc/flask/shop/env"
    assert path.stat().st_mode & 0o777 == 0o640
    settings = machine.settings("shop")
    assert settings["DATABASE_URL"] == "postgres://a:secret@b/c"
    assert settings["CONFIG_ID"] == wanted().config_id(SHOP)
    assert set(settings) == {"DATABASE_URL", *RESERVED} - {"PYTHONPATH"}


def test_where_all_is_in_place_nothing_is_done(machine: Machine) -> None:
    odd = {**SHOP, "environment": {"PEM": "one\r\ntwo\r\n", "WORD": "schön"}}
    machine.install(odd, STOCK)
    found = machine.plan(odd, STOCK)
    assert (found["installing"], found["changing"], found["missing"]) == ([], [], [])
    assert found["unprepared"] == []
    assert machine.install(odd, STOCK) == []


def test_a_plan_tells_of_each_service_what_is_missing(machine: Machine) -> None:
    machine.install(SHOP)
    machine.groups -= {"envoy-stock"}
    found = machine.plan({**SHOP, "workers": 2}, {**STOCK, "version": "2"})
    assert found["changing"] == ["shop", "stock"]
    assert found["missing"] == [
        {"name": "stock", "version": "2", "archive": "/cache/stock-1.tar.gz"}
    ]
    assert found["unprepared"] == ["stock"]
    assert found["apps"][0] == {
        "name": "shop",
        "health": "/healthz",
        "address": "10.0.0.1",
        "port": 9001,
    }
    assert "secret" not in str(found)


@pytest.mark.parametrize("folder", ["etc", "run"])
def test_a_folder_that_others_can_enter_is_seen(machine: Machine, folder: str) -> None:
    (machine.root / folder / "flask/shop").chmod(0o755)
    assert machine.plan(SHOP, STOCK)["unprepared"] == ["shop"]


def test_users_and_folders_are_for_all_but_only_some_are_installed(machine: Machine) -> None:
    machine.groups.clear()
    found = plan_result(machine.host, wanted(SHOP, STOCK, only=["stock"]))
    assert found["unprepared"] == ["shop", "stock"]
    assert found["installing"] == ["stock"]
    assert [each["name"] for each in found["apps"]] == ["stock"]


def test_a_new_release_is_tried_with_its_new_settings_before_either_is_in_place(
    machine: Machine,
) -> None:
    machine.install(SHOP)
    before = machine.settings("shop")
    machine.unpack("shop", "2")
    machine.trials["shop"] = Done(1, "a\nb\n", "flask-control: shop: it ends when it is started\n")
    new = {**SHOP, "version": "2", "environment": {}}
    with pytest.raises(Refused) as refused:
        machine.install(new)
    assert str(refused.value).splitlines() == [
        "shop: its new release or settings are refused: it ends when it is started. What ran"
        " before runs on.",
        "flask-control: shop: it ends when it is started",
        "a",
        "b",
    ]
    (trial,) = machine.told
    assert trial[0] == "systemd-run"
    assert {"--uid=flask-shop", "--gid=flask-shop"} <= set(trial)
    given = trial[trial.index(flask_takeover.PROGRAM) :]
    assert given[1:] == [
        *("trial", "shop", "--release", str(machine.root / "opt/shop/2")),
        *("--settings", str(machine.root / "etc/flask/shop/env.next")),
        *("--health", "/healthz", "--seconds", "20"),
    ]
    assert "DATABASE_URL" not in (machine.root / "etc/flask/shop/env.next").read_text()
    assert (machine.current("shop"), machine.settings("shop")) == ("1", before)
    # The next run finds the same difference. When the trial succeeds, both are put in place.
    machine.trials.clear()
    assert machine.plan(new)["changing"] == ["shop"]
    assert machine.install(new) == ["shop"]
    assert machine.current("shop") == "2"
    assert "DATABASE_URL" not in machine.settings("shop")
    assert not (machine.root / "etc/flask/shop/env.next").exists()


def test_an_app_that_may_reach_the_mesh_only_is_tried_and_run_without_another_network(
    machine: Machine,
) -> None:
    addition = machine.root / app_drop_in("shop")
    machine.install(SHOP, STOCK)
    confined = {**SHOP, "network": "mesh"}
    assert machine.plan(confined, STOCK)["changing"] == ["shop"]
    assert machine.install(confined, STOCK) == ["shop"]
    trial, reloaded = machine.told
    assert reloaded == ["systemctl", "daemon-reload"]
    directives = ["IPAddressDeny=any", "IPAddressAllow=localhost"]
    assert {f"--property={each}" for each in directives} <= set(trial)
    assert addition.read_text().splitlines()[1:] == ["[Service]", *directives]
    assert addition.stat().st_mode & 0o777 == 0o644
    # The process that runs goes on.
    assert machine.settings("shop")["CONFIG_ID"] == wanted().config_id(SHOP)
    assert not (machine.root / app_drop_in("stock")).exists()
    # What somebody has changed by hand is put right.
    addition.write_text("")
    assert machine.install(confined, STOCK) == ["shop"]
    assert "IPAddressDeny=any" in addition.read_text()
    assert machine.plan(confined, STOCK)["changing"] == []
    # Once it may reach everybody again, nothing of it is left.
    assert machine.install(SHOP, STOCK) == ["shop"]
    assert not addition.parent.exists()
    assert not [each for each in machine.told[-2] if "IPAddress" in each]


def test_one_refused_service_keeps_the_others_as_they_are(machine: Machine) -> None:
    machine.install(SHOP, STOCK)
    machine.trials["stock"] = Done(1)
    with pytest.raises(Refused, match=r"stock: .* its trial ended with status 1"):
        machine.install({**SHOP, "workers": 2}, {**STOCK, "workers": 2})
    assert machine.settings("shop")["WORKERS"] == machine.settings("stock")["WORKERS"] == "1"


def test_settings_that_do_not_change_are_those_of_the_trial(machine: Machine) -> None:
    """As when somebody has changed the link by hand."""
    machine.install(SHOP)
    (machine.root / "opt/shop/current").unlink()
    (machine.root / "opt/shop/current").symlink_to("0")
    machine.install(SHOP)
    (trial,) = machine.told
    assert trial[trial.index("--settings") + 1] == str(machine.root / "etc/flask/shop/env")


def test_settings_that_others_can_read_are_written_again(machine: Machine) -> None:
    machine.install(SHOP)
    path = machine.root / "etc/flask/shop/env"
    path.chmod(0o644)
    assert machine.plan(SHOP)["changing"] == ["shop"]
    machine.install(SHOP)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_release_that_was_not_brought_is_refused(machine: Machine) -> None:
    with pytest.raises(Refused, match=r"the releases of shop are not in /opt.*vmesh.mesh.release"):
        machine.install({**SHOP, "version": "2"})


def test_a_service_without_its_group_is_refused_with_the_remedy(machine: Machine) -> None:
    machine.groups.clear()
    with pytest.raises(Refused, match=r"no group flask-shop .*tag `configure`"):
        machine.install(SHOP)


def test_check_mode_tells_what_would_be_installed(machine: Machine) -> None:
    result = install_result(machine.host, wanted({**SHOP, "version": "2"}), 20, check=True)
    assert result["changed"] is True
    assert [line["prepared"] for line in result["diff"]] == [
        "shop: release 2 becomes the current one\n",
        "shop: settings change\n",
    ]
    assert not (machine.root / "opt/shop/current").exists()
    assert not (machine.root / "etc/flask/shop/env").exists()


@pytest.mark.parametrize(
    ("service", "told"),
    [
        ({"name": "Shop"}, "Shop is not a name for a service. Use 1 to 26 characters"),
        ({"name": "a" * 27}, "is not a name for a service"),
        (
            {"environment": {"WORKERS": "2", "CONFIG_ID": "x"}},
            "shop: WORKERS, CONFIG_ID cannot be in environment",
        ),
    ],
)
def test_mistakes_are_told_before_anything_is_changed(
    machine: Machine, service: dict[str, Any], told: str
) -> None:
    with pytest.raises(Refused, match=told):
        machine.plan({**SHOP, **service})


@pytest.mark.parametrize(
    "change",
    [{"unit": "[Service]\nPrivateTmp=yes\n"}, {"keep_alive_seconds": 60}, {"access_log": True}],
    ids=["unit", "keep alive", "access log"],
)
def test_what_all_services_share_changes_their_settings(
    machine: Machine, change: dict[str, Any]
) -> None:
    machine.install(SHOP)
    assert machine.host.plan(replace(wanted(SHOP), **change)) == Plan([], [], ["shop"], ["shop"])


def test_compile_and_the_kit_know_the_same_reserved_variables() -> None:
    assert set(GUNICORN_ENVIRONMENT) == set(RESERVED)


def test_the_role_installs_the_command_that_the_kit_starts() -> None:
    text = (PROJECT / "roles" / "flask_service" / "vars" / "main.yml").read_text()
    assert yaml.safe_load(text)["__flask_service_control"] == flask_takeover.PROGRAM


@pytest.mark.parametrize("operation", ["plan", "install"])
def test_neither_result_nor_arguments_show_the_environment(operation: str) -> None:
    """The value `1` is in the environment too: names and versions with a 1 must not be blanked."""
    service = {"name": "shop1", "version": "1.1"}
    service["environment"] = {"A": "1", "B": "the secret", "NAME": "shop1"}  # type: ignore[assignment]
    arguments = {"operation": operation, "services": [service], "only": ["shop1"]}
    code = "import runpy; runpy.run_module('plugins.modules.flask_release', run_name='__main__')"
    given = {"ANSIBLE_MODULE_ARGS": {**arguments, "_ansible_check_mode": True}}
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )
    result = json.loads(done.stdout)
    assert "the secret" not in done.stdout + done.stderr
    if operation == "plan":
        assert result["missing"] == [{"name": "shop1", "version": "1.1", "archive": ""}]
    else:
        assert result["installed"] == ["shop1"]
