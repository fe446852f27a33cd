"""Each row of docs/limits.md, tried on the whole way of a request: client, edge, service, app."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.native.edges import SERVICE, WholeWay, service_plan, whole_way
from tests.native.native import (
    Native,
    Request,
    Upstream,
    ask,
    eventually,
    free_port,
    port_of,
    running,
    send_to,
)
from vmesh.base import paths
from vmesh.model import schema

PAGE = (paths.PROJECT / "docs" / "limits.md").read_text()
Row = dict[str, str]
CLOSE = b"connection: close\r\n"


def _tables(text: str) -> dict[str, list[Row]]:
    """Return the rows of each section's table, by the names of their columns."""
    found: dict[str, list[Row]] = {}
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        lines = [line for line in section.splitlines() if line.startswith("|")]
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        rows = [dict(zip(cells[0], each, strict=True)) for each in cells[2:]]
        found[section.splitlines()[0]] = rows
    return found


TABLES = _tables(PAGE)
REFUSED = {row["request"]: row for row in TABLES["Requests that an edge refuses"]}
SIZES = {row["what"]: row for row in TABLES["Sizes and numbers"]}
TIMES = {row["what"]: row for row in TABLES["Times"]}


@pytest.fixture(scope="module")
def way(envoy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeWay]:
    with whole_way(envoy, tmp_path_factory.mktemp("way"), {}) as made:
        yield made


def _lines(way: WholeWay, listener: str) -> list[dict[str, Any]]:
    return [line for line in way.made.access_log() if line["listener"] == listener]


@contextmanager
def logged(way: WholeWay, row: Row, listener: str = "public") -> Iterator[None]:
    """See that the requests sent meanwhile end in the access log as `row` says."""
    before = len(_lines(way, listener))
    wanted = int(row["status"]), row["flag"].strip("`")

    def found() -> list[tuple[int, str]]:
        return [(line["status"], line["flags"]) for line in _lines(way, listener)[before:]]

    yield
    assert eventually(lambda: wanted in found(), 3), found()


def _get(path: str = "/", *headers: str) -> bytes:
    return b"\r\n".join(
        [
            f"GET {path} HTTP/1.1".encode(),
            b"host: a",
            *(each.encode() for each in headers),
            b"",
            b"",
        ]
    )


