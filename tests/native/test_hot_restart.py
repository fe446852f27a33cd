"""Another process takes over and no client notices; one that cannot leaves the old one at work."""

from __future__ import annotations

import dataclasses
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from plugins.module_utils import host_kit
from plugins.module_utils.envoy_admin import Admin
from plugins.module_utils.envoy_apply import bring
from plugins.module_utils.envoy_hot_restart import domain_socket
from plugins.module_utils.envoy_process import Failure, Settings
from plugins.module_utils.envoy_renew import renew, wrong
from plugins.module_utils.processes import connections_of
from plugins.module_utils.releases import KIT_PATH
from tests.native.grpc_app import Caller, Talk, serving
from tests.native.native import (
    Native,
    NativeEnvoy,
    eventually,
    free_port,
    native,
    on_loopback,
    port_of,
)
from tests.native.test_changes import streaming
from tests.native.views import cluster, collector, host, proxy, public, route, table, tracing
from vmesh import artifacts
from vmesh.base.progress import Plain
from vmesh.compile.host_spec import View

pytestmark = pytest.mark.slow

NAME = "front"
KIT = Path(host_kit.__file__).parent
# What the role sets on a host of a mesh, and this machine may not have.
SYSCTL = Path("/proc/sys/net/ipv4/tcp_migrate_req")
MIGRATES = SYSCTL.exists() and SYSCTL.read_text().strip() == "1"


