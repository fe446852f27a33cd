"""The module flask_apps: what it tells systemd to do, and what it makes of what it sees."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from plugins.module_utils import flask_renew
from plugins.module_utils.flask_renew import Apps, Failed
from plugins.module_utils.systemd import Done
from vmesh.compile.cluster_views import HEALTH_CHECK_HEADER

SHOP = {"name": "shop", "health": "/healthz", "address": "", "port": 0}
STOCK = {**SHOP, "name": "stock"}


class Manager:
    """A service manager with the units of shop and stock, which does what it is told."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.told = folder, list[list[str]]()
        self.units: dict[str, dict[str, str]] = {}
        self.broken: set[str] = set()  # services that do not come up
        for app in (SHOP, STOCK):
            name = str(app["name"])
            (folder / name).mkdir()
            self.settings(name, "00000001")
            for kind in ("socket", "service"):
                self.units[f"flask@{name}.{kind}"] = {
                    "ActiveState": "active",
                    "UnitFileState": "enabled",
                    "NeedDaemonReload": "no",
                    "FragmentPath": str(folder / "unit"),
                    "ExecMainStartTimestamp": "@9999999999",
                    "StatusText": "Serving app:app, configuration 00000001",
                }
        (folder / "unit").write_text("")

    def settings(self, name: str, config_id: str) -> None:
        (self.folder / name / "env").write_text(f'A="b"\nCONFIG_ID="{config_id}"\n')

    def unit(self, name: str, **properties: str) -> None:
        self.units[name].update(properties)

    def run(self, arguments: Sequence[str]) -> Done:
        verb, names = arguments[1], [word for word in arguments[2:] if word.startswith("flask@")]
        if arguments[0] == "journalctl":
            return Done(
                0,
                '{"level":"info","message":"starting"}'
                "\nTraceback (most recent call last)\nKeyError: 'DB'\n",
            )
        if verb == "show":
            shown = ({"Id": name, **self.units[name]} for name in names)
            blocks = ("\n".join(f"{k}={v}" for k, v in unit.items()) for unit in shown)
            return Done(0, "\n\n".join(blocks))
        self.told.append([verb, *names])
        if self.broken & set(names):
            return Done(1, "", "Job failed.")
        for name in names:
            if verb == "enable":
                self.unit(name, UnitFileState="enabled")
            elif verb in {"start", "restart", "reload"}:
                # As systemd has it, also when another process has become the main one.
                self.unit(name, ExecMainStartTimestamp=f"@{time.time() + 60}")
                text = (self.folder / name.split("@")[1].split(".")[0] / "env").read_text()
                config_id = text.split('CONFIG_ID="')[1][:8]
                self.unit(name, ActiveState="active", StatusText=f"configuration {config_id}")
        return Done(0)

    def apps(self, at_once: int = 2, left: Sequence[str] = ()) -> Apps:
        made = Apps([SHOP, STOCK], 0.5, self.run, self.folder, left=left)
        made.at_once = at_once
        return made


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Manager:
    monkeypatch.setattr(flask_renew, "get_unix", lambda path, url: 200)
    return Manager(tmp_path)


def test_where_all_is_as_it_should_be_nothing_is_done(manager: Manager) -> None:
    apps = manager.apps()
    apps.enable()
    assert (apps.start(), apps.renew(), apps.disabled()) == ([], [], [])
    assert manager.told == []


def test_what_does_not_run_is_enabled_and_started(manager: Manager) -> None:
    manager.unit("flask@shop.socket", ActiveState="inactive", UnitFileState="disabled")
    apps = manager.apps()
    assert apps.disabled() == ["flask@shop.socket"]
    apps.enable()
    assert apps.start() == [SHOP]
    assert ["start", "flask@shop.socket"] in manager.told
    assert ["restart", "flask@shop.service"] in manager.told
    assert not any("flask@stock.service" in told for told in manager.told)


def test_what_runs_with_something_older_is_taken_over_from(manager: Manager) -> None:
    manager.settings("shop", "00000002")
    manager.settings("stock", "00000003")
    apps = manager.apps()
    assert apps.outdated() == [SHOP, STOCK]
    assert apps.renew() == []
    assert manager.told == [["reload", "flask@shop.service", "flask@stock.service"]]
    assert manager.apps().outdated() == []


def test_no_more_start_at_once_than_there_are_processors(manager: Manager) -> None:
    for app in ("shop", "stock"):
        manager.unit(f"flask@{app}.service", ActiveState="inactive")
    manager.apps(at_once=1).start()
    starts = [told for told in manager.told if told[0] == "restart"]
    assert starts == [["restart", "flask@shop.service"], ["restart", "flask@stock.service"]]