POST = b"POST / HTTP/1.1\r\nhost: a\r\n"
REQUESTS: dict[str, list[bytes]] = {
    "HTTP/1.0": [b"GET / HTTP/1.0\r\nhost: a\r\n\r\n"],
    "no `Host` header": [b"GET / HTTP/1.1\r\n\r\n"],
    "a header name with `_`": [_get("/", "a_b: c")],
    "an escaped slash in the path (`%2F`)": [_get("/a%2Fb"), _get("/a%2fb"), _get("/a%5Cb")],
    "`%00` or `#` in the path": [_get("/%00"), _get("/a#b")],
    "a path with bytes beyond ASCII": [_get("/é")],
    "a control character in a header's value": [_get("/", "x: a\x01b")],
    "a method that HTTP does not know": [b"FOO / HTTP/1.1\r\nhost: a\r\n\r\n"],
    "`CONNECT`": [b"CONNECT a:80 HTTP/1.1\r\nhost: a\r\n\r\n"],
    "`Content-Length` twice, or beside `Transfer-Encoding`": [
        POST + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab",
        POST + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
    "a `Transfer-Encoding` other than `chunked`": [POST + b"transfer-encoding: gzip\r\n\r\n"],
    "a host or path without a route": [],  # with routes of its own below
    "a WebSocket, where the route does not allow it": [
        _get(
            "/",
            "connection: upgrade",
            "upgrade: websocket",
            "sec-websocket-key: eA==",
            "sec-websocket-version: 13",
        )
    ],
}


@pytest.mark.parametrize("request_kind", REQUESTS)
def test_an_edge_refuses(way: WholeWay, request_kind: str) -> None:
    row = REFUSED[request_kind]
    seen = len(way.app.requests)
    for sent in REQUESTS[request_kind]:
        with logged(way, row):
            answered = way.raw(sent)
        assert answered is not None
        assert answered[0] == int(row["status"])
    assert len(way.app.requests) == seen


def test_what_no_route_matches_is_not_found(envoy: Path, tmp_path: Path) -> None:
    row = REFUSED["a host or path without a route"]
    edge = {"domains": ["a.example"], "routes": [{"prefix": "/shop", "to": SERVICE}]}
    with whole_way(envoy, tmp_path, edge) as way:
        for sent in (_get("/else"), _get("/shop").replace(b"host: a", b"host: b.example")):
            with logged(way, row):
                answered = way.raw(sent)
            assert answered is not None
            assert answered[0] == int(row["status"])


# Sizes


def _number(row: Row) -> int:
    found = re.fullmatch(r"([0-9]+)( KiB)?", row["limit"])
    assert found, row
    return int(found[1]) * (1024 if found[2] else 1)


def _status(way: WholeWay, sent: bytes) -> int:
    answered = way.raw(sent)
    assert answered is not None
    return answered[0]


def request_headers(way: WholeWay, row: Row) -> None:
    limit = _number(row)
    name = b"x: "
    around = len(_get()) + len(name) + 2
    for where in ("header", "path"):
        for size, refused in ((limit - 100, False), (limit + 100, True)):
            more = size - around
            filled = _get("/" + "y" * more) if where == "path" else _get("/", "x: " + "y" * more)
            if refused:
                with logged(way, row):
                    assert _status(way, filled) == int(row["status"])
            else:
                assert _status(way, filled) == 200


def request_header_count(way: WholeWay, row: Row) -> None:
    limit = _number(row)
    many = [f"x-{number}: y" for number in range(limit)]
    with logged(way, row):
        assert _status(way, _get("/", *many)) == int(row["status"])  # host is one more
    # http.server, which is the app here, takes fewer than Envoy.
    assert _status(way, _get("/", *many[:80])) == 200


def request_body(way: WholeWay, row: Row) -> None:
    assert row["limit"] == "no limit"
    sent = POST + CLOSE + b"content-length: 3000000\r\n\r\n" + b"x" * 3_000_000
    assert _status(way, sent) == 200
    assert len(way.app.requests[-1].body) == 3_000_000


def answer_headers(way: WholeWay, row: Row) -> None:
    limit = _number(row)
    # http.client, which is the client here, takes no line above 64 KiB.
    fits = [(f"x-{number}", "y" * (limit // 4 - 200)) for number in range(4)]
    _answers(way, row, fits=fits, exceeds=[*fits, ("x", "y" * 1000)])


def answer_header_count(way: WholeWay, row: Row) -> None:
    many = [(f"x-{number}", "y") for number in range(_number(row))]
    _answers(way, row, fits=many[:-10], exceeds=many)


def _answers(
    way: WholeWay, row: Row, fits: list[tuple[str, str]], exceeds: list[tuple[str, str]]
) -> None:
    way.app.headers = fits
    try:
        assert _status(way, _get()) == 200
        way.app.headers = exceeds
        # The service's own Envoy meets the limit, and answers so; that is what the edge logs too.
        with logged(way, row, "ingress"):
            assert _status(way, _get()) == int(row["status"])
    finally:
        way.app.headers = []


def kept_body(way: WholeWay, row: Row) -> None:
    for name in ("public", "ingress"):
        table = _dump(way.made, "route_configs")[name]
        for route in table["virtual_hosts"][0]["routes"]:
            assert route["request_body_buffer_limit"] == str(_number(row)), name


def in_flight(way: WholeWay, row: Row) -> None:
    for cluster in way.made.proxy.admin.get("/clusters")[1].splitlines():
        if cluster.startswith(f"{SERVICE}::default_priority::max_requests::"):
            assert int(cluster.rpartition("::")[2]) == _number(row)
            return
    pytest.fail("no such line")


def waiting(way: WholeWay, row: Row) -> None:
    text = way.made.proxy.admin.get("/clusters")[1]
    assert f"{SERVICE}::default_priority::max_pending_requests::{_number(row)}\n" in text


def connections(way: WholeWay, row: Row) -> None:
    _, text = way.made.proxy.admin.get("/config_dump")
    assert f'"max_active_downstream_connections": "{_number(row)}"' in text


def streams(way: WholeWay, row: Row) -> None:
    assert f'"max_concurrent_streams": {_number(row)}' in _listener(way)


def _listener(way: WholeWay) -> str:
    _, text = way.made.proxy.admin.get("/config_dump?resource=dynamic_listeners")
    return json.dumps(json.loads(text))


SIZE_CASES: dict[str, Callable[[WholeWay, Row], None]] = {
    "a request's headers, its first line included": request_headers,
    "number of a request's headers": request_header_count,
    "a request's body": request_body,
    "bytes of a body that Envoy keeps to send it again": kept_body,
    "an answer's headers": answer_headers,
    "number of an answer's headers": answer_header_count,
    "requests at once on a client's HTTP/2 connection": streams,
    "connections of clients to one Envoy": connections,
    "requests to one upstream, in flight from one Envoy": in_flight,
    "requests that wait for a connection": waiting,
}


@pytest.mark.parametrize("what", SIZE_CASES)
def test_a_size_or_number_is_what_the_page_says(way: WholeWay, what: str) -> None:
    SIZE_CASES[what](way, SIZES[what])


CLIENT_LIMITS: dict[str, tuple[dict[str, Any], list[bytes]]] = {
    "a request's body": (
        {"max_request_bytes": 10},
        [POST + b"content-length: 11\r\n\r\n12345678901"],
    ),
    "requests of all clients": ({"rate_limit": {"requests": 1, "per": "hour"}}, [_get(), _get()]),
}


@pytest.mark.parametrize("what", CLIENT_LIMITS)
def test_a_limit_that_is_set_answers_as_the_page_says(
    envoy: Path, tmp_path: Path, what: str
) -> None:
    edge, requests = CLIENT_LIMITS[what]
    row = SIZES[what]
    assert row["limit"] == "no limit"
    with whole_way(envoy, tmp_path, edge) as way:
        *before, last = requests
        assert all(_status(way, each) == 200 for each in before)
        with logged(way, row):
            assert _status(way, last) == int(row["status"])


@pytest.mark.parametrize(
    "what",
    [
        "requests to one upstream, in flight from one Envoy",
        "requests that wait for a connection",
    ],
)
def test_more_than_a_circuit_breaker_allows_is_refused(
    envoy: Path, tmp_path: Path, what: str
) -> None:
    row = SIZES[what]
    breaker = (
        {"max_requests": 1}
        if "flight" in what
        else {"max_connections": 1, "max_pending_requests": 1}
    )
    edge = {"calls": {SERVICE: {"circuit_breaker": breaker, "retries": {"attempts": 0}}}}
    with whole_way(envoy, tmp_path, edge) as way:
        go_on = threading.Event()

        def waits(request: Request) -> tuple[int, bytes]:
            go_on.wait(10)
            return 200, b""

        way.app.reply = waits
        statuses: list[int] = []
        threads = [
            threading.Thread(target=lambda: statuses.append(_status(way, _get()))) for _ in range(4)
        ]
        with logged(way, row):
            for thread in threads:
                thread.start()
        go_on.set()
        for thread in threads:
            thread.join()
        assert {200, int(row["status"])} == set(statuses)


def test_a_request_is_tried_as_often_as_the_page_says(envoy: Path, tmp_path: Path) -> None:
    row = SIZES["attempts of a request that failed"]
    plan = service_plan(SERVICE)
    send_to(plan, "pay", free_port())
    with running(envoy, tmp_path, plan) as made:
        assert ask(port_of(plan, "egress-pay")).status == int(row["status"])
        assert eventually(lambda: bool(made.access_log()))
        assert made.access_log()[-1]["flags"] == row["flag"].strip("`")
        _, text = made.proxy.admin.get("/stats?filter=cluster.pay.upstream_rq_retry$")
        assert int(text.rpartition(": ")[2]) + 1 == _number(row)


# Times


def _dump(made: Native, kind: str) -> dict[str, Any]:
    """Return what the running Envoy has of a kind of resource, by name."""
    dump = json.loads(made.proxy.admin.get("/config_dump")[1])
    found = {}
    for config in dump["configs"]:
        for each in config.get(f"dynamic_{kind}", config.get(f"dynamic_active_{kind}", ())):
            resource = each.get("active_state", each)
            (inner,) = [
                resource[key] for key in ("listener", "cluster", "route_config") if key in resource
            ]
            found[inner["name"]] = inner
    return found


def _manager(listener: dict[str, Any]) -> dict[str, Any]:
    manager: dict[str, Any] = listener["filter_chains"][-1]["filters"][0]["typed_config"]
    return manager


def _action(table: dict[str, Any]) -> dict[str, Any]:
    action: dict[str, Any] = table["virtual_hosts"][0]["routes"][-1]["route"]
    return action


def _idle(cluster: dict[str, Any]) -> str:
    (options,) = cluster["typed_extension_protocol_options"].values()
    idle: str = options["common_http_protocol_options"]["idle_timeout"]
    return idle


def test_times_are_what_the_page_says(envoy: Path, way: WholeWay, tmp_path: Path) -> None:
    caller = service_plan(SERVICE)
    with running(envoy, tmp_path, caller) as calling:
        egress = _action(_dump(calling, "route_configs")["egress-pay"])
    listener = _manager(_dump(way.made, "listeners")["public"])
    clusters = _dump(way.made, "clusters")
    route = _action(_dump(way.made, "route_configs")["public"])
    assert {
        "until a client has sent its headers": listener["request_headers_timeout"],
        "until an edge's answer is complete": route["timeout"],
        "until the answer to a call inside the mesh is complete": egress["timeout"],
        "until an instance has taken a connection": clusters[SERVICE]["connect_timeout"],
        "without a byte in either direction": route["idle_timeout"],
        "a client's connection without a request": listener["common_http_protocol_options"][
            "idle_timeout"
        ],
        "a connection to an instance without a request": _idle(clusters[SERVICE]),
        "a connection to an app without a request": _idle(clusters["local_app"]),
    } == {what: f"{row['seconds']}s" for what, row in TIMES.items()}


SHORT: dict[str, dict[str, Any]] = {
    "until an edge's answer is complete": {"timeout": 0.2},
    "without a byte in either direction": {"timeout": "none", "idle_timeout": 0.2},
}


@pytest.mark.parametrize("what", SHORT)
def test_an_answer_that_takes_too_long_is_given_up(envoy: Path, tmp_path: Path, what: str) -> None:
    edge = {"routes": [{"prefix": "/", "to": SERVICE, **SHORT[what]}]}
    with whole_way(envoy, tmp_path, edge) as way:
        way.app.reply = _late
        with logged(way, TIMES[what]):
            assert _status(way, _get()) == int(TIMES[what]["status"])


def _late(_: Request) -> tuple[int, bytes]:
    time.sleep(1)
    return 200, b""


def test_a_call_that_takes_too_long_is_given_up(envoy: Path, tmp_path: Path) -> None:
    row = TIMES["until the answer to a call inside the mesh is complete"]
    plan = service_plan(SERVICE, {"pay": {"timeout": 0.2}})
    with Upstream("pay") as pay:
        pay.reply = _late
        send_to(plan, "pay", pay.port)
        with running(envoy, tmp_path, plan) as made:
            assert ask(port_of(plan, "egress-pay")).status == int(row["status"])
            assert eventually(lambda: bool(made.access_log()))
            assert made.access_log()[-1]["flags"] == row["flag"].strip("`")


def test_an_instance_that_takes_no_connection_is_given_up(envoy: Path, tmp_path: Path) -> None:
    row = TIMES["until an instance has taken a connection"]
    plan = service_plan(SERVICE, {"pay": {"connect_timeout": 0.1}})
    with socket.socket() as deaf, socket.socket() as first:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        first.connect(deaf.getsockname())  # which fills its queue
        send_to(plan, "pay", deaf.getsockname()[1])
        with running(envoy, tmp_path, plan) as made:
            assert ask(port_of(plan, "egress-pay")).status == int(row["status"])
            assert eventually(lambda: bool(made.access_log()))
            assert made.access_log()[-1]["flags"] == row["flag"].strip("`")


@pytest.mark.slow
def test_a_client_that_is_slow_with_its_headers_is_given_up(way: WholeWay) -> None:
    row = TIMES["until a client has sent its headers"]
    with logged(way, row), socket.create_connection(("127.0.0.1", way.port), timeout=15) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\n")
        assert slow.recv(100).startswith(f"HTTP/1.1 {row['status']} ".encode())


# The page as a whole


def test_every_row_is_tried() -> None:
    assert set(REFUSED) == set(REQUESTS)
    apart = {"requests of all clients", "attempts of a request that failed"}
    assert set(SIZES) == set(SIZE_CASES) | apart


@pytest.mark.parametrize("row", [row for rows in TABLES.values() for row in rows], ids=str)
def test_every_key_is_one_of_the_reference(row: Row) -> None:
    reference = (paths.PROJECT / "docs" / "reference.md").read_text()
    for anchor in re.findall(r"reference\.md#([\w.-]+)", row["key"]):
        assert f'<a id="{anchor}"></a>' in reference, anchor


def test_what_an_app_gets_by_default_is_what_the_page_says() -> None:
    rows = {row["what"]: row["limit"] for row in TABLES["What gunicorn and Flask add"]}
    app = schema.filled({}, schema.load()["$defs"]["app"])
    assert rows["requests that an instance serves at once"].endswith(
        f": {app['workers'] * app['threads']}"
    )
    assert rows["seconds for requests that run when a new release takes over"] == str(app["grace"])
