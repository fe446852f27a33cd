"""The real gunicorn, started as systemd starts it: on a socket it is handed."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vmesh.base.paths import PROJECT

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
COMMAND = [sys.executable, "-m", "gunicorn", "--config", "python:meshtrace.gunicorn_conf"]

# What systemd does between fork and exec: the socket as descriptor 3, LISTEN_PID the new process.
HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.set_inheritable(3, True)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execv(sys.argv[2], sys.argv[2:])
"""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket, as Envoy speaks it to the app."""

    def __init__(self, path: Path) -> None:
        super().__init__("app", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(str(self._path))


def environment(**settings: str) -> dict[str, str]:
    lib = PROJECT / "services" / "meshtrace"
    return os.environ | {"PYTHONPATH": str(lib), "MESH_ADDRESS": "198.18.0.13"} | settings


@contextmanager
def gunicorn(
    folder: Path, app: Path, **settings: str
) -> Iterator[tuple[Path, socket.socket, Path]]:
    """Run an app's folder; gives its socket, what systemd was told, and the log."""
    log = folder / "log"
    with (
        socket.socket(socket.AF_UNIX) as listening,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified,
    ):
        listening.bind(str(folder / "app.sock"))
        listening.listen()
        notified.bind(str(folder / "notify"))
        notified.settimeout(60)
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", HAND_OVER, str(listening.fileno()), *COMMAND],
                cwd=app,
                env=environment(NOTIFY_SOCKET=str(folder / "notify"), **settings),
                pass_fds=[listening.fileno()],
                stdout=output,
                stderr=output,
            )
        try:
            yield folder / "app.sock", notified, log
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def told(notified: socket.socket, wanted: str) -> str:
    """Wait until systemd is told something; returns the whole message."""
    while wanted not in (message := notified.recv(4096).decode()):
        pass
    return message


def test_it_serves_on_the_socket_it_is_handed_and_tells_systemd(tmp_path: Path) -> None:
    app = PROJECT / "services" / "service2"
    with gunicorn(tmp_path, app, CONFIG_ID="0a1b2c") as (path, notified, log):
        assert "0a1b2c" in told(notified, "READY=1")
        connection = UnixConnection(path)
        headers = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "x-request-id": "2e4d"}
        for _ in range(2):  # the second one on the kept connection
            connection.request("GET", "/trace/2", headers=headers)
            answer = connection.getresponse()
            assert answer.status == 200
            assert answer.read().startswith(b"Hello from behind Envoy (service 2)!")
        connection.close()
    lines = [json.loads(text) for text in log.read_text().splitlines()]
    of_the_request = [found for found in lines if found["logger"].startswith("app")]
    assert [(found["trace_id"], found["request_id"]) for found in of_the_request] == [
        (TRACE, "2e4d")
    ] * 2
    assert all("trace_id" not in found for found in lines if found not in of_the_request)
    assert not list(tmp_path.glob("*.ctl")), "no control socket"


def test_a_large_request_that_envoy_lets_through_is_served(tmp_path: Path) -> None:
    with gunicorn(tmp_path, PROJECT / "services" / "service2") as (path, notified, _log):
        told(notified, "READY=1")
        connection = UnixConnection(path)
        connection.request("GET", f"/service/2?{'q' * 20_000}", headers={"cookie": "c" * 30_000})
        assert connection.getresponse().status == 200
        connection.close()


def test_one_line_a_request_when_asked_for(tmp_path: Path) -> None:
    app = PROJECT / "services" / "service2"
    with gunicorn(tmp_path, app, ACCESS_LOG="1") as (path, notified, log):
        told(notified, "READY=1")
        connection = UnixConnection(path)
        connection.request("GET", "/service/2", headers={"x-request-id": "2e4d"})
        connection.getresponse().read()
        connection.close()
    [line] = [
        found
        for found in map(json.loads, log.read_text().splitlines())
        if found["logger"] == "gunicorn.access"
    ]
    assert (line["message"], line["status"], line["request_id"]) == ("GET /service/2", 200, "2e4d")


def test_ready_means_that_the_app_is_imported(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import time\ntime.sleep(0.7)\nfrom flask import Flask\napp = Flask('x')\n"
    )
    started = time.monotonic()
    with gunicorn(tmp_path, tmp_path) as (path, notified, _log):
        told(notified, "READY=1")
        assert time.monotonic() - started > 0.7
        # A worker that is told to stop while it is being forked does not hear it and is waited
        # for; one that answers does.
        connection = UnixConnection(path)
        connection.request("GET", "/")
        assert connection.getresponse().status == 404
        connection.close()


