"""The real gunicorn under flask-control: tried beside the one that serves, and taken over from."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugins.module_utils import flask_takeover, host_kit
from plugins.module_utils.environment_file import environment_text, read_environment
from tests.unit.services.test_gunicorn import HAND_OVER, UnixConnection
from vmesh.base.paths import PROJECT

# The command that starts the program `flask-control` of the host kit.
COMMAND = host_kit.COMMANDS["usr/local/bin/flask-control"]
KIT = """
import sys
sys.path.insert(0, {project!r})
from plugins.module_utils import flask_takeover, host_kit
assert sys.argv[1] == "flask-control", sys.argv
sys.exit(flask_takeover.main(sys.argv[2:]))
"""
APP = """
import os, time
from flask import Flask

app = Flask(__name__)

@app.get("/")
def who() -> str:
    return {release!r} + " " + os.environ["WORD"]

@app.get("/slow")
def slow() -> str:
    time.sleep(1.5)
    return {release!r}

@app.get("/healthz")
def health() -> tuple[str, int]:
    return "", {health}
"""


def installed_command(folder: Path, kit: str) -> Path:
    """Return the command, with the program `kit` in the place of the host kit."""
    (folder / "kit").mkdir()
    (folder / "kit" / "__main__.py").write_text(kit)
    command = folder / "flask-control"
    text = COMMAND.replace("/opt/vmesh/current/vmesh-host.pyz", str(folder / "kit"))
    command.write_text(text)
    command.chmod(0o755)
    return command


class Service:
    """A service as the role lays it out, below a folder of the test's own."""

    def __init__(self, root: Path) -> None:
        self.root, self.current = root, root / "current"
        self.socket, self.runtime = root / "app.sock", root / "run"
        self.settings, self.log = root / "env", root / "log"
        self.runtime.mkdir()
        self.control = installed_command(root, KIT.format(project=str(PROJECT)))
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.socket))
        self.listener.listen(64)
        self.notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notified.bind(str(root / "notify"))
        self.set(WORD="one")

    def set(self, **settings: str) -> None:
        self.settings.write_text("".join(f'{k}="{v}"\n' for k, v in settings.items()))

    def release(self, name: str, *, health: int = 200, code: str = "") -> Path:
        """Lay out a release, and make it the current one."""
        folder = self.root / name
        (folder / "app").mkdir(parents=True)
        (folder / "app" / "app.py").write_text(APP.format(release=name, health=health) + code)
        (folder / "lib").symlink_to(PROJECT / "services" / "meshtrace")
        self.current.unlink(missing_ok=True)
        self.current.symlink_to(name)
        return folder

    def command(self, *words: str) -> list[str]:
        told = ["--release", str(self.current), "--settings", str(self.settings)]
        return [sys.executable, str(self.control), *words, *told, "--program", str(self.control)]

    def start(self) -> int:
        """Start gunicorn as systemd does; return its process once it serves."""
        descriptor = self.listener.fileno()
        env = os.environ | {
            "NOTIFY_SOCKET": str(self.root / "notify"),
            "RUNTIME_DIRECTORY": str(self.runtime),
        }
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", HAND_OVER, str(descriptor), *self.command("serve", "shop")],
                env=env,
                pass_fds=[descriptor],
                stdout=log,
                stderr=log,
            )
        assert self.get("/")
        return process.pid

    def get(self, path: str) -> str:
        connection = UnixConnection(self.socket)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            assert response.status == 200, response.status
            return response.read().decode()
        finally:
            connection.close()

    def reload(self, process: int) -> subprocess.CompletedProcess[str]:
        env = os.environ | {"MAINPID": str(process), "RUNTIME_DIRECTORY": str(self.runtime)}
        return subprocess.run(
            self.command("reload", "shop", "--seconds", "20"),
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )

    def main_process(self) -> int:
        """Return what systemd was told is the main process by now."""
        told = b""
        self.notified.setblocking(False)
        try:
            while True:
                told += b"\n" + self.notified.recv(4096)
        except BlockingIOError:
            pass
        processes = [line for line in told.split(b"\n") if line.startswith(b"MAINPID=")]
        return int(processes[-1].partition(b"=")[2]) if processes else 0

    def trial(self, folder: Path) -> float:
        return flask_takeover.trial(folder, self.settings, "/healthz", 20)

    def stop(self) -> None:
        """End whatever this service has started, also what was taken over by others."""
        for status in Path("/proc").glob("[0-9]*/environ"):
            try:
                if f"RUNTIME_DIRECTORY={self.runtime}".encode() in status.read_bytes():
                    os.kill(int(status.parent.name), signal.SIGKILL)
            except OSError:
                continue
        self.listener.close()
        self.notified.close()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path)
    try:
        yield made
    finally:
        made.stop()