class Supervisor:
    """systemd's part: runs envoy-control as the unit does, and hears what it tells."""

    def __init__(self, root: Path, envoy: Path) -> None:
        self.root, self.main, self.log = root, 0, root / "envoy.log"
        (root / "usr/local/bin").mkdir(parents=True, exist_ok=True)
        sources = {path.stem: path.read_text() for path in KIT.glob("*.py")}
        host_kit.install(root, "1", sources)
        self.kit = root / KIT_PATH.lstrip("/")
        self.binary = root / "envoy"
        self.run_binary(envoy)
        self.environment = {
            "ENVOY_BINARY": str(self.binary),
            "ENVOY_CONFIG_ROOT": str(root / "etc"),
            "ENVOY_RUNTIME_ROOT": str(root / "run"),
            "ENVOY_CONCURRENCY": "1",
            "ENVOY_TIMEOUT": "60",
            "NOTIFY_SOCKET": f"@{root}",
        }
        self.told: list[str] = []
        self.notifications = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notifications.bind(f"\0{root}")
        threading.Thread(target=self._hear, daemon=True).start()

    def _hear(self) -> None:
        while True:
            message, descriptors, _, _ = socket.recv_fds(self.notifications, 4096, 1)
            self.told += message.decode().splitlines()
            if message.startswith(b"MAINPID="):
                self.main = int(message.removeprefix(b"MAINPID="))
            for descriptor in descriptors:
                os.close(descriptor)

    def run_binary(self, binary: Path) -> None:
        """Make `binary` the current release."""
        self.binary.unlink(missing_ok=True)
        self.binary.symlink_to(binary)

    def script(self, *cases: str) -> Path:
        """Return an Envoy that is another one in the cases (of a shell) that are named."""
        path = self.root / f"script{time.monotonic_ns()}"
        path.write_text(
            "\n".join(
                ["#!/bin/sh", 'case "$*" in', *cases, "esac", f'exec {self.binary.resolve()} "$@"']
            )
        )
        path.chmod(0o755)
        return path

    def _run(self, verb: str, **environment: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-IS", self.kit, "envoy-control", verb, NAME],
                env={**os.environ, **self.environment, **environment},
                stdout=log,
                stderr=log,
            )

    def settings(self, proxy: str) -> Settings:
        return Settings.of(proxy, self.environment)

    def state(self, proxy: str) -> str:
        return "active" if self.main_pid(proxy) else "stopped"

    def main_pid(self, proxy: str) -> int:
        return self.main if self.main and Path(f"/proc/{self.main}/exe").exists() else 0

    def start(self, proxy: str) -> None:
        self.told.clear()
        self.main = self._run("start").pid
        assert eventually(lambda: "READY=1" in self.told)

    def restart(self, proxy: str) -> None:
        self.kill_all()
        self.start(proxy)

    def reload(self, proxy: str) -> None:
        began = len(self.log.read_text())
        helper = self._run("take-over", MAINPID=str(self.main))
        if helper.wait(30):
            said = self.log.read_text()[began:].splitlines()
            reasons = [line for line in said if line.startswith("envoy-control: ")]
            raise Failure("\n".join(reasons), said)

    def stop(self) -> float:
        """Stop the proxy as systemd does; return for how many seconds ExecStop was at work."""
        began = time.monotonic()
        assert self._run("stop").wait(60) == 0
        seconds = time.monotonic() - began
        self.end_all(signal.SIGTERM)
        return seconds

    def processes(self) -> list[int]:
        """Return all processes of the proxy, as the unit's control group has them."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"ENVOY_RUNTIME_ROOT={self.root}/" in (folder / "environ").read_text():
                    found.append(int(folder.name))
        return found

    def kill_all(self) -> None:
        self.end_all(signal.SIGKILL)

    def end_all(self, by: signal.Signals) -> None:
        while found := self.processes():
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, by)
                with suppress(ChildProcessError):
                    os.waitpid(pid, 0)
        self.main = 0


class Supervised(NativeEnvoy):
    """The Envoy of a supervisor, as it is for the one who brings files."""

    def __init__(self, supervisor: Supervisor, of: NativeEnvoy) -> None:
        super().__init__(of.binary, of.bootstrap, of.log)
        self.supervisor = supervisor

    def is_running(self) -> bool:
        return self.supervisor.main_pid(NAME) != 0


@dataclasses.dataclass
class Load:
    """What clients of the proxy see while it changes; `failures` says how often and why not."""

    port: int
    answered: int = 0
    failures: list[str] = dataclasses.field(default_factory=list)
    done: threading.Event = dataclasses.field(default_factory=threading.Event)

    def ask(self, connection: http.client.HTTPConnection) -> None:
        try:
            connection.request("GET", "/")
            response = connection.getresponse()
            if response.status == 200 and response.read() == b"begunended":
                self.answered += 1
            else:
                self.failures.append(f"status {response.status}")
        except (OSError, http.client.HTTPException) as error:
            self.failures.append(repr(error))
            connection.close()

    def keep_connection(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        while not self.done.is_set():
            self.ask(connection)
            time.sleep(0.002)

    def connect_anew(self) -> None:
        while not self.done.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
            self.ask(connection)
            connection.close()

    @contextmanager
    def running(self) -> Iterator[None]:
        work = [self.keep_connection] * 3 + [self.connect_anew] * 2
        threads = [threading.Thread(target=each) for each in work]
        for thread in threads:
            thread.start()
        try:
            time.sleep(0.2)
            yield
            time.sleep(0.2)
        finally:
            self.done.set()
            for thread in threads:
                thread.join()


@dataclasses.dataclass
class Running:
    """A proxy at work under its supervisor."""

    made: Native
    supervisor: Supervisor
    port: int
    end_stream: threading.Event

    @property
    def admin(self) -> Admin:
        return self.supervisor.settings(NAME).admin

    @property
    def epoch(self) -> int:
        return self.admin.server().epoch

    @property
    def executable(self) -> str:
        return str(Path(f"/proc/{self.supervisor.main}/exe").readlink())

    def open_stream(self) -> http.client.HTTPResponse:
        """Return an answer that goes on until `end_stream` is set."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request("GET", "/stream")
        response = connection.getresponse()
        assert response.read(5) == b"begun"
        return response

    @contextmanager
    def no_request_fails(self, *, sockets_close: bool = False) -> Iterator[Load]:
        """Put load on the proxy; where sockets close, what waits there is lost without MIGRATES."""
        load = Load(self.port)
        with load.running():
            yield load
        lost = [each for each in load.failures if each.startswith("ConnectionResetError")]
        assert load.failures == (lost[:2] if sockets_close and not MIGRATES else [])
        assert load.answered > 20

    def change_bootstrap(self) -> None:
        self.made.plan.view["node"]["id"] = f"changed{time.monotonic_ns()}"
        bring(self.made.proxy, self.made.files())


