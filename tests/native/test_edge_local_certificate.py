"""An edge whose host signs its certificate itself, with the real Envoy and the real openssl."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from plugins.module_utils.acme_openssl import read
from plugins.module_utils.edge_certificate import Local
from plugins.module_utils.envoy_apply import Refused, bring, configure
from plugins.module_utils.envoy_files import LOCAL
from tests.native.edges import EDGE, edge_plan
from tests.native.native import Native, eventually, native, port_of, running

NAME = "shop.example.com"
DAY = 86400.0


@contextmanager
def local_edge(envoy: Path, root: Path, *, is_running: bool = True) -> Iterator[Native]:
    """Run an edge with `tls: {local: true}`; all that its host would have is below `root`."""
    answer = {"prefix": "/", "answer": {"status": 200, "body": "here"}}
    keys = {"tls": {"local": True}, "domains": ["*", NAME], "routes": [answer]}
    plan = edge_plan(keys)
    file = root / "state" / EDGE / "certificate" / "certificate.json"
    plan.view["local"]["certificate"] = str(file)
    for listener in plan.view["listeners"]:
        if "tls" in listener:
            listener["tls"]["folder"] = str(file.parent)
    with (running if is_running else native)(envoy, root, plan) as made:
        yield made


@pytest.fixture
def edge(envoy: Path, tmp_path: Path) -> Iterator[Native]:
    with local_edge(envoy, tmp_path) as made:
        yield made


def served(edge: Native) -> str:
    """Return the certificate that clients see, as PEM."""
    return ssl.get_server_certificate(("127.0.0.1", port_of(edge.plan, "public")), timeout=5)


def connect(edge: Native, trusted: str, name: str) -> ssl.SSLSocket:
    """Return the connection of a client that trusts one certificate, and asks for `name`."""
    plain = socket.create_connection(("127.0.0.1", port_of(edge.plan, "public")), 5)
    return ssl.create_default_context(cadata=trusted).wrap_socket(plain, server_hostname=name)


def is_answered(connection: ssl.SSLSocket) -> bool:
    connection.sendall(f"GET / HTTP/1.1\r\nhost: {NAME}\r\n\r\n".encode())
    return connection.recv(1000).startswith(b"HTTP/1.1 200 ")


def certificate_of(edge: Native) -> Local:
    return Local.of(edge.files()[LOCAL])


def is_settled(edge: Native, envoy: Path) -> bool:
    return configure(edge.proxy, edge.files(), str(envoy), dry=True).settled


@pytest.mark.parametrize("name", [NAME, "localhost", "127.0.0.1", "10.0.0.1"])
def test_who_trusts_the_certificate_gets_an_answer(edge: Native, name: str) -> None:
    with connect(edge, served(edge), name) as connection:
        assert is_answered(connection)


def test_it_is_for_no_other_name_and_nobody_trusts_it_unasked(edge: Native) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        connect(edge, served(edge), "other.example.com")
    plain = socket.create_connection(("127.0.0.1", port_of(edge.plan, "public")), 5)
    with plain, pytest.raises(ssl.SSLCertVerificationError, match="self-signed"):
        ssl.create_default_context().wrap_socket(plain, server_hostname=NAME)


def test_only_root_and_the_envoy_can_read_the_key(edge: Native) -> None:
    file = Path(certificate_of(edge).certificate)
    assert file.stat().st_mode & 0o777 == 0o640
    assert [each.stat().st_mode & 0o777 for each in file.parents][:2] == [0o750, 0o750]
    assert file.stat().st_gid == os.getgid()
    assert "PRIVATE KEY" in file.read_text()
    assert not any("PRIVATE KEY" in text for text in edge.files().values())


def test_another_run_changes_nothing(edge: Native, envoy: Path) -> None:
    before = served(edge)
    assert is_settled(edge, envoy)
    bring(edge.proxy, edge.files())
    assert served(edge) == before


def test_another_name_makes_a_new_certificate_and_closes_no_connection(
    edge: Native, envoy: Path
) -> None:
    before = served(edge)
    with connect(edge, before, NAME) as connection:
        edge.plan.view["local"]["names"].append("new.example.com")
        assert not is_settled(edge, envoy)
        bring(edge.proxy, edge.files())
        assert eventually(lambda: served(edge) != before)
        assert "new.example.com" in read(served(edge)).names
        assert is_answered(connection)
    stat = edge.proxy.admin.get("/stats?filter=listener_manager.listener_modified")[1]
    assert stat.strip().endswith(": 0")


@pytest.mark.parametrize("harm", ["gone", "empty", "of another kind"])
def test_a_certificate_that_is_lost_is_made_anew(edge: Native, envoy: Path, harm: str) -> None:
    file = Path(certificate_of(edge).certificate)
    before = served(edge)
    if harm == "gone":
        file.unlink()
    else:
        file.write_text("" if harm == "empty" else file.read_text().replace("CERTIFICATE", "X"))
    assert not is_settled(edge, envoy)
    bring(edge.proxy, edge.files())
    assert is_settled(edge, envoy)
    assert eventually(lambda: served(edge) != before)


def test_it_is_made_anew_a_month_before_its_end(edge: Native) -> None:
    certificate, found = certificate_of(edge), read(served(edge))
    assert found.ends - found.begins == 3650 * DAY
    assert certificate.is_good(found.ends - 31 * DAY)
    assert not certificate.is_good(found.ends - 29 * DAY)
    assert not certificate.is_good(found.begins - 1)


def test_without_openssl_nothing_is_changed(
    envoy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with local_edge(envoy, tmp_path, is_running=False) as edge:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(Refused, match=r"openssl is missing.*Its files are as they were"):
            bring(edge.proxy, edge.files())
        assert edge.proxy.store.read() == {}
