"""What an edge's routes do, by the real Envoy: every kind of match, action and filter."""

from __future__ import annotations

import gzip
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.native.native import (
    Answer,
    Client,
    Request,
    Upstream,
    ask,
    eventually,
    free_port,
    on_loopback,
    port_of,
    running,
    send_to,
)
from tests.native.views import (
    answer,
    cluster,
    collector,
    host,
    listener,
    match,
    proxy,
    public,
    route,
    table,
)
from vmesh.compile.host_spec import View

ORIGIN = "https://shop.example.com"
CORS = {
    "origins": [ORIGIN],
    "methods": ["GET", "PUT"],
    "headers": ["content-type", "x-csrf"],
    "expose": ["x-upstream"],
    "credentials": True,
    "max_age": 600,
}
LIMIT = {"tokens": 1, "interval": 60.0, "burst": 3, "retry_after": 60}
SOON = {"tokens": 1, "interval": 0.3, "burst": 1, "retry_after": 1}
LONG = "ä" * 4096
ODD = '{"a": "%TRACE_ID%\\n"}\r\n\t# \u20ac \U0001f600 \u2028\x85 {{ x }} \\ud83d'

REDIRECTS: dict[str, tuple[View, int, str]] = {
    "/r/scheme": ({"scheme": "https", "status": 301}, 301, "https://edge.example.com/r/scheme"),
    "/r/host": ({"host": "new.example.com", "status": 302}, 302, "http://new.example.com/r/host"),
    "/r/port": ({"port": 8443, "status": 303}, 303, "http://edge.example.com:8443/r/port"),
    "/r/path": ({"path": "/new", "status": 307}, 307, "http://edge.example.com/new"),
    "/r/prefix": ({"prefix": "/p", "status": 308}, 308, "http://edge.example.com/p"),
}


def _routes() -> list[View]:
    """Return the routes of the virtual host for all domains, one for each behaviour."""
    return [
        *(answer(path, redirect=said) for path, (said, _, _) in REDIRECTS.items()),
        answer("/answer", answer={"status": 418, "body": "no coffee\n"}),
        answer("/empty", answer={"status": 404, "body": ""}),
        answer("/odd", answer={"status": 200, "body": ODD}),
        answer("/long", answer={"status": 200, "body": LONG}),
        route("/rewrite/prefix", "one", rewrite={"prefix": "/short"}),
        route(
            "/rewrite/regex",
            "one",
            rewrite={"regex": "^/rewrite/regex/(\\w+)/(\\w+)$", "substitution": "/\\2/\\1"},
        ),
        route("/rewrite/host", "one", rewrite={"prefix": "/", "host": "inner.example.com"}),
        route("", "one", match={"path": "/exact", "headers": []}),
        route("", "one", match={"regex": "/item/[0-9]+", "headers": []}),
        route("", "one", match=match("/get", headers=[{"name": ":method", "exact": "GET"}])),
        route("", "two", match=match("/get", headers=[{"name": ":method", "regex": "PUT|POST"}])),
        route("", "two", match=match("/h", headers=[{"name": "x-exact", "exact": "yes"}])),
        route("", "two", match=match("/h", headers=[{"name": "x-prefix", "prefix": "beta-"}])),
        route("", "two", match=match("/h", headers=[{"name": "x-regex", "regex": "[0-9]+"}])),
        route("", "two", match=match("/h", headers=[{"name": "x-there", "present": True}])),
        route("", "one", match=match("/h", headers=[{"name": "x-absent", "present": False}])),
        route("/weights", weights=_weights(one=80, two=20, copy=0)),
        route("/mirror", "one", mirror={"cluster": "copy", "percent": 100.0}),
        route("/unmirrored", "one", mirror={"cluster": "copy", "percent": 0.0}),
        route("/late", "one", filters={"fault": {"delay": {"seconds": 0.3, "percent": 100.0}}}),
        route("/fails", "one", filters={"fault": {"abort": {"status": 599, "percent": 100.0}}}),
        route("/spared", "one", filters={"fault": {"abort": {"status": 599, "percent": 0.0}}}),
        route("/limited", "one", filters={"rate_limit": LIMIT}),
        route("/refilled", "one", filters={"rate_limit": SOON}),
        route("/small", "one", filters={"max_request_bytes": 100_000}),
        route("/zipped", "one", filters={"compression": True}),
        route("/plain", "one"),
        route("/cors", "one", filters={"cors": CORS}),
        route("/open", "one", filters={"cors": {**CORS, "origins": ["*"], "credentials": False}}),
        route("/slow", "one", timeout=0.2),
        route("/silent", "one", timeout=None, idle_timeout=0.2),
        route("/patient", "one", timeout=None),
        route("/ws/closed", "inner"),
        route("/ws/", "inner", websocket=True, timeout=None, idle_timeout=60.0),
        route("/ws-timed/", "inner", websocket=True, timeout=0.3),
        route("/broken", "broken"),
        route("/repeated", "broken", retry={"on": "5xx", "attempts": 1, "per_try_timeout": None}),
    ]


