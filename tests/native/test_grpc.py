"""gRPC and HTTP/2 from end to end, by the real Envoy: edge and egress, ingress, app."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.native.grpc_app import NOT_SERVING, SERVING, Caller, Talk, serving
from tests.native.inventories import inventory
from tests.native.lab import NativeLab, running_lab
from tests.native.native import Upstream, ask, eventually, free_port, on_loopback, port_of, running
from tests.native.views import answer as fixed_answer
from tests.native.views import collector, host, listener, proxy, table
from vmesh.compile.compiler import compile_mesh
from vmesh.compile.host_spec import ProxySpec
from vmesh.render.renderer import Renderer
from vmesh.render.static_form import Document

HOSTS = {
    "web": {"ansible_host": "10.0.0.1"},
    "app": {"ansible_host": "10.0.0.2"},
    "other": {"ansible_host": "10.0.0.3"},
    "traces": {"ansible_host": "10.0.0.4"},
}
TRAILERS = {"x-count": "5", "x-raw-bin": b"\x00\xff"}
MESH: dict[str, Any] = {
    "mesh_services": {
        "talk": {
            "group": "app",
            "port": 9001,
            "protocol": "grpc",
            "app": {"external": "127.0.0.1:7001"},
            "operation": "talks",
            "policies": {
                "timeout": 1.2,
                "retries": {"retry_on": ["connect-failure", "unavailable"]},
                "health_check": {"interval": 0.1, "unhealthy_threshold": 1},
            },
        },
        # Nobody asks for its health, so that nothing but pings is on its connections.
        "silent": {
            "group": "app",
            "port": 9004,
            "protocol": "grpc",
            "app": {"external": "127.0.0.1:7004"},
        },
        "plain": {
            "group": "app",
            "port": 9002,
            "protocol": "http2",
            "app": {"external": "127.0.0.1:7002"},
            "policies": {"health_check": {"interval": 0.1}},
        },
        "caller": {
            "group": "other",
            "port": 9003,
            "app": {"external": "127.0.0.1:7003"},
            "calls": {
                "talk": {},
                "silent": {},
                "gone": {"host": "127.0.0.1", "port": 1, "protocol": "grpc"},
                "foreign": {"host": "127.0.0.1", "port": 7001, "protocol": "grpc"},
            },
        },
    },
    "mesh_edges": {
        "front": {
            "group": "web",
            "port": 8000,
            "max_request_bytes": 1000,
            "compression": True,
            "routes": [
                {"prefix": "/talk.Talk/", "to": "talk"},
                {"prefix": "/plain", "to": "plain"},
            ],
        }
    },
    "mesh_tracing": {"group": "traces", "export": "zipkin"},
}


@dataclass
class World:
    """What runs; `ways` are the addresses at which the service is reached."""

    talk: Talk
    lab: NativeLab
    spans: Upstream
    ways: dict[str, str]


class HastyRenderer(Renderer):
    """Has Envoys pinged 300 times as often: what pings do in minutes is seen in a second."""

    def documents(self, proxy: ProxySpec) -> dict[str, Document]:
        pings = '"connection_keepalive": {"interval": '
        text = json.dumps(super().documents(proxy))
        found: dict[str, Document] = json.loads(text.replace(f'{pings}"30s"', f'{pings}"0.1s"'))
        return found


def _speaks_http2(envoy: Path, root: Path, stack: ExitStack) -> int:
    """Start an app that speaks HTTP/2 to those who begin with it; return its port."""
    answers = table(host("all", [fixed_answer("/", answer={"status": 200, "body": "plain"})]))
    plan = on_loopback(proxy([listener("app")], {"app": answers}, [collector(free_port())], "app"))
    stack.enter_context(running(envoy, root, plan))
    return port_of(plan, "app")


@pytest.fixture(scope="module")
def world(envoy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    groups = {name: (name,) for name in HOSTS}
    plan = compile_mesh(inventory(MESH, HOSTS, groups))
    talk = Talk()
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.native.native.Renderer", HastyRenderer)
        port = stack.enter_context(serving(talk))
        plain = _speaks_http2(envoy, tmp_path_factory.mktemp("plain"), stack)
        spans = stack.enter_context(Upstream("spans"))
        spans.answers(202)
        published = {8000: ("0.0.0.0", 8000)}
        running_here = {"talk": port, "silent": port, "plain": plain}
        lab = stack.enter_context(
            running_lab(envoy, plan, spans, published, listening=running_here)
        )
        ways = {"edge": lab.text_of(lab.ports[8000])}
        for each in plan.hosts["other"].proxies[0].view["listeners"]:
            ways[each["name"]] = lab.text_of(lab.places[each["address"], each["port"]])
        yield World(talk, lab, spans, ways)


@pytest.fixture(params=["edge", "egress-talk", "egress-foreign"])
def caller(world: World, request: pytest.FixtureRequest) -> Iterator[Caller]:
    with Caller(world.ways[request.param]) as made:
        yield made


def test_an_answer_its_metadata_and_its_trailers_pass(world: World, caller: Caller) -> None:
    answer, call = caller.unary("Unary", b"hello", x_mine="yes")
    assert answer == b"HELLO"
    assert dict(call.trailing_metadata()) == TRAILERS
    assert world.talk.seen("Unary")[-1]["x-mine"] == "yes"
    assert world.talk.seen("Unary")[-1]["traceparent"]


def test_streams_pass_in_both_directions_as_they_come(caller: Caller) -> None:
    assert b",".join(caller.server_stream("ServerStream", b"4")) == b"0,1,2,3"
    assert caller.client_stream(iter([b"a", b"b", b"c"])) == b"a+b+c"
    said: list[bytes] = []

    def asks() -> Iterator[bytes]:
        """Say the next word only when the last one was answered."""
        yield b"one"
        for word in (b"two", b"three"):
            assert eventually(lambda: len(said) > 0)
            said.clear()
            yield word

    answers = []
    for answer in caller.both(asks()):
        answers.append(answer)
        said.append(answer)
    assert answers == [b"eno", b"owt", b"eerht"]


def test_a_status_and_its_message_pass(caller: Caller) -> None:
    assert caller.status("Refuses", b"x") == ("NOT_FOUND", "no such thing: é %")
    assert caller.status("Nothing", b"x")[0] == "UNIMPLEMENTED"


def test_a_large_message_passes(caller: Caller) -> None:
    """The edge's limit of 1000 bytes would hold a stream back, so it does not count here."""
    message = b"x" * 3_000_000
    assert caller.unary("Unary", message)[0] == message.upper()


