"""One Envoy of a plan, run natively on loopback addresses by the test's own user."""

from __future__ import annotations

import copy
import dataclasses
import http.client
import http.server
import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from plugins.modules.envoy_config import Admin, Files, Proxy, Store
from vmesh.plan import ProxyPlan
from vmesh.render import Layout, Renderer


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def on_loopback(plan: ProxyPlan) -> ProxyPlan:
    """Return `plan` with its listeners at free ports of 127.0.0.1, as VMs' addresses are not here.

    The view is a copy: tests change it, and plans of one mesh share parts of theirs.
    """
    plan = dataclasses.replace(plan, view=copy.deepcopy(plan.view))
    for listener in plan.view["listeners"]:
        listener.update(address="127.0.0.1", port=free_port())
    return plan


def port_of(plan: ProxyPlan, listener: str) -> int:
    (port,) = [each["port"] for each in plan.view["listeners"] if each["name"] == listener]
    return int(port)


def send_to(plan: ProxyPlan, cluster: str, port: int) -> None:
    """Point a cluster of `plan` at a port of 127.0.0.1."""
    for each in plan.view["clusters"]:
        if each["name"] == cluster:
            each["endpoints"] = [{"address": "127.0.0.1", "port": port}]


class NativeEnvoy:
    """The service manager's part: starts Envoy as a child process."""

    def __init__(self, binary: Path, bootstrap: Path, log: Path) -> None:
        self.binary, self.bootstrap, self.log = binary, bootstrap, log
        self.process: subprocess.Popen[bytes] | None = None

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def executable(self) -> str:
        return str(self.binary.resolve())

    def is_older_than_its_unit(self) -> bool:
        return False

    def start(self) -> None:
        self.stop()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [self.binary, "-c", self.bootstrap, "--use-dynamic-base-id", "-l", "warning"],
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def messages(self, since: float) -> list[str]:
        return self.log.read_text().splitlines()


class Native:
    """A proxy with its folder and files; `proxy` is what the module works with."""

    def __init__(self, envoy: Path, root: Path, plan: ProxyPlan) -> None:
        self.plan, self.root = plan, root
        self.layout = Layout(str(root / "etc"), str(root / "run"))
        (root / "run" / plan.name).mkdir(parents=True)
        folder = Path(self.layout.config_dir(plan.name))
        self.service = NativeEnvoy(envoy, folder / "bootstrap.yaml", root / "envoy.log")
        self.proxy = Proxy(
            Store(folder, os.getgid(), os.getuid()),
            self.service,
            Admin(str(root / "run" / plan.name / "admin.sock")),
            timeout=20,
        )

    def files(self) -> Files:
        return Renderer(self.layout).files(self.plan)


@contextmanager
def native(envoy: Path, root: Path, plan: ProxyPlan) -> Iterator[Native]:
    made = Native(envoy, root, plan)
    try:
        yield made
    finally:
        made.service.stop()


class _Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = json.dumps({k.lower(): v for k, v in self.headers.items()}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def echo() -> Iterator[int]:
    """Run an upstream that answers with the request headers it got; yields its port."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


def get(
    port: int, path: str = "/", headers: Mapping[str, str] | None = None
) -> tuple[int, dict[str, str], str]:
    """Return status, headers and body of one request to 127.0.0.1."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        response = connection.getresponse()
        answered = {name.lower(): value for name, value in response.getheaders()}
        return response.status, answered, response.read().decode()
    finally:
        connection.close()