@contextmanager
def supervised(
    envoy: Path, root: Path, shop: View, end_stream: threading.Event, spans: int | None = None
) -> Iterator[Running]:
    """Run an edge in front of the cluster `shop` under a supervisor.

    spans: port of 127.0.0.1 that takes them as OTLP over HTTP, where anybody is to have them
    """
    plan = on_loopback(
        proxy(
            [public(tracing=tracing(export="otlp_http", collector_path="/v1/traces"))],
            {"public": table(host("all", [route("/", "shop", timeout=60.0)]), tell_trace=True)},
            [shop, {**collector(spans or free_port()), "http2": False}],
            NAME,
        )
    )
    with native(envoy, root, plan) as made:
        supervisor = Supervisor(root, envoy)
        made.proxy.service = Supervised(supervisor, made.service)
        try:
            for name, content in made.files().items():
                path = root / "etc" / NAME / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content)
            supervisor.start(NAME)
            yield Running(made, supervisor, port_of(plan, "public"), end_stream)
        finally:
            supervisor.kill_all()


@pytest.fixture
def front(envoy: Path, tmp_path: Path) -> Iterator[Running]:
    with (
        streaming() as stream,
        supervised(envoy, tmp_path, cluster("shop", stream.port), stream.end) as running,
    ):
        yield running


def test_started_means_ready(front: Running) -> None:
    assert front.supervisor.told == ["READY=1", "BARRIER=1"]
    assert front.admin.is_ready()
    assert front.epoch == 0


def test_an_envoy_that_does_not_get_ready_is_not_started(front: Running) -> None:
    front.supervisor.kill_all()
    front.supervisor.told.clear()
    (front.supervisor.root / "etc" / NAME / "bootstrap.json").write_text("admin: nonsense")
    assert front.supervisor._run("start").wait(10) != 0
    assert not eventually(lambda: bool(front.supervisor.told), 0.3)


def test_no_client_notices_another_bootstrap(front: Running) -> None:
    stream = front.open_stream()
    old = front.supervisor.main
    with front.no_request_fails():
        front.change_bootstrap()
        said = renew(NAME, front.supervisor)
    new = front.supervisor.main
    assert said == f"{NAME}: taken over, process {old} -> {new}"
    assert front.epoch == 1
    assert front.supervisor.told[-2] == f"MAINPID={new}"
    status = Path(f"/proc/{new}/status").read_text()
    assert "\nPPid:\t1\n" in status or f"\nPPid:\t{_subreaper()}\n" in status
    front.end_stream.set()
    assert stream.read() == b"ended"


def _subreaper() -> int:
    """Return whose child an orphan becomes here: not PID 1's where a session has a manager."""
    shell = "sh -c 'sleep 1 & echo $!'"
    pid = int(subprocess.run(shell, shell=True, stdout=subprocess.PIPE, check=True).stdout)
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("\nPPid:\t")[1].split("\n")[0])


