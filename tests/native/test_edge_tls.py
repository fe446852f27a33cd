"""Edges that speak HTTPS, with the real Envoy: who may speak, and new certificates under load."""

from __future__ import annotations

import base64
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.envoy_apply import Refused, bring
from tests.native.certificates import Authority
from tests.native.edges import WholeWay, whole_way
from tests.native.native import Native, ask, port_of
from vmesh.cli.password import password_hash

NAME = "shop.example.com"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def pair(authority: Authority, name: str = NAME) -> dict[str, str]:
    """Return the keys of `tls` for a certificate from the controller."""
    file = authority.certificate(name)
    return {"certificate": str(file), "key": file.read_text()}


@pytest.fixture
def edge(envoy: Path, tmp_path: Path, authority: Authority) -> Iterator[WholeWay]:
    with whole_way(envoy, tmp_path, {"tls": pair(authority), "hsts": 3600}) as made:
        yield made


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.file))


class Client:
    """A client that keeps its connection and checks the edge's certificate."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        plain = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.connection = http.client.HTTPConnection(NAME, port)
        self.tls = self.connection.sock = context.wrap_socket(plain, server_hostname=NAME)

    def get(self, headers: Mapping[str, str] | None = None) -> http.client.HTTPResponse:
        self.connection.request("GET", "/", headers=dict(headers or {}))
        response = self.connection.getresponse()
        response.read()
        return response

    def serial(self) -> str:
        """Return the serial number of the edge's certificate."""
        shown: Any = self.tls.getpeercert()
        return str(shown["serialNumber"])


def modified(made: Native) -> int:
    found = made.proxy.admin.get("/stats?filter=listener_manager.listener_modified")[1]
    return int(found.rpartition(":")[2])


def test_clients_speak_https_and_the_app_is_told(edge: WholeWay, authority: Authority) -> None:
    answered = Client(edge.port, trusting(authority)).get({"x-forwarded-proto": "http"})
    assert answered.status == 200
    assert answered.headers["strict-transport-security"] == "max-age=3600"
    assert edge.app.requests[-1].headers["x-forwarded-proto"] == "https"
    assert edge.raw(b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n") is None


@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
def test_a_client_chooses_the_version_of_http(
    protocol: str, edge: WholeWay, authority: Authority
) -> None:
    context = trusting(authority)
    context.set_alpn_protocols([protocol])
    assert Client(edge.port, context).tls.selected_alpn_protocol() == protocol


def only(authority: Authority, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = trusting(authority)
    # OpenSSL itself refuses 1.1 at its usual level.
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    return context


@pytest.mark.parametrize(
    ("minimum", "spoken", "taken"),
    [(1.2, "TLSv1_1", False), (1.2, "TLSv1_2", True), (1.3, "TLSv1_2", False)],
)
def test_older_versions_of_tls_are_refused(  # noqa: PLR0913, PLR0917 - fixtures and a case
    minimum: float, spoken: str, taken: bool, envoy: Path, tmp_path: Path, authority: Authority
) -> None:
    context = only(authority, ssl.TLSVersion[spoken])
    with whole_way(envoy, tmp_path, {"tls": {**pair(authority), "minimum": minimum}}) as made:
        if taken:
            assert Client(made.port, context).get().status == 200
        else:
            with pytest.raises(ssl.SSLError):
                Client(made.port, context)


def test_a_new_certificate_closes_no_connection(edge: WholeWay, authority: Authority) -> None:
    context, failed, asked = trusting(authority), list[str](), [0]
    kept, over = Client(edge.port, context), threading.Event()
    first = kept.serial()

    def load() -> None:
        while not over.is_set():
            asked[0] += 1
            try:
                client = Client(edge.port, context)
                if client.get().status != 200:
                    failed.append("status")
                client.connection.close()
            except OSError as error:
                failed.append(str(error))

    loader = threading.Thread(target=load)
    loader.start()
    for _ in range(5):
        edge.made.plan.view["certificates"]["certificate"] = pair(authority)
        bring(edge.made.proxy, edge.made.files())
        assert kept.get().status == 200
        so_far = asked[0]
        while asked[0] < so_far + 3 and loader.is_alive():
            time.sleep(0.01)
    over.set()
    loader.join()
    assert failed == []
    assert asked[0] > 15
    assert Client(edge.port, context).serial() != first
    assert modified(edge.made) == 0


def test_a_key_of_another_certificate_is_refused_and_the_old_pair_stays(
    edge: WholeWay, authority: Authority
) -> None:
    before = Client(edge.port, trusting(authority)).serial()
    wrong = {**pair(authority), "key": pair(authority, "other.example.com")["key"]}
    edge.made.plan.view["certificates"]["certificate"] = wrong
    with pytest.raises(Refused, match="is back and confirmed"):
        bring(edge.made.proxy, edge.made.files())
    assert Client(edge.port, trusting(authority)).serial() == before


def test_files_on_the_host_are_read_when_they_are_moved_into_place(
    envoy: Path, tmp_path: Path, authority: Authority
) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    chain, key = folder / "chain.pem", folder / "key.pem"

    def renew() -> None:
        text = authority.certificate(NAME).read_bytes()
        for path in (key, chain):
            beside = tmp_path / "beside"
            beside.write_bytes(text)
            beside.replace(path)

    renew()
    tls = {"certificate_on_host": str(chain), "key_on_host": str(key)}
    with whole_way(envoy, tmp_path, {"tls": tls}) as made:
        context = trusting(authority)
        kept = Client(made.port, context)
        renew()
        for _ in range(50):
            if Client(made.port, context).serial() != kept.serial():
                break
            time.sleep(0.1)
        assert Client(made.port, context).serial() != kept.serial()
        assert kept.get().status == 200


def test_http_is_redirected_to_the_port_of_https(
    envoy: Path, tmp_path: Path, authority: Authority
) -> None:
    edge = {"tls": pair(authority), "port": 8443, "redirect_port": 8080}
    with whole_way(envoy, tmp_path, edge) as made:
        port = port_of(made.made.plan, "redirect")
        answered = ask(port, "/a/b?c=d", headers={"host": f"{NAME}:8080"})
        assert answered.status == 301
        assert answered.headers["location"] == f"https://{NAME}:8443/a/b?c=d"
        assert "strict-transport-security" not in answered.headers


def test_users_log_in_over_https(envoy: Path, tmp_path: Path, authority: Authority) -> None:
    keys = {
        "tls": pair(authority),
        "users": {"staff": {"anna": password_hash("a password")}},
        "require": {"users": "staff"},
    }
    with whole_way(envoy, tmp_path, keys) as made:
        client = Client(made.port, trusting(authority))
        refused = client.get({"x-user": "anna"})
        assert refused.status == 401
        assert refused.headers["www-authenticate"].startswith('Basic realm="https://')
        token = base64.b64encode(b"anna:a password").decode()
        assert client.get({"authorization": f"Basic {token}"}).status == 200
        (got,) = made.app.requests
    assert got.headers["x-user"] == "anna"
    assert "authorization" not in got.headers
