"""One Envoy of a plan, run natively on loopback addresses by the test's own user."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import http.client
import http.server
import itertools
import json
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from plugins.module_utils.envoy_admin import Admin
from plugins.module_utils.envoy_apply import Proxy, bring
from plugins.module_utils.envoy_files import BOOTSTRAP, Files, Store
from vmesh.compile.host_spec import ProxySpec
from vmesh.render.renderer import Layout, Renderer
from vmesh.render.static_form import StaticForms


def static_text(plan: ProxySpec, layout: Layout | None = None) -> str:
    """Return the static form of a proxy."""
    renderer = Renderer(layout)
    forms = StaticForms(renderer.shared)
    return forms.text(forms.form(renderer.documents(plan)))


_WORKERS = 8


def _own_ports() -> Iterator[int]:
    """Return, without an end, ports that no other worker of pytest-xdist and no client gets.

    The kernel gives outgoing connections the ports of ip_local_port_range: of those, one that is
    free now may be taken a moment later (https://docs.kernel.org/networking/ip-sysctl.html).
    """
    text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    lowest, highest = 10_000, max(int(text.split()[0]), 20_000)
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS
    size = (highest - lowest) // _WORKERS
    # Two runs of pytest at once begin at other ports.
    begin = os.getpid() % size
    return itertools.cycle(lowest + worker * size + (begin + n) % size for n in range(size))


_PORTS = _own_ports()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody has, and that nobody else is given soon."""
    while True:
        port = next(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def on_loopback(plan: ProxySpec) -> ProxySpec:
    """Return `plan` with its listeners at free ports of 127.0.0.1, as VMs' addresses are not here.

    The view is a copy: tests change it, and plans of one mesh share parts of theirs.
    """
    plan = dataclasses.replace(plan, view=copy.deepcopy(plan.view))
    for listener in plan.view["listeners"]:
        listener.update(address="127.0.0.1", port=free_port())
    return plan


def port_of(plan: ProxySpec, listener: str) -> int:
    (port,) = [each["port"] for each in plan.view["listeners"] if each["name"] == listener]
    return int(port)


def send_to(plan: ProxySpec, cluster: str, port: int) -> None:
    """Point a cluster of `plan` at a port of 127.0.0.1."""
    for each in plan.view["clusters"]:
        if each["name"] == cluster:
            each["endpoints"] = [{"address": "127.0.0.1", "port": port}]


class NativeEnvoy:
    """The service manager's part: starts Envoy as a child process."""

    def __init__(self, binary: Path, bootstrap: Path, log: Path) -> None:
        self.binary, self.bootstrap, self.log = binary, bootstrap, log
        self.access_log = log.with_name("access.log")
        self.process: subprocess.Popen[bytes] | None = None

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def executable(self) -> str:
        return str(self.binary.resolve())

    def is_older_than_its_unit(self) -> bool:
        return False

    def is_enabled(self) -> bool:
        return True

    def enable(self) -> None:
        pass

    def start(self) -> None:
        self.stop()
        command: list[str | Path] = [self.binary, "-c", self.bootstrap, "--use-dynamic-base-id"]
        command += ["-l", "warning", "--file-flush-interval-msec", "50"]
        with self.log.open("ab") as log, self.access_log.open("ab") as access_log:
            self.process = subprocess.Popen(command, stdout=access_log, stderr=log)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def messages(self, since: float) -> list[str]:
        return self.log.read_text().splitlines()


class Native:
    """A proxy with its folder and files; `proxy` is what the module works with."""

    def __init__(self, envoy: Path, root: Path, plan: ProxySpec) -> None:
        self.plan, self.root = plan, root
        self.layout = Layout(str(root / "etc"), str(root / "run"))
        (root / "run" / plan.name).mkdir(parents=True)
        folder = Path(self.layout.config_dir(plan.name))
        self.service = NativeEnvoy(envoy, folder / "bootstrap.json", root / "envoy.log")
        self.proxy = Proxy(
            Store(folder, os.getgid(), os.getuid()),
            self.service,
            Admin(str(root / "run" / plan.name / "admin.sock")),
            timeout=20,
        )

    def access_log(self) -> list[dict[str, Any]]:
        """Return what the access log says so far, a mapping for each request."""
        return [json.loads(line) for line in self.service.access_log.read_text().splitlines()]

    def files(self) -> Files:
        """Return the files of the plan as it is now; only spans are sent sooner than on a host."""
        files = Renderer(self.layout).files(self.plan)
        soon = files[BOOTSTRAP].replace('"flush_interval_ms": 1000', '"flush_interval_ms": 50')
        return {**files, BOOTSTRAP: soon}


@contextmanager
def native(envoy: Path, root: Path, plan: ProxySpec) -> Iterator[Native]:
    made = Native(envoy, root, plan)
    try:
        yield made
    finally:
        made.service.stop()


@contextmanager
def running(envoy: Path, root: Path, plan: ProxySpec) -> Iterator[Native]:
    """Start an Envoy with all files of `plan`, see them accepted, and stop it in the end.

    Listeners stay where the plan has them: see `on_loopback` and `send_to`.
    """
    with native(envoy, root, plan) as made:
        bring(made.proxy, made.files())
        yield made


@dataclasses.dataclass(frozen=True)
class Request:
    """A request as an upstream got it; names of headers are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def as_json(self) -> bytes:
        return json.dumps(self.headers).encode()


@dataclasses.dataclass(frozen=True)
class Answer:
    """An answer as a client got it; names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def upstream(self) -> str:
        """Return the name of the upstream that answered."""
        return self.headers.get("x-upstream", "")


class Upstream:
    """An HTTP server of 127.0.0.1 that keeps what it got and answers as `reply` says.

    `reply` turns a Request into status and body; without it the request's headers come back.
    `headers` go along with each answer. A WebSocket gets its bytes back. `certificate` (a PEM file
    with its key) makes it TLS; `server_names` are those that clients asked for. It has a free port
    where none is given.
    """

    def __init__(self, name: str, certificate: Path | None = None, port: int = 0) -> None:
        self.name = name
        self.requests: list[Request] = []
        self.server_names: list[str | None] = []
        self.headers: list[tuple[str, str]] = []
        self.reads = threading.Event()  # while it is not set, no body is read
        self.reads.set()
        self.reply: Callable[[Request], tuple[int, bytes]] = lambda got: (200, got.as_json())
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self.server.daemon_threads = True
        self.port = int(self.server.server_address[1])
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            context.sni_callback = lambda _, name, __: self.server_names.append(name)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)

    def answers(self, status: int, body: bytes = b"") -> None:
        """Answer so from now on."""
        self.reply = lambda _: (status, body)

    def paths(self) -> list[str]:
        return [request.path for request in self.requests]

    def __enter__(self) -> Upstream:
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def _handler(upstream: Upstream) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle_request(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            # As it was sent: the library takes //path for /path.
            path = self.requestline.split()[1]
            upstream.reads.wait(20)
            request = Request(self.command, path, headers, self._body(headers))
            upstream.requests.append(request)
            if headers.get("upgrade", "").lower() == "websocket":
                self._echo_until_closed()
                return
            status, body = upstream.reply(request)
            self.send_response(status)
            self.send_header("x-upstream", upstream.name)
            self.send_header("content-type", "application/json")
            for header in upstream.headers:
                self.send_header(*header)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = handle_request  # noqa: N815

        def _body(self, headers: Mapping[str, str]) -> bytes:
            if headers.get("transfer-encoding") != "chunked":
                return self.rfile.read(int(headers.get("content-length", 0)))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def _echo_until_closed(self) -> None:
            self.send_response(101)
            self.send_header("upgrade", "websocket")
            self.send_header("connection", "upgrade")
            self.end_headers()
            while data := self.connection.recv(4096):
                self.connection.sendall(data)
            self.close_connection = True

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Handler


class Server(http.server.ThreadingHTTPServer):
    """Takes many connections at once, and says nothing of those that are reset."""

    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[int]:
    """Serve HTTP by `handler` at a port of 127.0.0.1, which is what it yields."""
    server = Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def echo() -> Iterator[int]:
    """Run an upstream that answers with the request headers it got; yields its port."""
    with Upstream("echo") as upstream:
        yield upstream.port


class Client:
    """A client of a port, by default of 127.0.0.1, that keeps its connection.

    `source` is the client's own address.
    """

    def __init__(self, port: int, source: str = "127.0.0.1", address: str = "127.0.0.1") -> None:
        self.connection = http.client.HTTPConnection(
            address, port, timeout=10, source_address=(source, 0)
        )

    def ask(
        self,
        path: str = "/",
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes | Iterable[bytes] | None = None,
    ) -> Answer:
        """Send one request; a `body` in pieces goes as chunks."""
        self.connection.request(
            method, path, body=body, headers=dict(headers or {}), encode_chunked=False
        )
        response = self.connection.getresponse()
        answered = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, answered, response.read())

    def close(self) -> None:
        self.connection.close()


def ask(  # noqa: PLR0913, PLR0917 - the parts of a request
    port: int,
    path: str = "/",
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | Iterable[bytes] | None = None,
    source: str = "127.0.0.1",
    address: str = "127.0.0.1",
) -> Answer:
    """Send one request on a connection of its own, from the address `source`."""
    client = Client(port, source, address)
    try:
        return client.ask(path, method, headers, body)
    finally:
        client.close()


def get(
    port: int, path: str = "/", headers: Mapping[str, str] | None = None
) -> tuple[int, dict[str, str], str]:
    """Return status, headers and body of one request to 127.0.0.1."""
    answer = ask(port, path, headers=headers)
    return answer.status, answer.headers, answer.text


def eventually(holds: Callable[[], bool], seconds: float = 10) -> bool:
    """Tell whether `holds` comes true within `seconds`; it is tried every 20 milliseconds."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
