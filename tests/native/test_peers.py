"""What an edge believes of strangers, trusted peers, and peers that may control Envoy."""

from __future__ import annotations

import gzip
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.native.edges import SERVICE, WholeWay, client_of, whole_way
from tests.native.native import Request, ask, eventually, port_of

STRANGER, TRUSTED, CONTROL = "127.0.0.1", "127.0.0.2", "127.0.0.3"
CLIENT, PROXY, FORGED = "203.0.113.9", "192.0.2.77", "6.6.6.6"
BALANCED = {"x-forwarded-for": CLIENT, "x-forwarded-proto": "https"}
TRACE = "0af7651916cd43dd8448eb211c80319c"
ID = "1c2fd9f4-3b35-4b7a-9d25-3f3d9d1d2f11"
ROUTES = [
    {"prefix": "/", "to": SERVICE},
    {"path": "/old", "redirect": {"path": "/new"}},
    {"prefix": "/slow", "to": SERVICE, "timeout": 5},
]
PEERS: dict[str, Any] = {
    # The control network is part of a trusted one, and a network that is trusted is part of it.
    "trusted_cidrs": ["127.0.0.2/31", "127.0.0.3/32"],
    "control_cidrs": ["127.0.0.3/32"],
    "routes": ROUTES,
    "tracing": {"sampling": 0},
}


@pytest.fixture(scope="module")
def edge(envoy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeWay]:
    with whole_way(envoy, tmp_path_factory.mktemp("peers"), PEERS) as made:
        yield made


@pytest.mark.parametrize("source", [STRANGER, TRUSTED, CONTROL])
def test_the_app_is_told_the_address_of_who_asks(edge: WholeWay, source: str) -> None:
    forged = {"x-envoy-external-address": FORGED}
    assert client_of(edge.seen(headers=forged, source=source)) == (source, "http")


@pytest.mark.parametrize("source", [TRUSTED, CONTROL])
def test_a_trusted_peer_tells_how_its_client_came(edge: WholeWay, source: str) -> None:
    told = {**BALANCED, "x-forwarded-host": "shop.example.com", "x-forwarded-port": "443"}
    got = edge.seen(headers=told, source=source)
    assert client_of(got) == (CLIENT, "https")
    assert got.headers["x-forwarded-for"].startswith(f"{CLIENT},")
    for name in ("x-forwarded-host", "x-forwarded-port"):
        assert got.headers[name] == told[name]


def test_a_client_behind_a_trusted_peer_forges_no_address(edge: WholeWay) -> None:
    forged = {
        **BALANCED,
        "x-forwarded-for": f"{FORGED}, {CLIENT}",
        "x-envoy-external-address": FORGED,
    }
    assert client_of(edge.seen(headers=forged, source=TRUSTED))[0] == CLIENT


# What an app or a library might believe: none of these is ever a client's word.
NEVER = (
    "forwarded",
    "forwarded-for",
    "x-forwarded",
    "x-host",
    "client-ip",
    "cf-connecting-ip",
    "fastly-client-ip",
    "x-real-ip",
    "true-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-forwarded-ssl",
    "x-forwarded-protocol",
    "x-forwarded-scheme",
    "x-forwarded-prefix",
    "x-scheme",
    "x-original-url",
    "x-rewrite-url",
    "script-name",
    "path-info",
)
TRUSTED_ONLY = ("x-forwarded-host", "x-forwarded-port")


@pytest.mark.parametrize("source", [STRANGER, TRUSTED, CONTROL])
def test_nothing_else_that_apps_believe_gets_through(edge: WholeWay, source: str) -> None:
    names = (*NEVER, *TRUSTED_ONLY) if source == STRANGER else NEVER
    got = edge.seen(headers=dict.fromkeys(names, FORGED), source=source)
    assert set(names) & got.headers.keys() == set()


def test_a_stranger_says_nothing_of_where_it_comes_from(edge: WholeWay) -> None:
    got = edge.seen(headers={**BALANCED, "x-forwarded-client-cert": "By=me"})
    assert client_of(got) == (STRANGER, "http")
    assert CLIENT not in got.headers["x-forwarded-for"]
    assert "x-forwarded-client-cert" not in got.headers


@pytest.mark.parametrize(
    ("source", "headers", "scheme"),
    [(STRANGER, BALANCED, "http"), (TRUSTED, BALANCED, "https"), (TRUSTED, {}, "http")],
)
def test_a_redirect_keeps_the_scheme(
    edge: WholeWay, source: str, headers: dict[str, str], scheme: str
) -> None:
    headers = {**headers, "host": "shop.example.com"}
    answered = ask(edge.port, "/old", headers=headers, source=source)
    assert answered.headers["location"] == f"{scheme}://shop.example.com/new"


