"""The Envoys of a caller and a callee as vmesh renders them, run natively, and who uses them."""

from __future__ import annotations

import asyncio
import copy
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from plugins.module_utils import host_anchor
from plugins.module_utils import identities as on_host
from plugins.module_utils.envoy_admin import Admin
from vmesh.compile import identities, security
from vmesh.compile.cluster_views import COLLECTOR, LOCAL_APP
from vmesh.compile.compiler import compile_mesh
from vmesh.compile.host_spec import ProxySpec
from vmesh.model.inventory import Inventory
from vmesh.model.types import OTLP_HTTP
from vmesh.render.renderer import Layout, Renderer

CALLER, CALLEE = "shop", "stock"
HOSTS = {"web1": CALLER, "web2": CALLEE}
DOMAIN = "bench.mesh"
LOOPBACK = "127.0.0.1"
# The app asks on behalf of a request that is traced.
REQUEST = (
    b"GET /items/1 HTTP/1.1\r\nhost: stock\r\n"
    b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n"
)
_END = b"\r\n\r\n"


@dataclass(frozen=True)
class Rendered:
    """An Envoy's bootstrap and admin socket, by service, and the port where the caller is asked."""

    bootstraps: dict[str, Path]
    admins: dict[str, Path]
    port: int


def rendered_pair(root: Path, mode: str, app: int, collector: int) -> Rendered:
    """Write the files of both Envoys below `root`, with identities; both ports are of servers."""
    known = {host: _anchor(root / host, host, service) for host, service in HOSTS.items()}
    inventory = _inventory(mode)
    spec = compile_mesh(inventory, security.target(compile_mesh(inventory).mesh, known))
    listens = {service: _free_port() for service in HOSTS.values()}
    targets = {LOCAL_APP: app, COLLECTOR: collector, CALLEE: listens[CALLEE]}
    made = Rendered({}, {}, _free_port())
    for host, service in HOSTS.items():
        (proxy,) = spec.hosts[host].proxies
        layout = Layout(str(root / host / "etc/envoy"), str(root / host / "run"))
        (root / host / "run" / service).mkdir(parents=True)
        folder = Path(layout.config_dir(service))
        for name, text in Renderer(layout).files(_here(proxy, listens, made.port, targets)).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        made.bootstraps[service] = folder / "bootstrap.json"
        made.admins[service] = root / host / "run" / service / "admin.sock"
    return made


def _anchor(root: Path, host: str, service: str) -> str:
    """Have a host below `root` make its anchor and a leaf; return the anchor."""
    name = f"{host}.{DOMAIN}"
    now = time.time()
    host_anchor.ensure_anchor(root, name, now)
    leaf = {service: identities.identity(host, DOMAIN, service)}
    for each in (on_host.SETTINGS, on_host.LAST):
        (root / each).parent.mkdir(parents=True, exist_ok=True)
    (root / on_host.SETTINGS).write_text(on_host.Settings(name, leaf, 72).text())
    on_host.folder_of(root, service).mkdir(parents=True)
    on_host.renew(root, root / host_anchor.KEY, now)
    anchor = host_anchor.anchor_of(root)
    assert anchor is not None, "it has just been made"
    return anchor


def _inventory(mode: str) -> Inventory:
    mesh = {
        "mesh_services": {
            CALLER: {
                "group": "web1",
                "port": 9001,
                "app": {"external": f"{LOOPBACK}:7001"},
                "calls": {CALLEE: {}},
            },
            CALLEE: {"group": "web2", "port": 9002, "app": {"external": f"{LOOPBACK}:7002"}},
        },
        "mesh_tracing": {"collector": {"host": LOOPBACK}, "export": OTLP_HTTP},
        "mesh_security": {"mtls": mode, "trust_domain": DOMAIN},
    }
    addresses = {host: {"ansible_host": f"10.0.0.{n}"} for n, host in enumerate(HOSTS, 1)}
    groups = {"all": tuple(HOSTS)}
    return Inventory(Path("bench"), groups, addresses, mesh)


def _here(
    proxy: ProxySpec, listens: dict[str, int], egress: int, targets: dict[str, int]
) -> ProxySpec:
    """Return a proxy with its listeners and upstreams at ports of this machine."""
    plan = copy.deepcopy(proxy)
    for listener in plan.view["listeners"]:
        port = listens[proxy.name] if listener["name"] == "ingress" else egress
        listener.update(address=LOOPBACK, port=port)
    for cluster in plan.view["clusters"]:
        cluster["endpoints"] = [{"address": LOOPBACK, "port": targets[cluster["name"]]}]
    return plan


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