def _weights(**weights: int) -> list[View]:
    return [{"cluster": name, "weight": weight} for name, weight in weights.items()]


def _hosts() -> list[View]:
    limited = [
        route("/own", "one", filters={"rate_limit": {**LIMIT, "burst": 50}}),
        route("/", "one"),
    ]
    zipped = [route("/not", "one", filters={"compression": False}), route("/", "one")]
    return [
        host("all", _routes()),
        host("shop", [route("/", "two")], domains=["shop.example.com", "*.shop.example.com"]),
        host("limited", limited, domains=["limited.example.com"], filters={"rate_limit": LIMIT}),
        host("zipped", zipped, domains=["zipped.example.com"], filters={"compression": True}),
    ]


class Edge:
    """A running edge, and the upstreams behind it by name."""

    def __init__(self, port: int, upstreams: dict[str, Upstream]) -> None:
        self.port, self.upstreams = port, upstreams

    def ask(self, path: str, method: str = "GET", body: Any = None, **headers: str) -> Answer:
        """Send a request; _ in the names of `headers` becomes -."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return ask(self.port, path, method, named, body)

    def seen(self, path: str, upstream: str = "one") -> int:
        """Return how often an upstream was asked for a path that begins so."""
        return sum(each.startswith(path) for each in self.upstreams[upstream].paths())


@pytest.fixture(scope="module")
def edge(envoy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    with ExitStack() as stack:
        upstreams = {
            name: stack.enter_context(Upstream(name)) for name in ("one", "two", "copy", "broken")
        }
        upstreams["broken"].answers(503)
        plan = on_loopback(
            proxy(
                [public(), listener("ingress")],
                {
                    "public": table(*_hosts(), tell_trace=True),
                    "ingress": table(host("all", [route("/", "one", timeout=None)])),
                },
                [
                    *(cluster(name, each.port) for name, each in upstreams.items()),
                    cluster("inner", 0),
                    collector(free_port()),
                ],
            )
        )
        send_to(plan, "inner", port_of(plan, "ingress"))
        stack.enter_context(running(envoy, tmp_path_factory.mktemp("edge"), plan))
        yield Edge(port_of(plan, "public"), upstreams)


@pytest.mark.parametrize("path", REDIRECTS)
def test_a_redirect_names_the_new_place(edge: Edge, path: str) -> None:
    _, status, location = REDIRECTS[path]
    answered = edge.ask(path, host="edge.example.com")
    assert (answered.status, answered.headers["location"]) == (status, location)


def test_an_answer_of_the_edge_itself(edge: Edge) -> None:
    answered = edge.ask("/answer")
    assert (answered.status, answered.text, answered.upstream) == (418, "no coffee\n", "")
    assert edge.ask("/empty").status == 404
    assert edge.ask("/long").text == LONG
    assert edge.ask("/odd").text == ODD


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("/rewrite/prefix/a?b=c", "/short/a?b=c"),
        ("/rewrite/regex/left/right?b=c", "/right/left?b=c"),
        ("/rewrite/host", "/"),
    ],
)
def test_the_upstream_sees_the_rewritten_path(edge: Edge, path: str, seen: str) -> None:
    assert edge.ask(path).status == 200
    assert edge.upstreams["one"].requests[-1].path == seen


def test_the_upstream_sees_the_rewritten_host(edge: Edge) -> None:
    assert json.loads(edge.ask("/rewrite/host", host="a").body)["host"] == "inner.example.com"
    assert json.loads(edge.ask("/rewrite/prefix", host="a").body)["host"] == "a"


@pytest.mark.parametrize(
    ("method", "path", "headers", "upstream"),
    [
        ("GET", "/exact", {}, "one"),
        ("GET", "/exact?query", {}, "one"),
        ("GET", "/exactly", {}, ""),
        ("GET", "/item/42", {}, "one"),
        ("GET", "/item/42/more", {}, ""),
        ("GET", "/get", {}, "one"),
        ("POST", "/get", {}, "two"),
        ("DELETE", "/get", {}, ""),
        ("GET", "/h", {"x-exact": "yes"}, "two"),
        ("GET", "/h", {"x-exact": "yes!"}, "one"),
        ("GET", "/h", {"x-prefix": "beta-1"}, "two"),
        ("GET", "/h", {"x-prefix": "a beta-1"}, "one"),
        ("GET", "/h", {"x-regex": "12"}, "two"),
        ("GET", "/h", {"x-regex": "12a"}, "one"),
        ("GET", "/h", {"x-there": ""}, "two"),
        ("GET", "/h", {"x-absent": "not"}, ""),
    ],
)
def test_a_route_matches_what_it_says(
    edge: Edge, method: str, path: str, headers: dict[str, str], upstream: str
) -> None:
    answered = ask(edge.port, path, method, headers)
    assert (answered.status, answered.upstream) == (200 if upstream else 404, upstream)


@pytest.mark.parametrize(
    ("name", "upstream"),
    [
        ("shop.example.com", "two"),
        ("shop.example.com:8000", "two"),
        ("a.shop.example.com", "two"),
        ("other.example.com", "one"),
    ],
)
def test_a_site_is_found_by_its_domain_at_any_port(edge: Edge, name: str, upstream: str) -> None:
    assert edge.ask("/plain", host=name).upstream == upstream


def test_requests_are_spread_by_weight(edge: Edge) -> None:
    client = Client(edge.port)
    asked = [client.ask("/weights").upstream for _ in range(300)]
    client.close()
    assert 30 < asked.count("two") < 90  # 60 are expected, and 30 are more than four deviations
    assert "copy" not in asked


def test_a_mirror_gets_a_copy_and_is_not_heard(edge: Edge) -> None:
    copy = edge.upstreams["copy"]
    copy.answers(500)
    assert edge.ask("/unmirrored").upstream == "one"
    answered = edge.ask("/mirror/a", "POST", b"body", host="shop.test")
    assert (answered.status, answered.upstream) == (200, "one")
    assert eventually(lambda: edge.seen("/mirror/a", "copy") == 1)
    copied = copy.requests[-1]
    assert (copied.method, copied.headers["host"], copied.body) == ("POST", "shop.test", b"body")
    assert copied.headers["traceparent"].split("-")[1] == answered.headers["x-trace-id"]
    assert edge.seen("/unmirrored", "copy") == 0


def test_a_fault_makes_requests_late(edge: Edge) -> None:
    began = time.monotonic()
    assert edge.ask("/late").status == 200
    assert time.monotonic() - began > 0.25


def test_a_fault_answers_instead_of_the_upstream(edge: Edge) -> None:
    assert edge.ask("/fails").status == 599
    assert edge.seen("/fails") == 0
    assert edge.ask("/spared").status == 200


def test_more_requests_than_the_limit_are_told_when_to_come_again(edge: Edge) -> None:
    answers = [edge.ask("/limited") for _ in range(4)]
    assert [each.status for each in answers] == [200, 200, 200, 429]
    assert answers[-1].headers["retry-after"] == "60"
    assert "retry-after" not in answers[0].headers


def test_requests_pass_again_after_a_while(edge: Edge) -> None:
    assert eventually(lambda: edge.ask("/refilled").status == 429)
    time.sleep(0.4)
    assert edge.ask("/refilled").status == 200


def test_a_limit_of_a_site_counts_all_of_it_but_routes_with_their_own(edge: Edge) -> None:
    name = "limited.example.com"
    assert all(edge.ask("/own", host=name).status == 200 for _ in range(6))
    statuses = [edge.ask(path, host=name).status for path in ("/a", "/b", "/c", "/d")]
    assert statuses == [200, 200, 200, 429]


def test_a_large_body_is_refused_whether_its_size_is_told_or_not(edge: Edge) -> None:
    assert edge.ask("/small", "POST", b"x" * 100_000).status == 200
    assert edge.upstreams["one"].requests[-1].body == b"x" * 100_000
    before = edge.seen("/small")
    assert edge.ask("/small", "POST", b"x" * 100_001).status == 413
    pieces = iter([b"186a1\r\n" + b"x" * 100_001 + b"\r\n0\r\n\r\n"])
    chunked = edge.ask("/small", "POST", pieces, transfer_encoding="chunked")
    assert chunked.status == 413
    assert edge.seen("/small") == before
    assert edge.ask("/plain", "POST", b"x" * 300_000).status == 200


def test_answers_are_compressed_only_where_that_is_switched_on(edge: Edge) -> None:
    def encoding(path: str, **headers: str) -> str:
        answered = edge.ask(path, accept_encoding="gzip", **headers)
        assert answered.status == 200
        return answered.headers.get("content-encoding", "")

    padding = "x" * 2000
    answered = edge.ask("/zipped", accept_encoding="gzip", x_padding=padding)
    assert answered.headers["content-encoding"] == "gzip"
    assert json.loads(gzip.decompress(answered.body))["x-padding"] == padding
    assert encoding("/zipped") == ""  # too short to gain by it
    assert encoding("/plain", x_padding=padding) == ""
    assert encoding("/any", x_padding=padding, host="zipped.example.com") == "gzip"
    assert encoding("/not", x_padding=padding, host="zipped.example.com") == ""
    assert "content-encoding" not in edge.ask("/zipped", x_padding=padding).headers


def test_a_browser_may_ask_from_another_site_that_is_named(edge: Edge) -> None:
    before = edge.seen("/cors")
    asked = {"origin": ORIGIN, "access_control_request_method": "PUT"}
    preflight = edge.ask("/cors", "OPTIONS", **asked)
    told = {k.removeprefix("access-control-"): v for k, v in preflight.headers.items()}
    assert preflight.status == 200
    assert edge.seen("/cors") == before
    assert told["allow-origin"] == ORIGIN
    assert told["allow-methods"] == "GET, PUT"
    assert told["allow-headers"] == "content-type, x-csrf"
    assert (told["allow-credentials"], told["max-age"]) == ("true", "600")
    answered = edge.ask("/cors", origin=ORIGIN)
    assert answered.headers["access-control-allow-origin"] == ORIGIN
    assert answered.headers["access-control-expose-headers"] == "x-upstream"


def test_another_site_that_is_not_named_learns_nothing(edge: Edge) -> None:
    asked = {"origin": "https://evil.example.com", "access_control_request_method": "PUT"}
    for answered in (edge.ask("/cors", "OPTIONS", **asked), edge.ask("/cors", **asked)):
        assert not [name for name in answered.headers if name.startswith("access-control")]
    assert "access-control-allow-origin" not in edge.ask("/plain", origin=ORIGIN).headers


def test_all_sites_may_ask_where_the_origin_is_a_star(edge: Edge) -> None:
    answered = edge.ask("/open", origin="https://any.example.com")
    allowed = answered.headers["access-control-allow-origin"]
    assert allowed in ("*", "https://any.example.com")
    assert "access-control-allow-credentials" not in answered.headers


def test_a_slow_upstream_is_given_up_at_the_timeout(edge: Edge) -> None:
    one = edge.upstreams["one"]
    usual = one.reply

    def late(request: Request) -> tuple[int, bytes]:
        time.sleep(0.5)
        return usual(request)

    one.reply = late
    try:
        assert edge.ask("/slow").status == 504
        assert edge.ask("/silent").status == 504
        assert edge.ask("/patient").status == 200
    finally:
        one.reply = usual


def _upgrade(port: int, path: str) -> tuple[socket.socket, int]:
    """Ask for a WebSocket; return the connection and the status of the answer."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=5)
    connection.sendall(
        f"GET {path} HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(1) or b"\r\n\r\n"
    return connection, int(head.split()[1])


@pytest.mark.parametrize("path", ["/ws/chat", "/ws-timed/chat"])
def test_a_websocket_passes_all_hops_and_outlives_timeouts(edge: Edge, path: str) -> None:
    connection, status = _upgrade(edge.port, path)
    with connection:
        assert status == 101
        connection.sendall(b"first")
        assert connection.recv(100) == b"first"
        time.sleep(0.5)
        connection.sendall(b"second")
        assert connection.recv(100) == b"second"


def test_a_websocket_is_refused_where_the_route_does_not_allow_it(edge: Edge) -> None:
    connection, status = _upgrade(edge.port, "/ws/closed")
    connection.close()
    assert status == 403


def test_what_an_upstream_refuses_is_not_sent_again_unless_asked_for(edge: Edge) -> None:
    assert edge.ask("/broken").status == 503
    assert edge.seen("/broken", "broken") == 1
    assert edge.ask("/repeated").status == 503
    assert edge.seen("/repeated", "broken") == 2
