"""Jaeger behind its Envoy, both real: which spans arrive, and who is refused."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from plugins.module_utils import mutual_tls
from plugins.module_utils.certificates import Pair, new_anchor, new_leaf
from plugins.module_utils.envoy_apply import bring
from tests.native.guarded import HOST, LOCAL, GuardedMesh, guarded_mesh
from tests.native.jaeger import binary
from tests.native.mutual import DOMAIN, HOUR, identity_text
from tests.native.native import Native, eventually, native, on_loopback, port_of, send_to
from tests.native.test_logins import login
from vmesh.base import paths
from vmesh.compile.jaeger_views import UI_PORT


@pytest.fixture(scope="module")
def jaeger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return binary(tmp_path_factory.mktemp("jaeger"))


@pytest.fixture
def mesh(envoy: Path, jaeger: Path, tmp_path: Path) -> Iterator[GuardedMesh]:
    with guarded_mesh(envoy, jaeger, tmp_path) as made:
        yield made


def listens(address: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((address, port)) == 0


def taken(
    mesh: GuardedMesh,
    receiver: str = "otlp_http",
    pair: Pair | None = None,
    source: str = LOCAL,
) -> bool:
    """Tell whether spans are taken of somebody who speaks plaintext, or TLS with a leaf."""
    body = b'{"resourceSpans": []}'
    text = b"POST /v1/traces HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
    text += b"content-length: %d\r\n\r\n%s" % (len(body), body)
    place = (HOST, mesh.ports[receiver])
    connection: socket.socket = socket.create_connection(place, 10, (source, 0))
    with connection:
        try:
            if pair is not None:
                connection = by_tls(mesh, connection, pair)
            connection.sendall(text)
            return connection.recv(20).startswith(b"HTTP/1.1 200")
        except OSError:
            return False


def by_tls(mesh: GuardedMesh, connection: socket.socket, pair: Pair) -> socket.socket:
    context = ssl.create_default_context(cadata=mesh.pems()["obs"])
    context.check_hostname = False
    if pair.key:
        file = mesh.folder / "client.pem"
        file.write_text(pair.certificate + pair.key)
        context.load_cert_chain(file)
    return context.wrap_socket(connection)


def all_stored(mesh: GuardedMesh, traces: set[str]) -> bool:
    """Tell whether Jaeger comes to have all of `traces`."""
    return eventually(lambda: mesh.stored(traces) == traces, 20)


def plaintext(mesh: GuardedMesh) -> int:
    """Return how much came in plaintext to Jaeger's Envoy, if there is one."""
    guard = mesh.proxies.get("jaeger")
    return guard.proxy.admin.plaintext_requests() if guard else 0


NO_CERTIFICATE = Pair("", "")


@contextmanager
def traffic(mesh: GuardedMesh, pause: float = 0.01) -> Iterator[dict[str, float]]:
    """Send requests all the time; yields the traces, each with the time of its request."""
    sent: dict[str, float] = {}
    ended = threading.Event()

    def send() -> None:
        while not ended.wait(pause):
            sent[mesh.request()] = time.time()

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield sent
    finally:
        ended.set()
        sender.join()


def test_jaeger_goes_behind_its_envoy_and_comes_back(mesh: GuardedMesh) -> None:
    """Of the spans only those are lost that come while Jaeger restarts."""
    with traffic(mesh) as sent:
        time.sleep(1)
        for mode in ("strict", "off"):
            for stage in mesh.change(mode):
                plain = stage != "narrow" or mode == "off"
                assert taken(mesh) == plain
                began = time.time()
                heard = plaintext(mesh)
                time.sleep(1)
                # No proxy that speaks mTLS is taken for one that does not.
                if (mode, stage) == ("strict", "speak"):
                    assert plaintext(mesh) == heard
                if (mode, stage) == ("strict", "rollout"):
                    assert plaintext(mesh) > heard
                # All that was sent by then has arrived, whatever the stage.
                late = {trace for trace, at in dict(sent).items() if at > began}
                assert late
                assert all_stored(mesh, late)
            assert listens(LOCAL, mesh.ports["otlp_grpc"]) == (mode == "strict")
            assert ("jaeger" in mesh.proxies) == (mode == "strict")


def test_strict_takes_spans_of_the_mesh_alone(mesh: GuardedMesh) -> None:
    for _ in mesh.change("strict"):
        pass
    assert all_stored(mesh, {mesh.request()})
    strange = new_anchor(f"web1.{DOMAIN}", time.time())
    name = f"spiffe://web1.{DOMAIN}/service1"
    foreign = new_leaf(strange, name, int(time.time()) + HOUR)
    for receiver in ("otlp_grpc", "otlp_http", "zipkin"):
        assert not taken(mesh, receiver)
        assert not taken(mesh, receiver, NO_CERTIFICATE)
        assert not taken(mesh, receiver, foreign)
    assert taken(mesh, "otlp_http", mesh.leaf("web1", "service1"))
    assert eventually(lambda: len(mesh.refused()) >= 6)
    assert any("issuer" in each["refused"] and each["peer"] == name for each in mesh.refused())