def ask(path: Path, url: str, **headers: str) -> tuple[int, str]:
    """Ask an app on a connection of its own; _ in the names of headers becomes -."""
    connection = UnixConnection(path)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET", url, headers=named)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


SCHEDULER = """
import os, threading, time
from flask import Flask

ticks = []

def tick():
    while True:
        ticks.append(os.getpid())
        time.sleep(0.01)

threading.Thread(target=tick, name="the-scheduler", daemon=True).start()
app = Flask(__name__)

@app.get("/")
def ticked():
    time.sleep(0.1)
    return str(os.getpid() in ticks)
"""


@pytest.mark.parametrize(("preload", "runs"), [("0", "True"), ("1", "False")])
def test_a_thread_of_a_module_runs_in_the_worker_or_is_warned_of(
    tmp_path: Path, preload: str, runs: str
) -> None:
    (tmp_path / "app.py").write_text(SCHEDULER)
    with gunicorn(tmp_path, tmp_path, PRELOAD=preload) as (path, notified, log):
        told(notified, "READY=1")
        assert ask(path, "/") == (200, runs)
    warned = [
        found["message"]
        for found in map(json.loads, log.read_text().splitlines())
        if found["level"] == "warning"
    ]
    assert len(warned) == (preload == "1")
    assert all("the-scheduler" in text and "`app.preload: false`" in text for text in warned)


@pytest.mark.parametrize(("preload", "imports"), [("0", 2), ("1", 1)])
def test_each_worker_imports_the_app_unless_it_is_preloaded(
    tmp_path: Path, preload: str, imports: int
) -> None:
    (tmp_path / "app.py").write_text(
        "import os\nfrom flask import Flask\napp = Flask('x')\n"
        "os.close(os.open(f'imported-{os.getpid()}', os.O_CREAT))\n"
    )
    with gunicorn(tmp_path, tmp_path, PRELOAD=preload, WORKERS="2") as (path, notified, _log):
        told(notified, "READY=1")
        deadline = time.monotonic() + 10
        while len(list(tmp_path.glob("imported-*"))) < imports:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert ask(path, "/")[0] == 404
    assert len(list(tmp_path.glob("imported-*"))) == imports


def test_an_app_may_take_longer_to_import_than_a_worker_may_be_silent(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import time\ntime.sleep(2.5)\nfrom flask import Flask\napp = Flask('x')\n"
    )
    arguments = "--timeout 1"
    with gunicorn(tmp_path, tmp_path, GUNICORN_CMD_ARGS=arguments) as (path, notified, log):
        told(notified, "READY=1")
        assert ask(path, "/")[0] == 404
    assert "WORKER TIMEOUT" not in log.read_text()


TELLS_AT_ONCE = """
import multiprocessing, os
from meshtrace.gunicorn_conf import _tell

barrier = multiprocessing.Barrier(2)

def tell():
    for _ in range(200):
        barrier.wait(10)
        _tell("serving", os.getpid())

workers = [multiprocessing.Process(target=tell) for _ in range(2)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
assert [worker.exitcode for worker in workers] == [0, 0]
"""

IS_LATE = """
import types
from meshtrace.gunicorn_conf import post_worker_init

post_worker_init(types.SimpleNamespace(wsgi=None, alive=True))
"""