def test_a_deadline_ends_the_call_everywhere(world: World, caller: Caller) -> None:
    world.talk.ended.clear()
    stream = caller.server_stream("Forever", b"x", timeout=0.5)
    assert next(stream) == b"x"
    with pytest.raises(grpc.RpcError, match="DEADLINE_EXCEEDED"):
        next(stream)
    assert world.talk.ended.wait(3)


def test_envoys_own_timeout_is_a_status_too(world: World) -> None:
    """The deadline is later than the timeout of the policies."""
    for way in ("edge", "egress-talk"):
        with Caller(world.ways[way]) as caller:
            started = time.monotonic()
            assert caller.status("Slow", b"4") == ("UNAVAILABLE", "upstream request timeout")
            assert 1.1 < time.monotonic() - started < 3


def test_a_status_is_retried_where_that_is_said(world: World) -> None:
    for way in ("edge", "egress-talk"):
        with Caller(world.ways[way]) as caller:
            world.talk.fails = 2
            assert caller.unary("Unsteady", b"x")[0] == b"x"
            world.talk.fails = 3
            assert caller.status("Unsteady", b"x") == ("UNAVAILABLE", "come again")


def test_an_upstream_that_is_gone_is_unavailable(world: World) -> None:
    with Caller(world.ways["egress-gone"]) as caller:
        status, message = caller.status("Unary", b"x")
        assert status == "UNAVAILABLE"
        assert "remote connection failure" in message


@pytest.mark.parametrize("way", ["egress-silent", "egress-foreign"])
def test_a_silent_stream_outlives_the_pings(world: World, way: str) -> None:
    """A gRPC server ends the connection of who pings it: with pings at 30 s, in two minutes."""
    with Caller(world.ways[way]) as caller:
        stream = caller.server_stream("Forever", b"x", timeout=1)
        assert next(stream) == b"x"
        with pytest.raises(grpc.RpcError, match="DEADLINE_EXCEEDED"):
            next(stream)


def test_access_logs_and_spans_have_the_status(world: World) -> None:
    before = len(world.lab.envoys["app", "talk"].logged())
    with Caller(world.ways["edge"]) as caller:
        caller.status("Refuses", b"x")
        caller.unary("Unary", b"x")
    logged = world.lab.envoys["app", "talk"].logged
    assert eventually(lambda: len(logged()) >= before + 2)
    assert [(each["path"], each["status"], each["grpc_status"]) for each in logged()[before:]] == [
        ("/talk.Talk/Refuses", 200, "NotFound"),
        ("/talk.Talk/Unary", 200, "OK"),
    ]

    def statuses() -> set[tuple[str, str, str | None]]:
        return {
            (span["localEndpoint"]["serviceName"], span["name"], span["tags"]["grpc.status_code"])
            for request in list(world.spans.requests)
            for span in json.loads(request.body)
            if span["tags"].get("grpc.path") == "/talk.Talk/Refuses"
        }

    wanted = {("front", "talks", "5"), ("talk", "talks", "5")}
    assert eventually(lambda: wanted <= statuses())


def test_a_client_of_http1_reaches_an_upstream_of_http2(world: World) -> None:
    address, port = world.ways["edge"].split(":")
    answer = ask(int(port), "/plain", address=address)
    assert (answer.status, answer.body) == (200, b"plain")
    assert answer.headers["x-envoy-protocol-version"] == "HTTP/2"
    last = world.lab.envoys["app", "plain"].logged
    assert eventually(lambda: any(each["path"] == "/plain" for each in last()))
    (each,) = [each for each in last() if each["path"] == "/plain"]
    assert (each["protocol"], each["grpc_status"]) == ("HTTP/2", None)


def test_health_is_asked_in_the_language_of_the_app(world: World) -> None:
    edge = world.lab.envoys["web", "front"]

    def healthy(cluster_name: str) -> int:
        return edge.counter(f"cluster.{cluster_name}.membership_healthy")

    assert eventually(lambda: healthy("talk") == 1 and healthy("plain") == 1)
    assert world.talk.seen("Check")[-1]["x-vmesh-health-check"] == "1"
    world.talk.health = NOT_SERVING
    assert eventually(lambda: healthy("talk") == 0)
    world.talk.health = SERVING
    assert eventually(lambda: healthy("talk") == 1)
