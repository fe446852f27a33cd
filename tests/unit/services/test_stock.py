"""The example shop's stock, the application in another language: HTTP as an Envoy relies on it."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from vmesh.base.paths import PROJECT

PROGRAM = PROJECT / "services" / "stock" / "stock.pl"


@dataclass(frozen=True)
class Stock:
    """A running stock."""

    port: int
    process: subprocess.Popen[str]

    def said(self, text: str, *, more: tuple[str, ...] = ()) -> str:
        """Send bytes as written, in pieces; return all that comes until the stock hangs up."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            for piece in (text, *more):
                connection.sendall(piece.encode())
            parts = iter(lambda: connection.recv(65536), b"")
            return b"".join(parts).decode()


@pytest.fixture
def stock() -> Iterator[Stock]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen(
        ["perl", str(PROGRAM)],
        env={
            "LISTEN": f"127.0.0.1:{port}",
            "SERVICE_NAME": "stock",
            "MESH_ADDRESS": "198.18.0.32",
        },
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"listening on 127.0.0.1:{port}\n"
        yield Stock(port, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_it_tells_who_answers_as_the_shop_s_services_do(stock: Stock) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", stock.port, timeout=10)
    for _ in range(3):  # on one connection
        connection.request("GET", "/checkout")
        response = connection.getresponse()
        assert (response.status, response.headers["content-type"]) == (200, "application/json")
        answer = json.loads(response.read())
        assert re.fullmatch(r"perl v5\..*", answer.pop("version"))
        assert answer == {
            "service": "stock",
            "instance": socket.gethostname(),
            "address": "198.18.0.32",
            "upstreams": {},
        }
    connection.close()


def test_nothing_of_a_request_comes_back(stock: Stock) -> None:
    answer = stock.said(
        "GET /secret HTTP/1.1\r\nHost: secret\r\nCookie: secret\r\nConnection: close\r\n\r\n"
    )
    assert answer.startswith("HTTP/1.1 200 OK\r\n")
    assert "secret" not in answer


def test_requests_in_a_row_and_in_pieces_are_each_answered(stock: Stock) -> None:
    one = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    last = "GET / HTTP/1.0\r\nHost: x\r\n\r\n"
    answer = stock.said(one + one + one[:20], more=(one[20:], last))
    assert answer.count("HTTP/1.1 200 OK\r\n") == 4
    assert answer.count("Connection: close\r\n") == 1


def test_head_has_the_length_and_no_body(stock: Stock) -> None:
    answer = stock.said("HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    head, body = answer.split("\r\n\r\n", 1)
    assert re.search(r"Content-Length: [1-9]", head)
    assert body == ""


def test_another_method_is_refused_and_its_body_is_no_request(stock: Stock) -> None:
    body = "GET /smuggled HTTP/1.1\r\n\r\n"
    answer = stock.said(
        f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    assert re.findall(r"HTTP/1\.1 (\d+)", answer) == ["405", "200"]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ("nonsense\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 9\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", 413),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
        (f"GET / HTTP/1.1\r\nx: {'x' * 70_000}\r\n\r\n", 431),
    ],
)
def test_what_cannot_be_trusted_ends_the_connection(
    stock: Stock, request_: str, status: int
) -> None:
    answer = stock.said(request_ + "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert re.findall(r"HTTP/1\.1 (\d+)", answer) == [str(status)]


def test_a_silent_client_keeps_nobody_waiting(stock: Stock) -> None:
    with socket.create_connection(("127.0.0.1", stock.port)) as silent:
        silent.sendall(b"GET / HT")
        assert stock.said("GET / HTTP/1.0\r\n\r\n").startswith("HTTP/1.1 200")


def test_many_connections_at_once(stock: Stock) -> None:
    opened = [socket.create_connection(("127.0.0.1", stock.port)) for _ in range(60)]
    for connection in opened:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
    try:
        assert {connection.recv(15) for connection in opened} == {b"HTTP/1.1 200 OK"}
    finally:
        for connection in opened:
            connection.close()
