"""Request bodies, small and large: what is sent again, copied or refused, and what is not."""

from __future__ import annotations

import http.server
import select
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.native.inventories import inventory
from tests.native.lab import NativeLab, Place, running_lab
from tests.native.native import Upstream, ask, eventually, free_port, serving
from vmesh.base import paths
from vmesh.compile.compiler import compile_mesh

MIB = 1 << 20
LIMIT = 100_000
LARGE = 5_000_000
HOSTS = {name: {"ansible_host": f"10.0.0.{n}"} for n, name in enumerate(("web", "app", "other"), 1)}
AGAIN = {"attempts": 1, "retry_on": ["gateway-error"]}


def _service(number: int, **given: Any) -> dict[str, Any]:
    app = {"external": f"127.0.0.1:{7000 + number}"}
    return {"group": "app", "port": 9000 + number, "app": app, **given}


MESH: dict[str, Any] = {
    "mesh_services": {
        "shop": _service(1, policies={"retries": AGAIN}),
        "small": _service(2, policies={"retries": AGAIN, "request_body_buffer_limit": LIMIT}),
        "copy": _service(3),
        "rude": _service(4),
        "polite": _service(5),
        "flask": _service(6),
        "caller": {**_service(7, calls={"shop": {}, "small": {}, "rude": {}}), "group": "other"},
    },
    "mesh_edges": {
        "front": {
            "group": "web",
            "port": 8000,
            "routes": [
                {"prefix": "/shop", "to": "shop"},
                {"prefix": "/small", "to": "small"},
                {"prefix": "/own", "to": "shop", "request_body_buffer_limit": LIMIT},
                {"prefix": "/mirror", "to": "small", "mirror": {"to": "copy"}},
                {"prefix": "/rude", "to": "rude"},
                {"prefix": "/polite", "to": "polite"},
                {"prefix": "/flask", "to": "flask"},
            ],
        },
        "strict": {
            "group": "web",
            "port": 8080,
            "admin_port": 8081,
            "max_request_bytes": 2 * MIB,
            "routes": [
                {"prefix": "/shop", "to": "shop"},
                {"prefix": "/rude", "to": "rude", "max_request_bytes": LIMIT},
            ],
        },
    },
    "mesh_tracing": {"collector": {"host": "127.0.0.1"}, "export": "zipkin"},
}


class Refusing(http.server.BaseHTTPRequestHandler):
    """Answers 413 to the headers alone. `lingers` tells whether it then waits for the sender."""

    protocol_version = "HTTP/1.1"
    lingers = False

    def do_POST(self) -> None:
        body = b"too large\n"
        self.send_response(413)
        self.send_header("content-length", str(len(body)))
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True
        if self.lingers:
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(2)
            while self.connection.recv(65536):
                pass

    def handle_expect_100(self) -> bool:
        """Say nothing yet: what follows is the answer."""
        return True

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Lingering(Refusing):
    """Does as the HTTP specification asks of a server that refuses a body."""

    lingers = True


FLASK_APP = """
from flask import Flask, request

app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = 1000

@app.post("/flask")
def take() -> str:
    return str(len(request.get_data()))
"""


@contextmanager
def _flask(folder: Path) -> Iterator[int]:
    """Run a Flask app with a limit of its own, under gunicorn with vmesh's settings."""
    (folder / "app.py").write_text(FLASK_APP)
    meshtrace = paths.PROJECT / "services" / "meshtrace"
    port = free_port()
    settings = meshtrace / "meshtrace" / "gunicorn_conf.py"
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "gunicorn",
        "-c",
        settings,
        "-b",
        f"127.0.0.1:{port}",
    ]
    process = subprocess.Popen(
        [*command, "--chdir", folder],
        env={"PYTHONPATH": str(meshtrace), "PATH": "/usr/bin:/bin"},
        stderr=subprocess.DEVNULL,
    )
    try:
        assert eventually(lambda: _listens(port), 20)
        yield port
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class World:
    """What runs; `ways` are the addresses at which the services are reached."""

    def __init__(
        self, lab: NativeLab, upstreams: dict[str, Upstream], ways: dict[str, Place]
    ) -> None:
        self.lab, self.upstreams, self.ways = lab, upstreams, ways

    def post(self, way: str, path: str, size: int) -> int:
        address, port = self.ways[way]
        return ask(port, path, "POST", body=b"x" * size, address=address).status

    def fails_once(self, name: str) -> None:
        """Have the upstream answer the next request with 503, and those after it with 200."""
        statuses = iter([503])
        self.upstreams[name].requests.clear()
        self.upstreams[name].reply = lambda _: (next(statuses, 200), b"")