def test_apps_of_some_networks_may_send_spans_in_plaintext(mesh: GuardedMesh) -> None:
    mesh.tracing["plaintext_from"] = ["127.0.7.0/24"]
    for _ in mesh.change("strict"):
        pass
    assert taken(mesh, source="127.0.7.1")
    assert not taken(mesh, source="127.0.8.1")
    assert mesh.proxies["jaeger"].proxy.admin.plaintext_requests() == 0
    assert all_stored(mesh, {mesh.request()})


@pytest.mark.parametrize("export", ["otlp_http", "zipkin"])
def test_every_export_passes(mesh: GuardedMesh, export: str) -> None:
    mesh.tracing["export"] = export
    for _ in mesh.change("strict"):
        pass
    assert all_stored(mesh, {mesh.request()})


def test_who_still_speaks_plaintext_is_counted_and_named(mesh: GuardedMesh) -> None:
    for _ in mesh.change("permissive"):
        pass
    admin = mesh.proxies["jaeger"].proxy.admin
    assert all_stored(mesh, {mesh.request()})
    assert admin.plaintext_requests() == 0
    assert taken(mesh)
    assert eventually(lambda: admin.plaintext_requests() > 0)
    lines = mesh.proxies["jaeger"].access_log
    assert eventually(
        lambda: any(
            each["listener"] == "otlp_http"
            and not each["tls"]
            and each["downstream_direct"].startswith("127.0.0.1:")
            for each in lines()
        )
    )


def test_an_edge_shows_jaegers_pages_to_who_logs_in(
    mesh: GuardedMesh, envoy: Path, tmp_path: Path
) -> None:
    """As the recipe says."""
    text = (paths.PROJECT / "docs/recipes.md").read_text()
    (block,) = [
        each
        for each in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
        if "pages: {host: 127.0.0.1" in each
    ]
    edges = yaml.safe_load(block.replace("group: jaeger", "group: obs"))["mesh_edges"]
    assert edges["traces"]["calls"]["pages"]["port"] == UI_PORT
    host = mesh.compiled("strict", mesh_edges=edges).hosts["obs"]
    plan = on_loopback(next(each for each in host.proxies if each.name == "traces"))
    send_to(plan, "pages", mesh.ports["ui"])
    send_to(plan, "tracing_collector", mesh.ports["otlp_grpc"])
    folder = tmp_path / "state" / "certificate"
    plan.view["local"]["certificate"] = str(folder / "certificate.json")
    for listener in plan.view["listeners"]:
        if "tls" in listener:
            listener["tls"]["folder"] = str(folder)
    with native(envoy, tmp_path / "edge", plan) as made:
        bring_with_identity(mesh, made)
        trusted = ssl.get_server_certificate((LOCAL, port_of(plan, "public")), timeout=5)

        def asked(headers: dict[str, str]) -> tuple[int, bytes]:
            context = ssl.create_default_context(cadata=trusted)
            port = port_of(plan, "public")
            client = http.client.HTTPSConnection("localhost", port, timeout=10, context=context)
            with contextlib.closing(client):
                client.request("GET", "/api/services", headers=headers)
                answer = client.getresponse()
                return answer.status, answer.read()

        assert asked({})[0] == 401
        assert asked(login("anna", "wrong"))[0] == 401
        status, body = asked(login("anna", "3vTq0yNfXb7Rk2LwHs9d"))
        assert (status, "data" in json.loads(body)) == (200, True)


def bring_with_identity(mesh: GuardedMesh, made: Native) -> None:
    """Start a proxy of Jaeger's host."""
    file = Path(made.layout.config_dir(made.plan.name)) / mutual_tls.IDENTITY
    file.parent.mkdir(parents=True)
    file.write_text(identity_text(mesh.leaf("obs", made.plan.name)))
    bring(made.proxy, made.files())


def test_an_envoy_that_is_not_jaegers_gets_no_spans(mesh: GuardedMesh) -> None:
    for _ in mesh.change("strict"):
        pass
    # Whoever stands at Jaeger's port shows the identity of another proxy of that host.
    mesh.show("jaeger", mesh.leaf("obs", "service1"))
    mesh.proxies["jaeger"].service.start()
    assert mesh.proxies["service1"].proxy.admin.is_ready()
    traces = set()

    def is_refused() -> bool:
        traces.add(mesh.request())
        status, text = mesh.proxies["service1"].proxy.admin.get(
            "/stats?filter=cluster.tracing_collector.ssl.fail_verify_san"
        )
        assert status == 200
        return int(text.rpartition(": ")[2] or 0) > 0

    assert eventually(is_refused, 20)
    assert not mesh.stored(traces)