@pytest.mark.parametrize("preload", ["0", "1"])
def test_a_new_release_takes_over_and_no_request_fails(service: Service, preload: str) -> None:
    service.release("first")
    service.set(WORD="one", PRELOAD=preload)
    old = service.start()
    failed: list[str] = []
    answers: set[str] = set()
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                answers.add(service.get("/"))
            except (OSError, AssertionError, http.client.HTTPException) as error:
                failed.append(repr(error))

    long = threading.Thread(target=lambda: answers.add(service.get("/slow")))
    asking = [threading.Thread(target=ask) for _ in range(3)]
    for thread in [long, *asking]:
        thread.start()
    time.sleep(0.2)
    # The old one serves until the new one has imported its app.
    service.release("second", code="\ntime.sleep(0.7)\n")
    service.set(WORD="two", PRELOAD=preload)
    done = service.reload(old)
    assert done.returncode == 0, done.stderr + service.log.read_text()
    time.sleep(0.2)
    over.set()
    for thread in [long, *asking]:
        thread.join(10)
    assert failed == []
    # The long request was the old one's, and it finished.
    assert answers == {"first one", "second two", "first"}
    new = service.main_process()
    assert new not in (0, old)
    assert f"process {new} serves now" in done.stdout
    deadline = time.monotonic() + 10
    while Path(f"/proc/{old}/cmdline").exists() and Path(f"/proc/{old}/cmdline").read_bytes():
        assert time.monotonic() < deadline, "the old gunicorn stays"
        time.sleep(0.05)
    # And again: what took over can be taken over from.
    service.release("third")
    assert service.reload(new).returncode == 0
    assert service.get("/") == "third two"


def test_a_release_that_ends_at_its_start_leaves_the_old_one_serving(service: Service) -> None:
    service.release("first")
    old = service.start()
    service.release("broken", code="\nraise SystemExit('no database')\n")
    done = service.reload(old)
    assert done.returncode == 1
    assert "the old one goes on" in done.stderr
    assert service.get("/") == "first one"
    assert service.main_process() == 0
    # The next release that is good takes over from it.
    service.release("mended")
    assert service.reload(old).returncode == 0
    assert service.get("/") == "mended one"


def test_trial_tells_how_long_it_took_and_disturbs_nobody(service: Service) -> None:
    folder = service.release("first")
    service.start()
    assert 0 < service.trial(folder) < 20
    assert service.get("/") == "first one"


@pytest.mark.parametrize(
    ("faults", "told"),
    [
        ({"code": "\nimport no_such_module\n"}, "it ends when it is started"),
        ({"health": 500}, "answers /healthz with 500"),
    ],
)
def test_trial_refuses_what_must_not_serve(
    service: Service, faults: dict[str, object], told: str
) -> None:
    folder = service.release("bad", **faults)  # type: ignore[arg-type]
    with pytest.raises(flask_takeover.Failed, match=told):
        service.trial(folder)


def test_settings_are_read_as_systemd_reads_them() -> None:
    text = 'A="one"\nB="say \\"hi\\" for \\$5 \\\\ \\`x\\`"\nC="two\nlines"\nD=""\n'
    assert read_environment(text) == {
        "A": "one",
        "B": 'say "hi" for $5 \\ `x`',
        "C": "two\nlines",
        "D": "",
    }


def test_settings_are_written_as_they_are_read() -> None:
    values = {"a": 'say "hi"', "B": "$5 \\ `x`\nand a line", "c": ""}
    text = environment_text("For a test.", values, {"A": 1})
    assert read_environment(text) == {**values, "A": "1"}
    assert text.splitlines()[0] == "# For a test."


@pytest.mark.parametrize("interpreter", [[], [sys.executable]], ids=["a unit", "a gunicorn"])
def test_the_command_starts_the_kits_program(tmp_path: Path, interpreter: list[str]) -> None:
    """A unit executes the command; a running gunicorn, also an older one, has Python run it."""
    command = installed_command(tmp_path, "import sys; print(sys.argv[1:])")
    done = subprocess.run(
        [*interpreter, str(command), "serve", "shop"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(["flask-control", "serve", "shop"])
