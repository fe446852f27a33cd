"""Clients of many kinds at an edge that speaks HTTPS: it keeps what it does for them over HTTP."""

from __future__ import annotations

import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.native.certificates import Authority
from tests.native.edges import SERVICE, WholeWay, client_of, whole_way

NAME = "shop.example.com"
BALANCER, CLIENT, FORGED = "127.0.0.2", "203.0.113.7", "198.51.100.9"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def speaking_tls(authority: Authority, **more: Any) -> dict[str, Any]:
    """Return the keys of an edge with HTTPS, and `more`."""
    file = authority.certificate(NAME)
    return {"tls": {"certificate": str(file), "key": file.read_text()}, **more}


def connect(
    edge: WholeWay, authority: Authority, source: str = "127.0.0.1", before: bytes = b""
) -> ssl.SSLSocket:
    """Return a connection from `source`, which begins with the bytes `before` in plain text."""
    plain = socket.create_connection(("127.0.0.1", edge.port), 5, source_address=(source, 0))
    plain.sendall(before)
    context = ssl.create_default_context(cafile=str(authority.file))
    return context.wrap_socket(plain, server_hostname=NAME)


def request(headers: dict[str, str], version: str = "1.1", path: str = "/") -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"GET {path} HTTP/{version}\r\n{lines}\r\n".encode()


def head_of(connection: ssl.SSLSocket) -> bytes:
    """Return what comes up to the end of the headers, or of the connection."""
    came = b""
    while b"\r\n\r\n" not in came and (part := connection.recv(1)):
        came += part
    return came


def test_a_client_speaks_http2(envoy: Path, tmp_path: Path, authority: Authority) -> None:
    with whole_way(envoy, tmp_path, speaking_tls(authority)) as edge:
        command = ["curl", "-sS", "--http2", "--cacert", str(authority.file), "-o", "/dev/null"]
        command += [
            "--resolve",
            f"{NAME}:{edge.port}:127.0.0.1",
            "-w",
            "%{http_version} %{http_code}",
        ]
        done = subprocess.run(
            [*command, f"https://{NAME}:{edge.port}/"], capture_output=True, text=True, check=True
        )
        assert done.stdout == "2 200"
        assert edge.app.requests[-1].headers["x-forwarded-proto"] == "https"


def test_a_balancer_passes_tls_on_and_names_the_client_by_the_proxy_protocol(
    envoy: Path, tmp_path: Path, authority: Authority
) -> None:
    keys = speaking_tls(authority, trusted_cidrs=[f"{BALANCER}/32"], proxy_protocol="required")
    said = f"PROXY TCP4 {CLIENT} 127.0.0.1 5555 443\r\n".encode()
    sent = request({"host": NAME, "x-forwarded-for": FORGED, "x-forwarded-proto": "http"})
    with whole_way(envoy, tmp_path, keys) as edge:
        with connect(edge, authority, BALANCER, said) as connection:
            connection.sendall(sent)
            assert head_of(connection).startswith(b"HTTP/1.1 200 ")
        got = edge.app.requests[-1]
        assert client_of(got) == (CLIENT, "https")
        assert FORGED not in got.headers["x-forwarded-for"]
        with pytest.raises(OSError):
            connect(edge, authority, "127.0.0.1", said)
        assert len(edge.app.requests) == 1


def test_only_a_trusted_proxy_tells_of_its_clients(
    envoy: Path, tmp_path: Path, authority: Authority
) -> None:
    keys = speaking_tls(authority, trusted_cidrs=[f"{BALANCER}/32"])
    sent = request({"host": NAME, "x-forwarded-for": CLIENT, "x-forwarded-proto": "http"})
    with whole_way(envoy, tmp_path, keys) as edge:
        for source in (BALANCER, "127.0.0.1"):
            with connect(edge, authority, source) as connection:
                connection.sendall(sent)
                assert head_of(connection).startswith(b"HTTP/1.1 200 ")
        trusted, stranger = edge.app.requests
        assert client_of(trusted) == (CLIENT, "http")
        assert client_of(stranger) == ("127.0.0.1", "https")


def test_an_old_client_is_served(envoy: Path, tmp_path: Path, authority: Authority) -> None:
    keys = speaking_tls(authority, http10=True, domains=[NAME])
    with whole_way(envoy, tmp_path, keys) as edge, connect(edge, authority) as connection:
        connection.sendall(request({}, version="1.0"))
        assert head_of(connection).startswith(b"HTTP/1.0 200 ")
        assert edge.app.requests[-1].headers["host"] == NAME


def test_a_websocket_is_opened(envoy: Path, tmp_path: Path, authority: Authority) -> None:
    routes = [{"prefix": "/", "to": SERVICE, "websocket": True}]
    upgrade = {
        "host": NAME,
        "connection": "upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    with (
        whole_way(envoy, tmp_path, speaking_tls(authority, routes=routes)) as edge,
        connect(edge, authority) as connection,
    ):
        connection.sendall(request(upgrade))
        assert head_of(connection).startswith(b"HTTP/1.1 101 ")
        connection.sendall(b"first")
        assert connection.recv(100) == b"first"
