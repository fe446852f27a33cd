"""A host with a real Envoy that is brought back to an earlier state, and one that leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.envoy_apply import Proxy, bring
from plugins.module_utils.envoy_documents import draining
from plugins.module_utils.envoy_unit import Systemd
from plugins.module_utils.machine import Machine
from plugins.module_utils.snapshot_store import SnapshotStore
from plugins.module_utils.systemd import Done
from plugins.module_utils.transaction import begin, commit, not_restored, remove, restore
from tests.native.native import (
    Native,
    NativeEnvoy,
    Upstream,
    ask,
    eventually,
    free_port,
    on_loopback,
    port_of,
    send_to,
)
from tests.unit.mesh import played
from tests.unit.mesh.played import asked
from vmesh.base import paths
from vmesh.compile.compiler import compile_mesh
from vmesh.model.inventory import load

LAB = paths.PROJECT / "inventory" / "lab"
NAME, PART, UNIT = "front-proxy", "envoy@front-proxy", "envoy@front-proxy.service"
# Starts a program of the host kit, as its zipapp does.
KIT = (
    sys.executable,
    "-c",
    "import sys; from plugins.module_utils import leave\n"
    "assert sys.argv[1] == 'leave'; sys.exit(leave.main(sys.argv[2:]))",
)
UNIT_FILE = (
    "# Written by the role envoy.\n[Service]\nExecStart={start}\nExecReload=envoy-control x\n"
)


class Process(NativeEnvoy):
    """Starts whichever release is current, and remembers which one that was."""

    started = Path()

    def start(self) -> None:
        self.started = self.binary.resolve()
        super().start()

    def executable(self) -> str:
        return str(self.started)


class Host:
    """A folder as the root of a host with the lab's edge, whose Envoy is real."""

    def __init__(self, envoy: Path, root: Path, upstream: int) -> None:
        hosts = compile_mesh(load(LAB)).hosts.values()
        (plan,) = [proxy for host in hosts for proxy in host.proxies if proxy.kind == "edge"]
        self.envoy, self.root = envoy, root / "host"
        self.made = Native(envoy, root / "envoy", on_loopback(plan))
        for cluster in ("service1", "service2"):
            send_to(self.made.plan, cluster, upstream)
        (self.root / "run").mkdir(parents=True)
        (self.root / "etc").mkdir()
        (self.root / "etc/envoy").symlink_to(root / "envoy/etc")
        (self.root / "run/envoy").symlink_to(root / "envoy/run")
        self.systemd = played.Systemd(self.root)
        self.service = Process(
            self.root / "opt/envoy/current/bin/envoy",
            self.made.proxy.store.path / "bootstrap.json",
            root / "envoy.log",
        )
        store, admin = self.made.proxy.store, self.made.proxy.admin
        self.proxy = Proxy(store, self.service, admin, timeout=15)
        self.machine = Machine(
            self.root,
            self.run,
            lambda _name, _group: self.proxy,
            leaving=self.root / "run/vmesh/leaving",
            kit=KIT,
        )
        self.renewed: list[list[str]] = []
        self.others: list[subprocess.Popen[bytes]] = []

    def run(self, arguments: Sequence[str]) -> Done:
        """Run what the module runs: systemctl is played, envoy-control starts a new process."""
        if arguments[0] == "envoy-control":
            self.renewed.append(list(arguments[1:]))
            self.service.start()
            return Done(0) if eventually(self.proxy.admin.is_ready) else Done(1, "", "not ready")
        if arguments[0] == "systemd-run":
            command = list(arguments[arguments.index("--") + 1 :])
            path = f"{self.root / 'bin'}:{os.environ['PATH']}"
            self.others.append(subprocess.Popen(command, env={"PATH": path}, cwd=paths.PROJECT))
            return Done(0)
        done = self.systemd(arguments)
        for verb, *units in self.systemd.told("stop")[-1:]:
            if verb == "stop" and UNIT in units:
                self.service.stop()
        return done

    def release(self, version: str) -> None:
        """Make a release current; each is a program of its own, with the same Envoy in it."""
        folder = self.root / "opt/envoy" / version / "bin"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "envoy").write_text(f'#!/bin/sh\nexec {self.envoy} "$@"\n')
        (folder / "envoy").chmod(0o755)
        link = self.root / "opt/envoy/current"
        link.unlink(missing_ok=True)
        link.symlink_to(version)

    def unit_file(self, start: str = "envoy") -> None:
        path = self.root / "etc/systemd/system/envoy@.service"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(UNIT_FILE.format(start=start))

    def begin_with(self) -> None:
        """Have all run as the role would."""
        self.unit_file()
        self.release("1.39.0")
        bring(self.proxy, self.made.files())
        self.systemd.units[UNIT] = played.Unit("active", enabled=True)

    @property
    def routes(self) -> list[dict[str, Any]]:
        (site,) = self.made.plan.view["routes"]["public"]["virtual_hosts"]
        found: list[dict[str, Any]] = site["routes"]
        return found

    def status(self, path: str) -> int:
        return ask(port_of(self.made.plan, "public"), path).status

    def stop(self) -> None:
        self.service.stop()
        for process in self.others:
            process.kill()
            process.wait()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream("echo") as found:
        yield found