def test_to_another_release_and_back(front: Running, envoy: Path) -> None:
    """The second restart comes while the first process still drains."""
    (other, *_) = [v for v in artifacts.envoy_versions() if v != artifacts.envoy_versions()[0]]
    try:
        artifacts.ensure(
            ["envoy"], arch=artifacts.controller_arch(), envoy_version=other, progress=Plain()
        )
    except artifacts.ArtifactError as error:
        pytest.skip(str(error))
    with front.no_request_fails():
        for binary in (artifacts.envoy_binary(version=other), envoy):
            front.supervisor.run_binary(binary)
            renew(NAME, front.supervisor)
            assert front.executable == str(binary.resolve())
    assert front.epoch == 2


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        # Ends after the old process has given up its admin interface.
        (
            '*restart-epoch*) exec {envoy} "$@" --config-yaml \'{{static_resources: {{clusters:'
            " [{{name: x, type: EDS}}]}}}}';;",
            "ended before it was ready",
        ),
        # Ends before it has said a word to the old process.
        ("*restart-epoch*) echo no memory >&2; exit 1;;", "ended before it was ready"),
        # Hangs.
        ("*restart-epoch*) exec sleep 60;;", "was not ready after 1 s"),
        ("*hot-restart-version*) echo Illegal instruction; exit 1;;", "ended with status 1"),
    ],
)
def test_a_binary_that_fails_leaves_the_old_one_at_work(
    front: Running, envoy: Path, case: str, reason: str
) -> None:
    bad = front.supervisor.script(case.format(envoy=envoy))
    front.supervisor.environment["ENVOY_TIMEOUT"] = "1" if "sleep" in case else "60"
    with front.no_request_fails():
        front.supervisor.run_binary(bad)
        with pytest.raises(Failure, match=reason):
            front.supervisor.reload(NAME)
        assert front.admin.is_ready()
        assert front.executable == str(envoy)
        assert wrong(front.supervisor.settings(NAME), front.supervisor.main)
        # And the next one can take over.
        front.supervisor.run_binary(envoy)
        renew(NAME, front.supervisor)


def test_a_bad_bootstrap_is_refused_with_envoys_reason(front: Running) -> None:
    path = front.supervisor.root / "etc" / NAME / "bootstrap.json"
    path.write_text(path.read_text().replace('"node":', '"nodes":'))
    old = front.supervisor.main
    with front.no_request_fails(), pytest.raises(Failure, match="validate` ended") as caught:
        renew(NAME, front.supervisor)
    assert "nodes" in "\n".join(caught.value.evidence)
    assert (front.supervisor.main, front.epoch) == (old, 0)


def test_the_new_process_outlives_an_old_one_that_is_killed(front: Running) -> None:
    old = front.supervisor.main
    with front.no_request_fails():
        front.supervisor.reload(NAME)
        assert eventually(lambda: connections_of(old) == 0)
        os.kill(old, signal.SIGKILL)
        os.waitpid(old, 0)
        front.supervisor.reload(NAME)
    assert front.epoch == 2
    # An Envoy whose parent is gone tries for 10 s to reach it, then aborts.
    assert "sendmsg() failed" not in front.supervisor.log.read_text()


def test_the_new_process_does_not_wait_for_an_answer_that_died_with_the_old_one(
    front: Running,
) -> None:
    old = front.supervisor.main
    with front.no_request_fails():
        front.supervisor.reload(NAME)
        front.supervisor.kit.unlink()
        assert eventually(lambda: connections_of(old) == 0)
        os.kill(old, signal.SIGSTOP)
        # Statistics are asked for every 5 s.
        assert eventually(lambda: not front.admin.is_ready(), 12)
        os.kill(old, signal.SIGKILL)
        os.waitpid(old, 0)
        assert eventually(front.admin.is_ready)


@pytest.mark.parametrize(
    ("base_id", "epoch", "number"),
    [(214748364, 1, "2147483641"), (226580226, 5, "18446744071680386582")],
)
def test_processes_find_each_other_by_any_base_id(base_id: int, epoch: int, number: str) -> None:
    """The second one is what an Envoy was seen to listen at, as in /proc/net/unix."""
    name = domain_socket("parent", base_id, epoch)
    assert name == f"\0envoy_domain_socket_parent_{number}".encode().ljust(108, b"\0")


