"""What the module host_info sees on a host, here a folder with an Envoy that is played."""

from __future__ import annotations

import hashlib
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.mesh_envoy import stat_prefix, version_of
from plugins.module_utils.mesh_host import Books, empty
from plugins.modules import host_info
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
    "routes/ingress.yaml": "http.ingress.rds.ingress",
    "endpoints/stock.yaml": "cluster.stock",
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


def envoy(files: dict[str, str], bootstrap: str | None = None) -> host_info.Ask:
    """Return the admin interface of an Envoy that has accepted `files`."""

    def ask(admin_socket: str, url: str) -> str:
        assert admin_socket.endswith("/run/envoy/shop/admin.sock")
        if url == "/server_info":
            version = bootstrap or version_of(files["bootstrap.yaml"])
            return f'{{"node": {{"metadata": {{"bootstrap_version": "{version}"}}}}}}'
        return "".join(
            f'{stat_prefix(name)}.version_text: "{version_of(text)}"\n'
            for name, text in files.items()
        )

    return ask


def nobody(_admin_socket: str, _url: str) -> str:
    raise ConnectionRefusedError


def state(root: Path, ask: host_info.Ask = nobody) -> dict[str, Any]:
    asked: list[list[str]] = []

    def systemctl(arguments: list[str]) -> str:
        asked.append(arguments)
        return SHOWN

    found = host_info.Host(root, "key", ask, systemctl).state()
    assert len(asked) == 1, "one question for all units"
    assert asked[0][0] == "show", "nothing but questions"
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
    assert set(found["platform"]) == {"arch", "python"}
    assert (found["newest"], found["pending"]) == (0, None)


def test_it_tells_what_the_host_is(root: Path) -> None:
    (root / "etc/os-release").write_text('ID=debian\nVERSION_ID="12"\nNAME="Debian"\n')
    found = state(root)["system"]
    assert found == {"os": "debian", "os_version": "12", "authorities": False}
    (root / "etc/ssl/certs").mkdir(parents=True)
    (root / "etc/ssl/certs/ca-certificates.crt").touch()
    assert state(root)["system"]["authorities"]


def test_it_tells_of_kept_states_and_of_an_interrupted_run(root: Path) -> None:
    books = Books(root)
    books.keep(4, empty(), {})
    books.keep_pending(empty(), 5)
    found = state(root)
    assert (found["newest"], found["pending"]) == (4, 5)
    books.pending_path.write_text("{")
    assert state(root)["pending"] is None


def test_an_envoy_that_accepted_all_files_waits_for_none(root: Path) -> None:
    proxy = state(root, envoy(rendered()))["proxies"]["shop"]
    assert (proxy["answers"], proxy["waiting"], proxy["bootstrap"]) == (True, [], True)


@pytest.mark.parametrize("name", sorted(STAT_NAMES))
def test_a_file_that_envoy_has_not_accepted_is_named(root: Path, name: str) -> None:
    older = {**rendered(), name: 'version_info: "older"\n'}
    assert state(root, envoy(older))["proxies"]["shop"]["waiting"] == [name]
    assert stat_prefix(name) == STAT_NAMES[name]


def test_another_bootstrap_is_noticed(root: Path) -> None:
    assert state(root, envoy(rendered(), "older"))["proxies"]["shop"]["bootstrap"] is False


def test_an_envoy_that_does_not_answer_is_no_error(root: Path) -> None:
    proxy = state(root)["proxies"]["shop"]
    assert (proxy["answers"], proxy["waiting"], proxy["bootstrap"]) == (False, [], None)


class Admin(BaseHTTPRequestHandler):
    """Answers as Envoy's admin interface does, with the path that was asked for."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"page {self.path}".encode())

    def log_message(self, *_: Any) -> None:
        """Say nothing: there is no address to log."""


def test_the_admin_interface_is_asked_through_its_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "admin.sock")
    with socketserver.UnixStreamServer(path, Admin) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert host_info.ask(path, "/stats?filter=a$") == "page /stats?filter=a$"
    with pytest.raises(OSError, match="refused"):
        host_info.ask(path, "/stats")


def test_a_host_without_systemd_has_no_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert host_info.systemctl(["show"]) == ""


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


def test_a_bare_host_has_nothing(tmp_path: Path) -> None:
    found = host_info.Host(tmp_path, "key", nobody, lambda _: "").state()
    assert found.pop("platform") and found.pop("system")
    assert found == {
        "newest": 0,
        "pending": None,
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
    jaeger = host_info.Host(tmp_path, "key", nobody, lambda _: shown).state()["jaeger"]
    assert jaeger == {"unit": {"active": "active", "enabled": ""}, "current": current}