@pytest.fixture
def host(envoy: Path, tmp_path: Path, upstream: Upstream) -> Iterator[Host]:
    made = Host(envoy, tmp_path, upstream.port)
    try:
        made.begin_with()
        yield made
    finally:
        made.stop()


@contextmanager
def asking(host: Host, path: str) -> Iterator[list[int]]:
    """Send requests all the time; yields the statuses of those that were not answered with 200."""
    failed: list[int] = []
    done = threading.Event()

    def keep_asking() -> None:
        while not done.is_set():
            status = host.status(path)
            if status != 200:
                failed.append(status)

    thread = threading.Thread(target=keep_asking)
    thread.start()
    try:
        yield failed
    finally:
        done.set()
        thread.join()


def undone(host: Host) -> dict[str, Any]:
    return restore(host.machine, asked(1), to=None, cause="it failed")


def test_a_configuration_goes_back_while_requests_are_answered(host: Host) -> None:
    before = host.made.files()
    begin(host.machine, asked(1))
    host.routes.insert(0, {**host.routes[0], "match": {**host.routes[0]["match"]}})
    host.routes[0]["match"]["prefix"] = "/new"
    bring(host.proxy, host.made.files())
    assert host.status("/new") == 200
    with asking(host, "/service/1") as failed:
        result = undone(host)
    assert (result["restored"], result["errors"], failed) == ([PART], {}, [])
    assert host.status("/new") == 404
    assert host.proxy.store.read() == before
    assert host.proxy.accepts(before)
    assert host.renewed == []


def test_what_is_as_it_was_is_not_touched(host: Host) -> None:
    begin(host.machine, asked(1))
    before = {path: path.stat().st_ino for path in host.proxy.store.path.rglob("*.json")}
    assert undone(host)["restored"] == []
    assert {path: path.stat().st_ino for path in host.proxy.store.path.rglob("*.json")} == before
    assert (host.renewed, host.systemd.calls) == ([], [])


def test_binary_and_bootstrap_go_back_by_a_new_process(host: Host) -> None:
    before = host.made.files()
    begin(host.machine, asked(1))
    host.release("1.40.0")
    host.made.plan.view["node"]["id"] = "another"
    bring(host.proxy, host.made.files())
    host.service.start()
    assert eventually(host.proxy.admin.is_ready)
    dry = restore(host.machine, asked(1), to=None, dry=True)
    assert (dry["restored"], host.renewed) == (["envoy", PART], [])
    result = undone(host)
    assert (result["restored"], result["errors"]) == (["envoy", PART], {})
    assert host.renewed == [["renew", NAME]]
    assert "1.39.0" in host.proxy.service.executable()
    assert not host.proxy.needs_restart(before, str(host.root / "opt/envoy/current/bin/envoy"))
    assert host.status("/service/1") == 200


def test_a_unit_that_the_process_already_runs_under_goes_back_by_a_new_process(
    host: Host,
) -> None:
    begin(host.machine, asked(1))
    host.unit_file("envoy --new")
    host.systemd.units[UNIT].started = int(time.time()) + 5
    assert undone(host)["restored"] == [PART, "units"]
    assert host.renewed == [["renew", NAME]]
    begin(host.machine, asked(2))
    host.unit_file("envoy --newer")
    host.systemd.units[UNIT].started = int(time.time()) - 5
    assert undone(host)["restored"] == ["units"], "the process never knew of it"
    assert len(host.renewed) == 1


def test_an_envoy_that_died_is_started_with_the_state_of_before(host: Host) -> None:
    before = host.made.files()
    begin(host.machine, asked(1))
    host.routes[0]["match"]["prefix"] = "/new"
    bring(host.proxy, host.made.files())
    host.service.stop()
    assert undone(host)["errors"] == {}
    assert host.proxy.accepts(before)
    assert host.status("/service/1") == 200


def test_an_endpoint_that_a_killed_run_left_draining_serves_again(
    host: Host, upstream: Upstream
) -> None:
    before = host.made.files()
    name = "endpoints/service1.json"
    host.proxy.swap({name: draining(before[name], "127.0.0.1", upstream.port)})
    begin(host.machine, asked(1))
    assert undone(host)["restored"] == [PART]
    assert host.proxy.accepts(before)


def test_a_state_that_envoy_refuses_is_told_with_its_reason(host: Host, upstream: Upstream) -> None:
    begin(host.machine, asked(1))
    path = SnapshotStore(host.root).pending_path
    (admin,) = [each for each in host.made.plan.view["listeners"] if each["name"] == "admin"]
    old, admin["port"] = admin["port"], free_port()
    bring(host.proxy, host.made.files())
    now = host.made.files()
    # Somebody else took the port of before.
    pending = json.loads(path.read_text())
    for file in pending["files"].values():
        text = file.get("text", "").replace('"version_info": "', '"version_info": "x')
        file["text"] = text.replace(f'"port_value": {old}', f'"port_value": {upstream.port}')
    path.write_text(json.dumps(pending))
    result = undone(host)
    assert list(result["errors"]) == [PART]
    assert "ddress already in use" in not_restored(result)
    assert host.proxy.store.read() == now, "what serves goes on serving"
    assert host.proxy.accepts(now)