def run_python(code: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a program that uses meshtrace as gunicorn's processes do."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_workers_that_are_ready_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    done = run_python(TELLS_AT_ONCE, RUNTIME_DIRECTORY=str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_a_worker_that_is_ready_after_the_next_gunicorn_took_over_changes_nothing(
    tmp_path: Path,
) -> None:
    next_one = str(os.getpid())
    (tmp_path / "serving").write_text(next_one)
    with (
        subprocess.Popen(["sleep", "30"]) as before,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified,
    ):
        notified.bind(str(tmp_path / "notify"))
        notified.setblocking(False)
        done = run_python(
            IS_LATE,
            RUNTIME_DIRECTORY=str(tmp_path),
            NOTIFY_SOCKET=str(tmp_path / "notify"),
            GUNICORN_PID=str(before.pid),
        )
        assert done.returncode == 0, done.stderr
        with pytest.raises(BlockingIOError):
            notified.recv(1000)
        assert before.poll() is None
        before.kill()
    assert (tmp_path / "serving").read_text() == next_one


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import a_module_nobody_has", b"a_module_nobody_has"),
        ("raise SystemExit('no database')", b"no database"),
    ],
)
def test_an_app_that_cannot_be_imported_ends_gunicorn_and_says_why(
    tmp_path: Path, code: str, reason: bytes
) -> None:
    (tmp_path / "app.py").write_text(code)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / "notify"))
        notified.setblocking(False)
        result = subprocess.run(
            [*COMMAND, "--bind", f"unix:{tmp_path}/app.sock"],
            cwd=tmp_path,
            env=environment(NOTIFY_SOCKET=str(tmp_path / "notify")),
            capture_output=True,
            timeout=30,
            check=False,
        )
        with pytest.raises(BlockingIOError):
            notified.recv(4096)
    assert result.returncode != 0
    assert reason in result.stderr


@pytest.mark.parametrize("preload", ["0", "1"])
def test_a_factory_makes_the_app_with_the_arguments_given(tmp_path: Path, preload: str) -> None:
    (tmp_path / "shop.py").write_text(
        "from flask import Flask\n"
        "def create_app(name, size=1):\n"
        "    app = Flask(__name__)\n"
        "    app.get('/')(lambda: f'{name} {size}')\n"
        "    return app\n"
    )
    wsgi = "shop:create_app('the shop', size=2)"
    with gunicorn(tmp_path, tmp_path, WSGI_APP=wsgi, PRELOAD=preload) as (path, notified, _log):
        told(notified, "READY=1")
        assert ask(path, "/") == (200, "the shop 2")


SEEN = """
from flask import Flask, request, url_for

app = Flask(__name__)

@app.get("/<path:path>")
def seen(path):
    return {
        "address": request.remote_addr,
        "url": url_for("seen", path="here", _external=True),
        "path": request.path,
        "root": request.root_path,
    }
"""


@pytest.mark.parametrize("preload", ["0", "1"])
def test_an_app_sees_the_client_that_envoy_tells_and_nothing_that_a_client_invents(
    tmp_path: Path, preload: str
) -> None:
    (tmp_path / "app.py").write_text(SEEN)
    by_envoy = {"x-envoy-external-address": "203.0.113.7", "x-forwarded-proto": "https"}
    # What gunicorn believes by itself on a unix socket, and what would look like Envoy's word.
    invented = {
        "x-forwarded-ssl": "off",
        "x-forwarded-protocol": "http",
        "SCRIPT_NAME": "/a",
        "PATH_INFO": "/b",
        "REMOTE_USER": "root",
        "REMOTE_ADDR": "6.6.6.6",
        "x_envoy_external_address": "6.6.6.6",
        "x_forwarded_host": "evil.example",
        "forwarded": "for=6.6.6.6;host=evil.example",
        "x-forwarded-prefix": "/evil",
        "x-forwarded-for": "6.6.6.6",
        "x-real-ip": "6.6.6.6",
    }
    with gunicorn(tmp_path, tmp_path, PRELOAD=preload) as (path, notified, _log):
        told(notified, "READY=1")
        connection = UnixConnection(path)
        connection.request("GET", "/a/b", headers={"host": "shop.example", **by_envoy, **invented})
        answer = connection.getresponse()
        assert answer.status == 200
        seen = json.loads(answer.read())
        connection.close()
    assert seen == {
        "address": "203.0.113.7",
        "url": "https://shop.example/here",
        "path": "/a/b",
        "root": "",
    }


def test_an_app_that_fails_to_import_is_found_before_it_is_started(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import a_module_nobody_has\n")
    result = subprocess.run(
        [*COMMAND, "--check-config"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode != 0
    assert "ModuleNotFoundError: No module named 'a_module_nobody_has'" in result.stderr


@pytest.mark.parametrize("name", ["service1", "service2"])
def test_the_demo_services_pass_that_check(name: str) -> None:
    result = subprocess.run(
        [*COMMAND, "--check-config"],
        cwd=PROJECT / "services" / name,
        env=environment(SERVICE2_URL="http://127.0.0.2:9002"),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