@pytest.mark.parametrize("balanced", [{}, BALANCED], ids=["itself", "for-a-client"])
def test_a_trusted_peer_keeps_its_request_id_and_trace(
    edge: WholeWay, balanced: dict[str, str]
) -> None:
    own = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "x-request-id": ID, **balanced}
    got = edge.seen(headers=own, source=TRUSTED)
    assert TRACE in got.headers["traceparent"]
    # Envoy writes into one digit why a request is traced.
    assert got.headers["x-request-id"].replace("-", "")[:12] == ID.replace("-", "")[:12]
    got = edge.seen(headers=own, source=STRANGER)
    assert TRACE not in got.headers["traceparent"]
    assert got.headers["x-request-id"][:8] != ID[:8]


@pytest.mark.parametrize("balanced", [{}, BALANCED], ids=["itself", "for-a-client"])
@pytest.mark.parametrize(
    ("source", "sampled"), [(STRANGER, "00"), (TRUSTED, "01"), (CONTROL, "01")]
)
def test_a_trusted_peer_forces_a_trace(
    edge: WholeWay, source: str, sampled: str, balanced: dict[str, str]
) -> None:
    """Here nothing else is traced."""
    got = edge.seen(headers={"x-envoy-force-trace": "1", **balanced}, source=source)
    assert got.headers["traceparent"].rpartition("-")[2] == sampled


CONTROLS = {
    "x-envoy-upstream-rq-timeout-ms": "1",
    "x-envoy-upstream-rq-per-try-timeout-ms": "1",
    "x-envoy-retry-on": "5xx",
    "x-envoy-retry-grpc-on": "cancelled",
    "x-envoy-max-retries": "9",
    "x-envoy-hedge-on-per-try-timeout": "true",
    "x-envoy-upstream-alt-stat-name": "stranger",
    "x-envoy-ip-tags": "office",
    "x-envoy-decorator-operation": "stranger",
    "x-envoy-original-url": "http://stranger.example.com",
    "x-envoy-original-path": "/stranger",
    "x-envoy-original-host": "stranger.example.com",
    "x-envoy-internal": "true",
    "x-envoy-downstream-service-cluster": "stranger",
    "x-envoy-expected-rq-timeout-ms": "7",
    "x-envoy-upstream-stream-duration-ms": "1",
    "x-envoy-attempt-count": "9",
    "x-envoy-anything-new": "1",
}


@pytest.mark.parametrize("balanced", [{}, BALANCED], ids=["itself", "for-a-client"])
@pytest.mark.parametrize("source", [STRANGER, TRUSTED])
def test_no_control_header_of_others_gets_through(
    edge: WholeWay, source: str, balanced: dict[str, str]
) -> None:
    got = edge.seen(headers={**CONTROLS, **balanced}, source=source)
    assert {name for name in CONTROLS if got.headers.get(name) == CONTROLS[name]} == set()


def test_no_peer_steers_timeouts_and_retries_unless_it_may(edge: WholeWay) -> None:
    def late(_: Request) -> tuple[int, bytes]:
        time.sleep(0.1)
        return 503, b""

    usual, edge.app.reply = edge.app.reply, late
    hasty = {"x-envoy-upstream-rq-timeout-ms": "20"}
    eager = {"x-envoy-retry-on": "5xx", "x-envoy-max-retries": "1"}
    statuses, counts = {}, {}
    try:
        for source in (STRANGER, TRUSTED, CONTROL):
            for name, balanced in (("itself", {}), ("client", BALANCED)):
                sent = {**hasty, **balanced}
                statuses[source, name] = ask(edge.port, "/slow", headers=sent, source=source).status
                before = len(edge.app.requests)
                ask(edge.port, "/slow", headers={**eager, **balanced}, source=source)
                counts[source, name] = len(edge.app.requests) - before
    finally:
        edge.app.reply = usual
    may = (CONTROL, "itself")
    assert statuses == {who: 504 if who == may else 503 for who in statuses}
    assert counts == {who: 2 if who == may else 1 for who in counts}


def test_the_access_log_names_the_client_and_the_peer(edge: WholeWay) -> None:
    edge.seen("/logged", {**BALANCED, "x-envoy-original-path": "/forged"}, TRUSTED)

    def lines() -> list[dict[str, Any]]:
        return [
            line
            for line in edge.made.access_log()
            if line["path"] == "/logged" and line["listener"] == "public"
        ]

    assert eventually(lambda: bool(lines()))
    (line,) = lines()
    assert line["downstream"].rpartition(":")[0] == CLIENT
    assert line["downstream_direct"].rpartition(":")[0] == TRUSTED


def test_of_several_trusted_proxies_each_is_a_hop(envoy: Path, tmp_path: Path) -> None:
    keys = {"trusted_cidrs": ["0.0.0.0/0"], "trusted_hops": 2}
    with whole_way(envoy, tmp_path, keys) as edge:
        hops = {**BALANCED, "x-forwarded-for": f"{FORGED}, {CLIENT}, {PROXY}"}
        assert client_of(edge.seen(headers=hops)) == (CLIENT, "https")


def _v1(address: str) -> bytes:
    return f"PROXY TCP4 {address} 127.0.0.1 5555 80\r\n".encode()