def test_one_proxy_goes_back_to_a_numbered_state(host: Host) -> None:
    begin(host.machine, asked(1))
    commit(host.machine, asked(1))
    first = host.made.files()
    begin(host.machine, asked(2))
    host.routes[0]["match"]["prefix"] = "/new"
    bring(host.proxy, host.made.files())
    host.release("1.40.0")
    host.service.start()
    assert eventually(host.proxy.admin.is_ready)
    done = commit(host.machine, asked(2))
    assert done["parts"] == ["envoy", PART]
    assert not done["removed"], "state 1 refers to it"
    result = restore(host.machine, asked(3, "rollback"), to=1, parts=[PART])
    assert (result["restored"], result["errors"]) == ([PART], {})
    assert host.proxy.accepts(first)
    assert "1.40.0" in host.proxy.service.executable(), "the release is everybody's"
    what = SnapshotStore(host.root).history()[-1]["what"]
    assert list(what) == ["config"] and list(what["config"]) == [NAME]


def slow(upstream: Upstream, until: threading.Event) -> None:
    def reply(_: Any) -> tuple[int, bytes]:
        until.wait(20)
        return 200, b"at last"

    upstream.reply = reply


# Its name is short, as it is part of the path of a socket, which may have 107 characters.
@pytest.mark.slow
def test_leaving_ends_well(host: Host, upstream: Upstream, tmp_path: Path) -> None:
    """An Envoy that leaves answers what it has begun, and is stopped then."""
    stopped = tmp_path / "stopped"
    (host.root / "bin").mkdir()
    (host.root / "bin/systemctl").write_text(f'#!/bin/sh\necho "$@" > {stopped}\n')
    (host.root / "bin/systemctl").chmod(0o755)
    let_go, answers = threading.Event(), list[int]()
    slow(upstream, let_go)
    asking = threading.Thread(target=lambda: answers.append(host.status("/service/1")))
    asking.start()
    assert eventually(lambda: bool(upstream.requests))
    done = remove(host.machine, asked(2), [PART], 600)
    assert (done["removed"], done["leaving"]) == ([PART], [PART])
    assert not host.proxy.store.path.exists(), "its configuration is gone"
    assert not host.systemd.units[UNIT].enabled
    marker = host.machine.leaving / UNIT
    assert marker.exists()
    time.sleep(4)
    assert not stopped.exists(), "as long as a request is under way"
    assert host.service.is_running()
    let_go.set()
    asking.join()
    assert answers == [200]
    assert eventually(stopped.exists, 15)
    assert stopped.read_text() == f"stop {UNIT}\n"
    assert eventually(lambda: not marker.exists())


def test_an_envoy_that_leaves_is_not_waited_for_longer_than_was_said(
    host: Host, upstream: Upstream, tmp_path: Path
) -> None:
    stopped = tmp_path / "stopped"
    (tmp_path / "systemctl").write_text(f'#!/bin/sh\necho "$@" > {stopped}\n')
    (tmp_path / "systemctl").chmod(0o755)
    let_go = threading.Event()
    slow(upstream, let_go)
    asking = threading.Thread(target=lambda: host.status("/service/1"))
    asking.start()
    assert eventually(lambda: bool(upstream.requests))
    try:
        subprocess.run(
            [*KIT, "leave", host.proxy.admin.path, "1", str(tmp_path / "x"), UNIT],
            env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
            cwd=paths.PROJECT,
            check=True,
            timeout=10,
        )
        assert stopped.read_text() == f"stop {UNIT}\n"
    finally:
        let_go.set()
        asking.join()


def test_an_envoy_that_does_not_run_is_just_removed(host: Host) -> None:
    host.service.stop()
    host.systemd.units[UNIT].active = "failed"
    done = remove(host.machine, asked(2), [PART], 600)
    assert (done["removed"], done["leaving"]) == ([PART], [])
    assert host.systemd.told("stop", "reset-failed") == [["stop", UNIT], ["reset-failed", UNIT]]


def test_one_that_comes_back_while_it_leaves_is_started_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = tmp_path / "calls"
    (tmp_path / "systemctl").write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    service = Systemd(UNIT, leaving=tmp_path)
    assert service.is_running()
    (tmp_path / UNIT).touch()
    assert not service.is_running(), "its listeners cannot be called back"
    service.start()
    assert calls.read_text().splitlines()[1:] == [
        "stop vmesh-leave-envoy-front-proxy.service",
        "daemon-reload",
        f"reset-failed {UNIT}",
        f"restart {UNIT}",
    ]
    assert service.is_running()