@pytest.fixture(scope="module")
def world(envoy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    plan = compile_mesh(inventory(MESH, HOSTS, {name: (name,) for name in HOSTS}))
    with ExitStack() as stack:
        upstreams = {
            name: stack.enter_context(Upstream(name)) for name in ("shop", "small", "copy")
        }
        here = {name: upstream.port for name, upstream in upstreams.items()}
        here["rude"] = stack.enter_context(serving(Refusing))
        here["polite"] = stack.enter_context(serving(Lingering))
        here["flask"] = stack.enter_context(_flask(tmp_path_factory.mktemp("flask")))
        spans = stack.enter_context(Upstream("spans"))
        published = {8000: ("0.0.0.0", 8000), 8080: ("0.0.0.0", 8080)}
        lab = stack.enter_context(running_lab(envoy, plan, spans, published, listening=here))
        ways = {"edge": lab.ports[8000], "strict": lab.ports[8080]}
        for each in plan.hosts["other"].proxies[0].view["listeners"]:
            ways[each["name"]] = lab.places[each["address"], each["port"]]
        yield World(lab, upstreams, ways)


@pytest.mark.parametrize(
    ("way", "path", "proxy", "upstream", "limit"),
    [
        ("edge", "/shop", ("web", "front"), "shop", MIB),
        ("edge", "/small", ("web", "front"), "small", LIMIT),
        ("edge", "/own", ("web", "front"), "shop", LIMIT),
        ("egress-shop", "/", ("other", "caller"), "shop", MIB),
        ("egress-small", "/", ("other", "caller"), "small", LIMIT),
    ],
)
def test_a_body_is_sent_again_up_to_the_limit_and_counted_above_it(  # noqa: PLR0913, PLR0917
    world: World, way: str, path: str, proxy: tuple[str, str], upstream: str, limit: int
) -> None:
    def abandoned() -> int:
        return world.lab.envoys[proxy].counter(f"cluster.{upstream}.retry_or_shadow_abandoned")

    before = abandoned()
    world.fails_once(upstream)
    assert world.post(way, path, limit) == 200
    assert [len(each.body) for each in world.upstreams[upstream].requests] == [limit] * 2
    assert abandoned() == before
    world.fails_once(upstream)
    assert world.post(way, path, limit + 1) == 503
    assert [len(each.body) for each in world.upstreams[upstream].requests] == [limit + 1]
    assert eventually(lambda: abandoned() == before + 1)


def test_what_a_limit_of_bodies_lets_pass_is_sent_again(world: World) -> None:
    world.fails_once("shop")
    assert world.post("strict", "/shop", 2 * MIB) == 200
    assert len(world.upstreams["shop"].requests) == 2
    world.upstreams["shop"].requests.clear()
    assert world.post("strict", "/shop", 2 * MIB + 1) == 413
    assert world.upstreams["shop"].requests == []


@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1, LARGE])
def test_a_copy_has_the_whole_body_however_large(world: World, size: int) -> None:
    """It is sent along, not kept. (The original, too large to be sent again, is not held up.)"""
    world.upstreams["small"].answers(200)
    world.upstreams["copy"].answers(200)
    world.upstreams["copy"].requests.clear()
    assert world.post("edge", "/mirror", size) == 200
    assert eventually(lambda: len(world.upstreams["copy"].requests) == 1)
    (copy,) = world.upstreams["copy"].requests
    assert len(copy.body) == size