def test_a_fourth_process_finds_nothing_of_the_first_in_its_way(front: Running) -> None:
    """Envoy has three names for its processes, so the fourth takes the first one's."""
    with front.no_request_fails():
        for epoch in (1, 2, 3):
            front.supervisor.reload(NAME)
            assert front.epoch == epoch
    # The one at work, the one that drains, and who stands by for that.
    assert eventually(lambda: len(front.supervisor.processes()) == 3)


def test_no_client_notices_a_binary_that_cannot_take_over_by_a_hot_restart(front: Running) -> None:
    stream, old = front.open_stream(), front.supervisor.main
    front.supervisor.run_binary(front.supervisor.script("*hot-restart-version*) echo 12.1; exit;;"))
    with front.no_request_fails(sockets_close=True):
        front.supervisor.reload(NAME)
        # Another kit may come and this one go, while the helper of the old process still works.
        front.supervisor.kit.unlink()
        # Nothing but the stream is left to the old process then.
        assert eventually(lambda: connections_of(old) == 1)
    assert "is 12.1, that of the running process 11" in front.supervisor.log.read_text()
    assert front.supervisor.main != old
    assert front.epoch == 0
    front.end_stream.set()
    assert stream.read() == b"ended"
    assert eventually(lambda: front.supervisor.processes() == [front.supervisor.main], 20)


def test_processes_without_a_base_id_follow_each_other_all_the_same(front: Running) -> None:
    with front.no_request_fails(sockets_close=True):
        for reload in range(3):
            if reload < 2:
                (front.supervisor.root / "run" / NAME / "base-id").unlink()
            old = front.supervisor.main
            front.supervisor.reload(NAME)
            assert front.supervisor.main != old
    assert front.epoch == 1, "the last one was a hot restart again"
    assert eventually(lambda: len(front.supervisor.processes()) == 3, 30), "as always after one"


def test_a_process_that_dies_beside_the_old_one_leaves_it_whole(front: Running) -> None:
    old = front.supervisor.main
    front.supervisor.run_binary(
        front.supervisor.script(
            "*hot-restart-version*) echo 12.1; exit;;", "*dynamic-base-id*) exit 7;;"
        )
    )
    with (
        front.no_request_fails(),
        pytest.raises(Failure, match=rf"ended before it was ready; the old process {old} goes on"),
    ):
        front.supervisor.reload(NAME)
    assert front.supervisor.main == old
    assert front.admin.is_ready()
    assert front.supervisor.processes() == [old]


def test_the_admin_interface_is_found_again_after_an_attempt_that_was_killed(
    front: Running,
) -> None:
    admin = Path(front.admin.path)
    admin.rename(admin.with_name(f"admin-{front.supervisor.main}.sock"))
    front.supervisor.reload(NAME)
    assert front.epoch == 1


def test_what_is_not_running_is_started(front: Running) -> None:
    front.supervisor.kill_all()
    assert renew(NAME, front.supervisor).startswith(f"{NAME}: started, process none -> ")
    assert front.admin.is_ready()


def as_before(front: Running) -> dict[str, str]:
    """Return the files of the proxy as the previous release had them, in YAML.

    JSON is YAML too, but there the keys of versions had no quotes.
    """

    def converted(text: str) -> str:
        text = text.replace(".json", ".yaml")
        return re.sub(r'"(version_info|bootstrap_version)"', r"\1", text)

    files = front.made.files()
    return {path.replace(".json", ".yaml"): converted(text) for path, text in files.items()}


