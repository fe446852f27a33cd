"""Answers without an end, as server-sent events are: edge and egress, ingress, app."""

from __future__ import annotations

import gzip
import http.client
import http.server
import json
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.native.inventories import inventory
from tests.native.lab import NativeLab, Place, running_lab
from tests.native.native import Upstream, eventually, serving
from vmesh.compile.compiler import compile_mesh
from vmesh.compile.host_spec import ProxySpec
from vmesh.render.renderer import Renderer
from vmesh.render.static_form import Document

pytestmark = pytest.mark.slow

IDLE = 0.5
SHORTER, LONGER = 0.3, 2.0
# Envoy leaves a client of HTTP/1.1 so long to read what it got before it closes the connection.
DELAYED_CLOSE = 1.0
HOSTS = {name: {"ansible_host": f"10.0.0.{n}"} for n, name in enumerate(("web", "app", "other"), 1)}
MESH: dict[str, Any] = {
    "mesh_services": {
        "events": {
            "group": "app",
            "port": 9001,
            "app": {"external": "127.0.0.1:7001"},
            "policies": {"timeout": "none", "idle_timeout": IDLE},
        },
        "patient": {
            "group": "app",
            "port": 9004,
            "app": {"external": "127.0.0.1:7004"},
            "policies": {"timeout": 0.4, "retries": {"per_try_timeout": 0.3}},
        },
        "caller": {
            "group": "other",
            "port": 9002,
            "app": {"external": "127.0.0.1:7002"},
            "calls": {"events": {}, "patient": {"timeout": "none", "idle_timeout": 5}},
        },
    },
    "mesh_edges": {
        "front": {
            "group": "web",
            "port": 8000,
            "compression": True,
            "routes": [
                {"prefix": "/events", "to": "events"},
                {"prefix": "/patient", "to": "patient"},
                {
                    "prefix": "/own",
                    "to": "patient",
                    "timeout": "none",
                    "idle_timeout": 5,
                },
            ],
        }
    },
    "mesh_tracing": {"collector": {"host": "127.0.0.1"}, "export": "zipkin"},
}


class Events(http.server.BaseHTTPRequestHandler):
    """Sends an event after each pause that the query names, in seconds, then ends the answer."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        self.send_response(200)
        self.send_header("content-type", query.get("type", ["text/event-stream"])[0])
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        with suppress(OSError):
            for pause in ["0", *query.get("pause", ())]:
                time.sleep(float(pause))
                self._chunk(b"data: %.6f\n\n" % time.monotonic())
            self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class HastyRenderer(Renderer):
    """Has every listener give up a silent stream early: what Envoy does in five minutes."""

    def documents(self, proxy: ProxySpec) -> dict[str, Document]:
        codec = '"codec_type": "AUTO"'
        text = json.dumps(super().documents(proxy))
        found: dict[str, Document] = json.loads(
            text.replace(codec, f'{codec}, "stream_idle_timeout": "0.1s"')
        )
        return found


class World:
    """What runs; `ways` are the addresses at which the app is reached."""

    def __init__(self, lab: NativeLab, ways: dict[str, Place]) -> None:
        self.lab, self.ways = lab, ways

    def ask(self, way: str, path: str, **headers: str) -> Any:
        connection = http.client.HTTPConnection(*self.ways[way], timeout=5)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET", path, headers=named)
        return connection.getresponse()

    def lateness(self, way: str, path: str, **headers: str) -> list[float]:
        """Return how many seconds after it was sent each event of an answer arrived."""
        answer = self.ask(way, path, **headers)
        assert answer.status == 200
        unzip = zlib.decompressobj(16 + zlib.MAX_WBITS)
        zipped = answer.getheader("content-encoding") == "gzip"
        late, text = [], b""
        while piece := answer.read1(65536):
            text += unzip.decompress(piece) if zipped else piece
            while b"\n\n" in text:
                event, _, text = text.partition(b"\n\n")
                late.append(time.monotonic() - float(event.removeprefix(b"data: ")))
        return late


@pytest.fixture(scope="module")
def world(envoy: Path) -> Iterator[World]:
    plan = compile_mesh(inventory(MESH, HOSTS, {name: (name,) for name in HOSTS}))
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.native.native.Renderer", HastyRenderer)
        port = stack.enter_context(serving(Events))
        spans = stack.enter_context(Upstream("spans"))
        here = {"events": port, "patient": port}
        published = {8000: ("0.0.0.0", 8000)}
        lab = stack.enter_context(running_lab(envoy, plan, spans, published, listening=here))
        ways = {"edge": lab.ports[8000]}
        for each in plan.hosts["other"].proxies[0].view["listeners"]:
            ways[each["name"]] = lab.places[each["address"], each["port"]]
        yield World(lab, ways)


WAYS = ["edge", "egress-events"]


@pytest.mark.parametrize("way", WAYS)
def test_events_arrive_as_they_are_sent(world: World, way: str) -> None:
    late = world.lateness(way, "/events?pause=0.3&pause=0.3")
    assert len(late) == 3
    assert max(late) < 0.25  # before the next one is sent


def test_compression_holds_nothing_back(world: World) -> None:
    path = "/events?type=application/json&pause=0.3&pause=0.3"
    answer = world.ask("edge", path, accept_encoding="gzip")
    assert answer.getheader("content-encoding") == "gzip"
    assert gzip.decompress(answer.read()).count(b"data:") == 3
    late = world.lateness("edge", path, accept_encoding="gzip")
    assert len(late) == 3
    assert max(late) < 0.25


@pytest.mark.parametrize("way", WAYS)
def test_a_pause_that_is_shorter_than_the_idle_timeout_ends_nothing(world: World, way: str) -> None:
    """Nor does what Envoy itself gives a silent stream, at any hop."""
    assert len(world.lateness(way, f"/events?pause={SHORTER}&pause={SHORTER}")) == 3


@pytest.mark.parametrize("way", WAYS)
def test_a_pause_that_is_longer_ends_the_answer(world: World, way: str) -> None:
    name = {"edge": ("web", "front"), "egress-events": ("other", "caller")}[way]
    began = time.monotonic()
    with pytest.raises((http.client.HTTPException, OSError)):
        world.lateness(way, f"/events?pause={LONGER}")
    assert IDLE - 0.1 < time.monotonic() - began < IDLE + DELAYED_CLOSE + 0.3
    logged = world.lab.envoys[name].logged
    assert eventually(lambda: any(each["flags"] == "SI" for each in logged()))


@pytest.mark.parametrize(("way", "path"), [("edge", "/own"), ("egress-patient", "/")])
def test_a_call_or_a_route_may_have_no_end_where_the_service_has_one(
    world: World, way: str, path: str
) -> None:
    """The attempt's own time is for the beginning of an answer."""
    assert len(world.lateness(way, f"{path}?pause={2 * IDLE}")) == 2


def test_an_end_that_is_set_is_one(world: World) -> None:
    with pytest.raises((http.client.HTTPException, OSError)):
        world.lateness("edge", f"/patient?pause={2 * IDLE}")