@pytest.mark.parametrize("changed", [{"ExecMainStartTimestamp": "@1"}, {"NeedDaemonReload": "yes"}])
@pytest.mark.parametrize(("left", "verb"), [(["shop"], "restart"), (["stock"], "reload")])
def test_with_a_changed_unit_only_a_service_without_callers_restarts(
    manager: Manager, changed: dict[str, str], left: list[str], verb: str
) -> None:
    manager.settings("shop", "00000002")
    manager.unit("flask@shop.service", **changed)
    manager.apps(left=left).renew()
    assert manager.told[-1] == [verb, "flask@shop.service"]
    assert (["daemon-reload"] in manager.told) == ("NeedDaemonReload" in changed)


def test_units_whose_changes_do_not_count_yet_are_told(manager: Manager) -> None:
    manager.settings("shop", "00000002")
    manager.settings("stock", "00000002")
    manager.unit("flask@shop.service", ExecMainStartTimestamp="@1")
    result, failure = flask_renew.work(manager.apps(), renew=True, check=False, changing=[])
    assert failure == ""
    assert result["older_units"] == ["flask@shop.service"]


def test_a_service_that_does_not_come_up_is_told_with_its_journal(manager: Manager) -> None:
    manager.settings("shop", "00000002")
    manager.broken.add("flask@shop.service")
    with pytest.raises(Failed, match=r"(?s)reload flask@shop.service.*KeyError: 'DB'") as told:
        manager.apps().renew()
    assert "starting" not in str(told.value)


def test_a_service_that_answers_500_is_told(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager.settings("shop", "00000002")
    monkeypatch.setattr(flask_renew, "get_unix", lambda path, url: 500)
    with pytest.raises(Failed, match="shop answers /healthz on its socket with 500"):
        manager.apps().renew()


def test_a_service_that_shows_other_settings_is_told(manager: Manager) -> None:
    manager.unit("flask@shop.service", ActiveState="failed")
    apps = manager.apps()
    manager.settings("shop", "00000007")

    def run(arguments: Sequence[str]) -> Done:
        done = manager.run(arguments)
        manager.unit("flask@shop.service", StatusText="configuration 0000dead")
        return done

    apps.run = run
    with pytest.raises(Failed, match="shop runs, but not with what is in place"):
        apps.start()


@pytest.fixture
def envoy() -> Iterator[tuple[int, list[str]]]:
    """Something that answers as an app's Envoy does; its port, and the headers it got."""
    seen: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(str(self.headers.get(HEALTH_CHECK_HEADER)))
            self.send_response(200 if len(seen) > 1 else 503)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server.server_port, seen
    server.shutdown()
    server.server_close()


def test_it_is_asked_through_its_own_envoy_too_and_makes_no_span(
    manager: Manager, envoy: tuple[int, list[str]]
) -> None:
    port, seen = envoy
    manager.settings("shop", "00000002")
    app = {**SHOP, "address": "127.0.0.1", "port": port}
    Apps([app], 5, manager.run, manager.folder).renew()
    assert seen == ["1", "1"]
    assert flask_renew.HEALTH_CHECK_HEADER == HEALTH_CHECK_HEADER


def test_check_mode_tells_what_would_be_done_and_does_nothing(manager: Manager) -> None:
    manager.unit("flask@stock.service", ActiveState="inactive")
    result, failure = flask_renew.work(manager.apps(), renew=True, check=True, changing=["shop"])
    assert (result["changed"], result["outdated"], result["started"]) == (True, ["shop"], ["stock"])
    assert [line["prepared"] for line in result["diff"]] == [
        "flask@stock.service is not running and will be started\n",
        "flask@shop.service runs with something older and is renewed\n",
    ]
    assert (failure, manager.told) == ("", [])


def test_the_call_that_renews_reports_the_change(manager: Manager) -> None:
    manager.settings("shop", "00000002")
    found, _ = flask_renew.work(manager.apps(), renew=False, check=False, changing=[])
    assert (found["outdated"], found["changed"], manager.told) == (["shop"], False, [])
    renewed, _ = flask_renew.work(manager.apps(), renew=True, check=False, changing=[])
    assert (renewed["outdated"], renewed["changed"]) == (["shop"], True)
    assert manager.apps().outdated() == []


def test_a_failed_start_is_told_with_what_was_to_be_done(manager: Manager) -> None:
    manager.unit("flask@shop.service", ActiveState="failed")
    manager.broken.add("flask@shop.service")
    result, failure = flask_renew.work(manager.apps(), renew=False, check=False, changing=[])
    assert result["started"] == ["shop"]
    assert "`systemctl restart flask@shop.service` failed" in failure