def test_a_proxy_of_the_previous_release_is_taken_over_and_can_go_back(front: Running) -> None:
    folder, runtime = front.supervisor.root / "etc" / NAME, front.supervisor.root / "run" / NAME
    with front.no_request_fails():
        bring(front.made.proxy, as_before(front))
        renew(NAME, front.supervisor)
        assert {path.suffix for path in folder.rglob("*.*")} == {".yaml"}
        assert front.admin.server().config_path == str(folder / "bootstrap.yaml")
        assert [path.name for path in runtime.glob("good.*")] == ["good.yaml"]

        bring(front.made.proxy, front.made.files())
        renew(NAME, front.supervisor)
        assert {path.suffix for path in folder.rglob("*.*")} == {".json"}
        assert front.admin.server().config_path == str(folder / "bootstrap.json")
        assert [path.name for path in runtime.glob("good.*")] == ["good.json"]
    assert front.epoch == 2


def test_an_upgrade_that_fails_leaves_a_process_of_the_previous_release_at_work(
    front: Running, envoy: Path
) -> None:
    """The new process ends after the old one has given up its admin interface."""
    proxy, before = front.made.proxy, as_before(front)
    bring(proxy, before)
    renew(NAME, front.supervisor)
    fault = "{static_resources: {clusters: [{name: x, type: EDS}]}}"
    bad = front.supervisor.script(
        f"*bootstrap.json*restart-epoch*) exec {envoy} \"$@\" --config-yaml '{fault}';;"
    )
    with front.no_request_fails():
        bring(proxy, front.made.files())
        front.supervisor.run_binary(bad)
        with pytest.raises(Failure, match="ended before it was ready"):
            front.supervisor.reload(NAME)
        assert front.admin.is_ready()
        front.supervisor.run_binary(envoy)
        bring(proxy, before)
        assert proxy.accepts(before)
        assert proxy.store.read() == before


def test_the_copy_of_a_bootstrap_is_what_a_process_became_ready_with(front: Running) -> None:
    """A bootstrap of the other format that was tried and refused does not count."""
    runtime = front.supervisor.root / "run" / NAME
    (runtime / "tried.yaml").write_text("refused")
    front.supervisor.reload(NAME)
    copies = sorted(path.name for path in runtime.iterdir() if path.suffix in {".yaml", ".json"})
    assert copies == ["good.json"]
    assert (runtime / "good.json").read_text() == front.supervisor.settings(
        NAME
    ).bootstrap.read_text()


def test_a_renewal_names_the_files_that_the_new_process_has_not_taken(front: Running) -> None:
    folder = front.supervisor.root / "etc" / NAME
    front.supervisor.environment["ENVOY_TIMEOUT"] = "2"
    (folder / "endpoints" / "gone.json").write_text('{"version_info": "1", "resources": []}')
    with front.no_request_fails(), pytest.raises(Failure) as caught:
        renew(NAME, front.supervisor)
    assert str(caught.value) == (
        f"taken over, but the main process {front.supervisor.main} has not taken:"
        " endpoints/gone.json"
    )


def test_calls_of_grpc_move_to_the_new_process_and_streams_stay(
    envoy: Path, tmp_path: Path
) -> None:
    """A connection of HTTP/2 carries many calls: it is told to go, and none of them is lost."""
    statuses: list[str] = []
    done = threading.Event()
    with (
        serving(Talk()) as port,
        supervised(envoy, tmp_path, cluster("shop", port, http2=True), done) as front,
        Caller(f"127.0.0.1:{front.port}") as caller,
        Caller(f"127.0.0.1:{front.port}") as other,
    ):
        stream = other.server_stream("Forever", b"x", timeout=30)
        assert next(stream) == b"x"

        def calls() -> None:
            while not done.is_set():
                statuses.append(caller.status("Unary", b"x")[0])

        thread = threading.Thread(target=calls)
        thread.start()
        try:
            assert eventually(lambda: len(statuses) > 20)
            front.change_bootstrap()
            renew(NAME, front.supervisor)
            assert front.epoch == 1
            renewed = len(statuses)
            assert eventually(lambda: len(statuses) > renewed + 50)
        finally:
            done.set()
            thread.join()
        assert set(statuses) == {"OK"}
        assert not stream.done()
        stream.cancel()