def _v2(address: str) -> bytes:
    addresses = socket.inet_aton(address) + socket.inet_aton("127.0.0.1")
    ports = struct.pack("!HH", 5555, 80)
    length = struct.pack("!H", len(addresses + ports))
    return b"\r\n\r\n\x00\r\nQUIT\n\x21\x11" + length + addresses + ports


def _request(headers: dict[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{lines}\r\n".encode()


@pytest.mark.parametrize("said", ["required", "optional"])
def test_a_balancer_tells_its_clients_address_by_the_proxy_protocol(
    said: str, envoy: Path, tmp_path: Path
) -> None:
    keys = {"trusted_cidrs": [f"{TRUSTED}/32"], "proxy_protocol": said, "tracing": {"sampling": 0}}
    forged = {
        **BALANCED,
        "x-forwarded-for": FORGED,
        "x-forwarded-host": "forged.example.com",
        "traceparent": f"00-{TRACE}-b7ad6b7169203331-01",
        "x-envoy-force-trace": "1",
        **CONTROLS,
    }
    with whole_way(envoy, tmp_path, keys) as edge:
        for head in (_v1(CLIENT), _v2(CLIENT)):
            answered = edge.raw(head + _request(forged), TRUSTED)
            assert answered is not None and answered[0] == 200
            got = edge.app.requests[-1]
            # Such a balancer reads nothing of what its clients say, so it is a stranger's word.
            assert client_of(got) == (CLIENT, "http")
            assert FORGED not in got.headers["x-forwarded-for"]
            assert "x-forwarded-host" not in got.headers
            assert TRACE not in got.headers["traceparent"]
            assert got.headers["traceparent"].endswith("-00")
        without = edge.raw(_request({}), TRUSTED)
        assert (without is not None) == (said == "optional")
        # Its health check, which is for no client, names no address.
        assert edge.raw(b"PROXY UNKNOWN\r\n" + _request({}), TRUSTED) is not None
        asked = len(edge.app.requests)
        for head in (_v1(FORGED), _v2(FORGED), b""):
            assert edge.raw(head + _request({}), STRANGER) is None
        assert len(edge.app.requests) == asked


def test_proxies_before_a_balancer_with_the_proxy_protocol_are_hops(
    envoy: Path, tmp_path: Path
) -> None:
    keys = {"trusted_cidrs": [f"{TRUSTED}/32"], "proxy_protocol": "required", "trusted_hops": 1}
    with whole_way(envoy, tmp_path, keys) as edge:
        sent = _request({**BALANCED, "x-forwarded-for": f"{FORGED}, {CLIENT}"})
        assert edge.raw(_v2(PROXY) + sent, TRUSTED) is not None
        assert client_of(edge.app.requests[-1]) == (CLIENT, "https")


OLD = b"GET / HTTP/1.0\r\n"


def _old(port: int, headers: bytes = b"", times: int = 1) -> tuple[bytes, bool]:
    """Ask by HTTP/1.0; return what came, and whether the connection stayed open."""
    with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        came = b""
        for _ in range(times):
            connection.sendall(OLD + headers + b"\r\n")
            came = b""
            while not came.endswith(b"!"):
                part = connection.recv(65536)
                if not part:
                    return came, False
                came += part
        return came, True


@pytest.mark.parametrize("taken", [False, True])
def test_old_clients_are_served_where_that_is_said(
    taken: bool, envoy: Path, tmp_path: Path
) -> None:
    keys = {"http10": taken, "domains": ["shop.example.com"], "compression": True}
    with whole_way(envoy, tmp_path, keys) as edge:
        edge.app.reply = lambda _: (200, b"hello!")
        if not taken:
            assert _old(edge.port)[0].startswith(b"HTTP/1.1 426 ")
        else:
            came, _ = _old(edge.port)
            assert came.startswith(b"HTTP/1.0 200 ") and b"connection: close" in came
            assert edge.app.requests[-1].headers["host"] == "shop.example.com"
            came, is_open = _old(edge.port, b"Connection: keep-alive\r\n", times=2)
            assert is_open and b"connection: keep-alive" in came
            assert _old(edge.port, b"Host: other.example.com\r\n")[0].startswith(b"HTTP/1.0 404 ")
            # An answer of unknown length ends with the connection, as that time has no chunks.
            edge.app.reply = lambda _: (200, b"x" * 3000)
            came, is_open = _old(edge.port, b"Connection: keep-alive\r\nAccept-Encoding: gzip\r\n")
            head, _, body = came.partition(b"\r\n\r\n")
            assert (b"chunked" in head, b"content-length" in head, is_open) == (False, False, False)
            assert gzip.decompress(body) == b"x" * 3000
            edge.app.reply = lambda _: (200, b"hello!")
        # Apps and their health checks inside the mesh may always be old.
        inner = port_of(edge.made.plan, "ingress")
        assert _old(inner)[0].startswith(b"HTTP/1.0 200 ")
        assert edge.app.requests[-1].headers["host"] == SERVICE