class EnvoyPair:
    """Both Envoys while they run, one worker each; `port` leads through both to the app."""

    def __init__(self, envoy: Path, made: Rendered, patience: float = 30) -> None:
        self._envoy, self._made, self._patience = envoy, made, patience
        self.port = made.port
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> EnvoyPair:
        with ExitStack() as stack:
            for service, bootstrap in self._made.bootstraps.items():
                command: list[str | Path] = [self._envoy, "-c", bootstrap, "--use-dynamic-base-id"]
                command += ["--concurrency", "1", "-l", "error"]
                process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
                stack.callback(_end, process)
                self._processes[service] = process
            self._wait()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _wait(self) -> None:
        """Wait until a request passes both."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                with socket.create_connection((LOOPBACK, self.port), timeout=5) as connection:
                    connection.sendall(REQUEST)
                    if connection.recv(64).startswith(b"HTTP/1.1 200"):
                        return
            except OSError:
                pass
            if time.monotonic() > deadline:
                raise RuntimeError("no request got through both Envoys")
            time.sleep(0.05)

    def processor_seconds(self) -> float:
        """Return what both have used of a processor since they began."""
        # Of all threads of the process, in nanoseconds: its own clock, as in
        # https://man7.org/linux/man-pages/man3/clock_getcpuclockid.3.html
        return sum(time.clock_gettime(~each.pid << 3 | 2) for each in self._processes.values())

    def speaks_mtls(self) -> bool:
        """Tell whether the callee has seen a handshake."""
        text = Admin(str(self._made.admins[CALLEE])).get("/stats?filter=ssl.handshake$")[1]
        return any(int(line.rpartition(" ")[2]) > 0 for line in text.splitlines())


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


class Senders:
    """Clients with kept connections to a port, each with one request at a time."""

    def __init__(self, port: int, connections: int, answer_bytes: int) -> None:
        self._stack, self._bytes = ExitStack(), answer_bytes
        self._connections = [
            self._stack.enter_context(socket.create_connection((LOOPBACK, port), timeout=30))
            for _ in range(connections)
        ]

    def __enter__(self) -> Senders:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def send(self, requests: int) -> None:
        """Send so many requests; raises RuntimeError for an answer that is none of the app's."""
        for begin in range(0, requests, len(self._connections)):
            asked = self._connections[: requests - begin]
            for each in asked:
                each.sendall(REQUEST)
            for each in asked:
                self._receive(each)

    def _receive(self, connection: socket.socket) -> None:
        got = b""
        while _END not in got or len(got) < got.index(_END) + len(_END) + self._bytes:
            more = connection.recv(65536)
            if not more:
                raise RuntimeError("a kept connection was closed")
            got += more
            if not got.startswith(b"HTTP/1.1 200"[: len(got)]):
                raise RuntimeError(f"answered {got[:200]!r}")


class FixedServer:
    """An HTTP server in a thread that always answers the same; `answered` counts."""

    def __init__(self, status: int, body: bytes) -> None:
        head = f"HTTP/1.1 {status} OK\r\ncontent-length: {len(body)}\r\n\r\n"
        self.answer, self.answered, self.port = head.encode() + body, 0, 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> FixedServer:
        self._thread.start()
        started = self._loop.create_server(lambda: _Answering(self), LOOPBACK, 0)
        server = asyncio.run_coroutine_threadsafe(started, self._loop).result()
        self.port = server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _Answering(asyncio.Protocol):
    def __init__(self, server: FixedServer) -> None:
        self._server, self._got = server, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._got += data
        for _ in self._requests():
            self._server.answered += 1
            self._transport.write(self._server.answer)

    def _requests(self) -> Iterator[None]:
        """Take whole requests off what has come."""
        while _END in self._got:
            head, _, rest = self._got.partition(_END)
            lines = head.lower().split(b"\r\n")
            lengths = [line.partition(b":")[2] for line in lines if line.startswith(b"content-l")]
            length = int(lengths[0]) if lengths else 0
            if len(rest) < length:
                return
            self._got = rest[length:]
            yield