def test_a_copy_that_is_read_slowly_holds_a_large_upload_up(world: World) -> None:
    world.upstreams["copy"].answers(200)
    world.upstreams["small"].answers(200)
    reads = world.upstreams["copy"].reads
    statuses: list[int] = []
    large = threading.Thread(
        target=lambda: statuses.append(world.post("edge", "/mirror", 8 * LARGE))
    )
    reads.clear()
    try:
        large.start()
        assert world.post("edge", "/mirror", LIMIT) == 200
        large.join(0.3)
        assert large.is_alive()
    finally:
        reads.set()
        large.join()
    assert statuses == [200]


def test_headers_of_60_kib_pass_with_a_body(world: World) -> None:
    world.upstreams["shop"].answers(200)
    address, port = world.ways["edge"]
    headers = {"x-large": "y" * 59_000}
    world.fails_once("shop")
    assert ask(port, "/shop", "POST", headers, b"x" * LIMIT, address=address).status == 200
    assert [len(each.headers["x-large"]) for each in world.upstreams["shop"].requests] == [
        59_000
    ] * 2


# Answers to bodies that are still being sent

Send = Callable[[Place, str, int], str]


def _head(path: str, size: int, *more: bytes) -> bytes:
    lines = [b"POST %s HTTP/1.1" % path.encode(), b"host: a", b"content-length: %d" % size, *more]
    return b"\r\n".join([*lines, b"", b""])


def _status(answer: bytes) -> str:
    return answer.split(b" ")[1].decode() if answer else "closed"


def sends_and_reads(place: Place, path: str, size: int) -> str:
    """Send a body and look for an answer meanwhile, as browsers and curl do."""
    rest = memoryview(_head(path, size) + b"x" * size)
    with socket.create_connection(place, timeout=5) as client:
        client.setblocking(False)
        while True:
            readable, writable, _ = select.select([client], [client] if rest else [], [], 5)
            if readable:
                return _status(client.recv(65536))
            if writable:
                rest = rest[client.send(rest[:65536]) :]


def sends_then_reads(place: Place, path: str, size: int) -> str:
    """Send a body, and read an answer when that is done or impossible, as most libraries do."""
    with socket.create_connection(place, timeout=5) as client:
        client.sendall(_head(path, size))
        with suppress(OSError):
            client.sendall(b"x" * size)
        return _status(client.recv(65536))


def asks_first(place: Place, path: str, size: int) -> str:
    """Send a body only if it is wanted: `Expect: 100-continue`. Say what came first."""
    with socket.create_connection(place, timeout=5) as client:
        client.sendall(_head(path, size, b"expect: 100-continue"))
        return _status(client.recv(65536))


def _answers(world: World, send: Send, way: str, path: str, count: int = 20) -> Counter[str]:
    with ThreadPoolExecutor(20) as pool:
        place = world.ways[way]
        return Counter(pool.map(lambda _: send(place, path, LARGE), range(count)))


@pytest.mark.parametrize(
    ("path", "send"),
    [
        ("/polite", sends_and_reads),
        ("/polite", sends_then_reads),
        ("/polite", asks_first),
        # gunicorn asks for a body before the app decides, so a client need not ask.
        ("/flask", sends_and_reads),
        ("/flask", sends_then_reads),
    ],
)
def test_an_early_refusal_of_an_app_that_waits_for_the_sender_arrives(
    world: World, path: str, send: Send
) -> None:
    assert _answers(world, send, "edge", path) == {"413": 20}


def test_an_early_refusal_arrives_where_the_client_asks_first(world: World) -> None:
    """No other refusal of an app that closes at once is certain to arrive: see docs/recipes.md."""
    assert _answers(world, asks_first, "edge", "/rude") == {"413": 20}
    assert _answers(world, asks_first, "egress-rude", "/") == {"413": 20}


def test_an_edge_with_a_limit_asks_for_bodies_itself_and_refuses_them_itself(world: World) -> None:
    assert _answers(world, asks_first, "strict", "/rude", 1) == {"100": 1}
    assert _answers(world, sends_and_reads, "strict", "/rude") == {"413": 20}
    assert _answers(world, sends_then_reads, "strict", "/rude") == {"413": 20}
