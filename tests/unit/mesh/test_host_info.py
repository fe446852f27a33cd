"""What a host tells of itself (plugins/module_utils/host_report.py); here a folder and an Envoy
that is played."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.envoy_admin import Admin
from plugins.module_utils.envoy_documents import version_of
from plugins.module_utils.envoy_files import stat_prefix
from plugins.module_utils.host_report import HostReport, brief
from plugins.module_utils.snapshot_store import SnapshotStore
from plugins.module_utils.snapshots import empty
from plugins.module_utils.systemd import Done
from tests.unit.mesh import worlds
from vmesh.render.renderer import Renderer
from vmesh.render.static_form import CLUSTERS, LISTENERS
from vmesh.rollout import drift

SHOWN = """\
Id=envoy@shop.service
LoadState=loaded
ActiveState=active
UnitFileState=enabled
MainPID=77
StatusText=

Id=flask@shop.service
LoadState=loaded
ActiveState=failed
UnitFileState=disabled
MainPID=0
StatusText=Gunicorn serves: 0badcafe

Id=flask@shop.socket
LoadState=loaded
ActiveState=active
UnitFileState=enabled
MainPID=0
StatusText=

Id=jaeger.service
LoadState=not-found
ActiveState=inactive
UnitFileState=
MainPID=0
StatusText=
"""
STAT_NAMES = {
    LISTENERS: "listener_manager.lds",
    CLUSTERS: "cluster_manager.cds",
    "routes/ingress.json": "http.ingress.rds.ingress",
    "endpoints/stock.json": "cluster.stock",
}


def rendered() -> dict[str, str]:
    (proxy,) = worlds.plan(worlds.inventory()).hosts["shop1"].proxies
    return Renderer().files(proxy)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in rendered().items():
        path = tmp_path / "etc/envoy/shop" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "etc/flask/shop").mkdir(parents=True)
    (tmp_path / "etc/flask/shop/env").write_text(
        '# Written by a role.\nCOLOR="blue"\nPASSWORD="a\\"b\\$c\\\\d"\nCONFIG_ID="0badcafe"\n'
    )
    (tmp_path / "etc/vmesh").mkdir()
    (tmp_path / "etc/vmesh/stock.env").write_text("# Written by a role.\nSERVICE_NAME=stock\n")
    for name, version in (("envoy", "1.40.0"), ("shop", "aaaa")):
        (tmp_path / "opt" / name / version).mkdir(parents=True)
        (tmp_path / "opt" / name / "current").symlink_to(version)
    (tmp_path / "proc/77").mkdir(parents=True)
    (tmp_path / "proc/77/exe").symlink_to("/opt/envoy/1.39.0/bin/envoy")
    return tmp_path


class Silent(Admin):
    """The admin interface of an Envoy that does not run."""

    def get(self, url: str) -> tuple[int, str]:
        raise ConnectionRefusedError(url)


class Accepting(Admin):
    """The admin interface of an Envoy that has accepted `files`."""

    def __init__(self, path: str, files: dict[str, str], bootstrap: str) -> None:
        super().__init__(path)
        self.files, self.bootstrap = files, bootstrap

    def get(self, url: str) -> tuple[int, str]:
        assert self.path.endswith("/run/envoy/shop/admin.sock")
        if url == "/server_info":
            metadata = {"bootstrap_version": self.bootstrap}
            return 200, json.dumps({"node": {"metadata": metadata}})
        stats = [
            {"name": f"{stat_prefix(name)}.version_text", "value": version_of(text)}
            for name, text in self.files.items()
        ]
        return 200, json.dumps({"stats": stats})


def envoy(files: dict[str, str], bootstrap: str | None = None) -> Callable[[str], Admin]:
    version = bootstrap or version_of(files["bootstrap.json"])
    return lambda path: Accepting(path, files, version)


def state(root: Path, admin: Callable[[str], Admin] = Silent) -> dict[str, Any]:
    asked: list[Sequence[str]] = []

    def run(arguments: Sequence[str]) -> Done:
        asked.append(arguments)
        return Done(0, SHOWN)

    found = HostReport(root, "key", admin, run).whole()
    assert len(asked) == 1, "one question for all units"
    assert asked[0][:2] == ["systemctl", "show"], "nothing but questions"
    assert {"envoy@shop.service", "flask@shop.socket", "jaeger.service"} <= set(asked[0])
    return found


def test_it_tells_every_file_by_its_hash(root: Path) -> None:
    files = state(root)["proxies"]["shop"]["files"]
    assert files == {
        name: hashlib.sha256(text.encode()).hexdigest() for name, text in rendered().items()
    }


def test_it_tells_releases_units_and_the_running_binary(root: Path) -> None:
    found = state(root)
    assert found["releases"] == {"envoy": "1.40.0", "shop": "aaaa"}
    assert found["proxies"]["shop"]["unit"] == {"active": "active", "enabled": "enabled"}
    assert found["proxies"]["shop"]["runs"] == "1.39.0"
    assert found["apps"]["shop"]["unit"] == {"active": "failed", "enabled": "disabled"}
    assert found["apps"]["shop"]["socket"] == {"active": "active", "enabled": "enabled"}
    assert found["apps"]["shop"]["current"]
    assert found["jaeger"] is None
    assert found["arch"] == platform.machine()
    assert found["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert found["parts"] == ["envoy@shop", "flask@shop"]
    assert (found["newest"], found["interrupted"]) == (0, {})


def test_it_tells_what_the_host_is(root: Path) -> None:
    (root / "etc/os-release").write_text('ID=debian\nVERSION_ID="12"\nNAME="Debian"\n')
    found = brief(root)
    assert (found["os"], found["os_version"], found["authorities"]) == ("debian", "12", False)
    (root / "etc/ssl/certs").mkdir(parents=True)
    (root / "etc/ssl/certs/ca-certificates.crt").touch()
    assert brief(root)["authorities"]


def test_it_tells_whether_the_host_can_have_a_firewall_and_has_one(root: Path) -> None:
    assert (brief(root)["nftables"], brief(root)["firewall"]) == (False, False)
    for path in ("usr/sbin/nft", "etc/systemd/system/vmesh-firewall.service"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    assert (brief(root)["nftables"], brief(root)["firewall"]) == (True, True)


def test_it_tells_by_which_connection_it_was_asked(root: Path) -> None:
    parents = {os.getpid(): 70, 70: 60, 60: 1}
    for pid, parent in parents.items():
        (root / f"proc/{pid}").mkdir(parents=True)
        (root / f"proc/{pid}/stat").write_text(f"{pid} (a (b) c) S {parent} 0")
        (root / f"proc/{pid}/environ").write_text("HOME=/root\0")
    assert brief(root)["session"] == {}
    # sudo has kept it from all but the login.
    (root / "proc/60/environ").write_text("A=1\0SSH_CONNECTION=fe80::7%eth0 40022 10.0.0.2 2222\0")
    assert brief(root)["session"] == {"address": "fe80::7", "port": 2222}


def test_the_brief_answer_is_a_part_of_the_whole_one(root: Path) -> None:
    found = brief(root)
    assert found.keys() < state(root).keys()
    assert {key: state(root)[key] for key in found} == found


def test_it_tells_of_kept_snapshots(root: Path) -> None:
    SnapshotStore(root).keep(4, empty(), {})
    assert brief(root)["newest"] == 4


@pytest.mark.parametrize(
    ("kept", "run", "who"),
    [({"who": "ann@tower"}, 7, "ann@tower"), ({}, 7, ""), (None, 0, "")],
    ids=["by ann", "by an earlier version", "in pieces"],
)
def test_a_run_that_has_not_ended_is_told(
    tmp_path: Path, kept: dict[str, str] | None, run: int, who: str
) -> None:
    path = SnapshotStore(tmp_path).pending_path
    path.parent.mkdir(parents=True)
    whole = json.dumps({"format": 1, "run": 7, **empty(), **(kept or {})})
    path.write_text("{" if kept is None else whole)
    begun = time.time() - 40
    os.utime(path, (begun, begun))
    found = brief(tmp_path)["interrupted"]
    seconds = found.pop("seconds")
    assert found == {"run": run, "who": who}
    assert 40 <= seconds < 80


def test_a_run_that_was_killed_at_its_very_end_has_ended(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    store.keep_pending(empty(), 5, "ann@tower")
    assert brief(tmp_path)["interrupted"]["run"] == 5
    store.keep(5, empty(), {})
    assert brief(tmp_path)["interrupted"] == {}


def test_an_envoy_that_accepted_all_files_waits_for_none(root: Path) -> None:
    proxy = state(root, envoy(rendered()))["proxies"]["shop"]
    assert (proxy["answers"], proxy["waiting"], proxy["bootstrap"]) == (True, [], True)


@pytest.mark.parametrize("name", sorted(STAT_NAMES))
def test_a_file_that_envoy_has_not_accepted_is_named(root: Path, name: str) -> None:
    older = {**rendered(), name: '{"version_info": "older"}\n'}
    assert state(root, envoy(older))["proxies"]["shop"]["waiting"] == [name]
    assert stat_prefix(name) == STAT_NAMES[name]


def test_another_bootstrap_is_noticed(root: Path) -> None:
    assert state(root, envoy(rendered(), "older"))["proxies"]["shop"]["bootstrap"] is False


def test_an_envoy_that_does_not_answer_is_no_error(root: Path) -> None:
    proxy = state(root)["proxies"]["shop"]
    assert (proxy["answers"], proxy["waiting"], proxy["bootstrap"]) == (False, [], None)


def test_values_leave_the_host_as_codes_only(root: Path) -> None:
    found = state(root)
    environment = found["apps"]["shop"]["environment"]
    assert environment == {
        "COLOR": drift.code("key", "blue"),
        "PASSWORD": drift.code("key", 'a"b$c\\d'),
    }
    assert found["offered"] == {"stock": {"SERVICE_NAME": drift.code("key", "stock")}}
    assert "blue" not in str(found)


def test_a_process_with_other_settings_is_noticed(root: Path) -> None:
    path = root / "etc/flask/shop/env"
    path.write_text(path.read_text().replace("0badcafe", "0badc0de"))
    assert not state(root)["apps"]["shop"]["current"]


def nothing(_: Sequence[str]) -> Done:
    return Done(127)


def test_a_bare_host_has_nothing(tmp_path: Path) -> None:
    found = HostReport(tmp_path, "key", Silent, nothing).whole()
    assert found.pop("arch") and found.pop("python")
    assert found == {
        "os": "",
        "os_version": "",
        "authorities": False,
        "nftables": False,
        "firewall": False,
        "drops": False,
        "session": {},
        "parts": [],
        "newest": 0,
        "interrupted": {},
        "security": {},
        "releases": {},
        "proxies": {},
        "apps": {},
        "offered": {},
        "jaeger": None,
    }


@pytest.mark.parametrize(("status", "current"), [("Configuration abc1", True), ("Other", False)])
def test_jaeger_is_compared_with_its_unit(tmp_path: Path, status: str, current: bool) -> None:
    unit = tmp_path / "etc/systemd/system/jaeger.service"
    unit.parent.mkdir(parents=True)
    unit.write_text('ExecStartPost=systemd-notify "--status=Configuration abc1"\n')
    shown = f"Id=jaeger.service\nLoadState=loaded\nActiveState=active\nStatusText={status}\n"
    found = HostReport(tmp_path, "key", Silent, lambda _: Done(0, shown)).whole()
    assert found["jaeger"] == {"unit": {"active": "active", "enabled": ""}, "current": current}
    assert found["parts"] == ["jaeger"]
