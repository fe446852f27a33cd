"""`./mesh jaeger`, with an ssh that forwards on this machine."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from vmesh import cli
from vmesh.base import paths
from vmesh.cli import jaeger
from vmesh.remote.mesh import read

# Forwards as `ssh -N -L` does, to the port that stands in its file instead of Jaeger's.
SSH = """#!{python}
import pathlib, socket, sys, threading
address, port, *_ = sys.argv[sys.argv.index("-L") + 1].split(":")
pathlib.Path({said!r}).write_text(" ".join(sys.argv[1:]))
if {refuses}:
    sys.exit("ssh: no route to host")
def carry(source, target):
    while data := source.recv(65536):
        target.sendall(data)
    target.shutdown(socket.SHUT_WR)
with socket.create_server((address, int(port))) as server:
    while True:
        near, _ = server.accept()
        far = socket.create_connection(("127.0.0.1", {port}))
        for pair in ((near, far), (far, near)):
            threading.Thread(target=carry, args=pair, daemon=True).start()
"""


class Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"the pages")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def pages() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def inventory(folder: Path, tracing: dict[str, object]) -> Path:
    path = folder / "hosts.yml"
    mesh = {
        "mesh_services": {"shop": {"port": 9001, "app": {"external": "127.0.0.1:9"}}},
        "mesh_tracing": tracing,
    }
    hosts = {"web1": {"ansible_host": "10.0.0.1"}, "eye": {"ansible_host": "10.0.0.2"}}
    children = {
        group: {"hosts": {host: None}} for group, host in (("shop", "web1"), ("jaeger", "eye"))
    }
    path.write_text(json.dumps({"all": {"hosts": hosts, "vars": mesh, "children": children}}))
    return path


def ssh_on_path(folder: Path, port: int, *, refuses: bool = False) -> str:
    """Make the ssh; return a PATH with it."""
    ssh = folder / "bin" / "ssh"
    ssh.parent.mkdir()
    said = str(folder / "said")
    ssh.write_text(SSH.format(python=sys.executable, said=said, port=port, refuses=refuses))
    ssh.chmod(ssh.stat().st_mode | stat.S_IXUSR)
    return f"{ssh.parent}{os.pathsep}{os.environ['PATH']}"


def start(folder: Path, given: Path, port: int, *, refuses: bool = False) -> subprocess.Popen[str]:
    path = ssh_on_path(folder, port, refuses=refuses)
    # A shell that starts the tests in the background has them ignore Ctrl-C.
    program = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    program += "from vmesh.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-P", "-c", program, "jaeger", "-i", str(given)],
        env={**os.environ, "PATH": path, "PYTHONPATH": str(paths.PROJECT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_jaegers_pages_are_on_a_port_of_this_machine_until_ctrl_c(
    tmp_path: Path, pages: int
) -> None:
    command = start(tmp_path, inventory(tmp_path, {}), pages)
    assert command.stdout is not None
    line = command.stdout.readline()
    assert line.startswith("Jaeger on eye: http://127.0.0.1:")
    with urllib.request.urlopen(line.split()[3], timeout=10) as answer:
        assert answer.read() == b"the pages"
    said = (tmp_path / "said").read_text()
    assert ":10.0.0.2:16686 " in said
    assert said.endswith("10.0.0.2")
    command.send_signal(signal.SIGINT)
    assert command.wait(20) == 0


def test_an_ssh_that_fails_is_told_with_the_host(tmp_path: Path, pages: int) -> None:
    command = start(tmp_path, inventory(tmp_path, {}), pages, refuses=True)
    told = command.communicate(timeout=30)[1]
    assert command.returncode == 1
    assert "no route to host" in told
    assert "ssh to eye could not forward port 16686" in told


def test_a_mesh_without_jaeger_has_no_pages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = inventory(tmp_path, {"collector": {"host": "spans.example.com"}})
    assert cli.main(["jaeger", "-i", str(given)]) == 1
    assert "sends its spans to a collector" in capsys.readouterr().err


def test_pages_on_loopback_are_asked_through_ssh(
    tmp_path: Path, pages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = inventory(tmp_path, {})
    content = json.loads(given.read_text())
    content["all"]["vars"]["mesh_security"] = {"mtls": "strict", "trust_domain": "shop.mesh"}
    given.write_text(json.dumps(content))
    mesh = read(given)
    assert mesh.jaeger_is_local()
    monkeypatch.setenv("PATH", ssh_on_path(tmp_path, pages))
    with jaeger.asked_at(mesh) as url:
        assert url is not None
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert answer.read() == b"the pages"
    assert ":127.0.0.1:16686 " in (tmp_path / "said").read_text()
    # An address that the user names, or a port of the lab, is reached as it is.
    content["all"]["vars"]["mesh_operator_bind"] = "0.0.0.0"
    given.write_text(json.dumps(content))
    mesh = read(given)
    assert not mesh.jaeger_is_local()
    with jaeger.asked_at(mesh) as url:
        assert url == "http://10.0.0.2:16686/"
