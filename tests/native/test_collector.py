"""How spans get to a collector, by the real Envoy: over gRPC and HTTP, with headers it wants."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from plugins.module_utils.envoy_documents import (
    document_of,
    hide_secrets,
    reveal_secrets,
    shown,
    text_of,
)
from tests.native.inventories import inventory
from tests.native.lab import running_lab
from tests.native.native import Upstream, ask, eventually
from vmesh.compile.compiler import compile_mesh
from vmesh.compile.host_spec import MeshSpec
from vmesh.render.renderer import Renderer, write_files

KEY = 'Bearer 100%REQ(:path)% "x" \\ #'
EXPORT = "opentelemetry.proto.collector.trace.v1.TraceService"


@dataclass
class Got:
    """What a collector got: headers and bodies of requests over HTTP, or metadata and messages."""

    headers: list[dict[str, Any]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@contextmanager
def _grpc_collector(got: Got) -> Iterator[int]:
    def export(message: bytes, context: grpc.ServicerContext) -> bytes:
        got.headers.append(dict(context.invocation_metadata()))
        got.bodies.append(message)
        return b""

    methods = {"Export": grpc.unary_unary_rpc_method_handler(export)}
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(EXPORT, methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None)


@contextmanager
def _http_collector(got: Got) -> Iterator[int]:
    with Upstream("collector") as upstream:

        def reply(request: Any) -> tuple[int, bytes]:
            got.headers.append(request.headers)
            got.bodies.append(request.body)
            got.paths.append(request.path)
            return 200, b""

        upstream.reply = reply
        yield upstream.port


COLLECTORS = {"otlp": _grpc_collector, "otlp_http": _http_collector, "zipkin": _http_collector}


def _plan(tracing: dict[str, Any]) -> MeshSpec:
    mesh = {
        "mesh_services": {
            "shop": {"group": "app", "port": 9001, "app": {"external": "127.0.0.1:7001"}}
        },
        "mesh_edges": {
            "front": {"group": "app", "port": 8000, "routes": [{"prefix": "/", "to": "shop"}]}
        },
        "mesh_tracing": tracing,
    }
    hosts = {"app": {"ansible_host": "10.0.0.1"}, "traces": {"ansible_host": "10.0.0.2"}}
    return compile_mesh(inventory(mesh, hosts, {name: (name,) for name in hosts}))


def _collected(envoy: Path, export: str, **collector: Any) -> Got:
    """Run a mesh whose collector is described so, and return what this one got of a request."""
    got = Got()
    tracing = {"export": export, "collector": {"host": "127.0.0.1", **collector}}
    with (
        COLLECTORS[export](got) as port,
        running_lab(envoy, _plan(tracing), _At(port), {8000: ("0.0.0.0", 8000)}) as lab,
    ):
        address, edge = lab.ports[8000]
        assert ask(edge, "/", address=address).status == 200
        # The edge and the Envoy of the service send for themselves, within a second.
        assert eventually(lambda: b"front" in b"".join(got.bodies))
        assert eventually(lambda: b"shop" in b"".join(got.bodies))
    return got


class _At(Upstream):
    """Stands for a collector that runs at another port."""

    def __init__(self, port: int) -> None:
        self.port = port


@pytest.mark.parametrize("export", list(COLLECTORS))
def test_every_request_to_the_collector_has_its_headers(envoy: Path, export: str) -> None:
    got = _collected(envoy, export, headers={"authorization": KEY, "x-tenant": "acme"})
    assert {each["authorization"] for each in got.headers} == {KEY}
    assert {each["x-tenant"] for each in got.headers} == {"acme"}
    ours = ("x-envoy", "x-forwarded", "x-request-id", "x-b3", "traceparent", "x-vmesh")
    assert not [name for each in got.headers for name in each if name.startswith(ours)]


@pytest.mark.parametrize(
    ("export", "given", "path", "kind", "port"),
    [
        ("otlp_http", {}, "/v1/traces", "application/x-protobuf", 4318),
        ("otlp_http", {"path": "/in/v1"}, "/in/v1", "application/x-protobuf", 4318),
        ("zipkin", {}, "/api/v2/spans", "application/json", 9411),
        ("zipkin", {"path": "/in/v2"}, "/in/v2", "application/json", 9411),
        ("zipkin", {"path": "/in/v2", "headers": {"a": "b"}}, "/in/v2", "application/json", 9411),
    ],
)
def test_spans_over_http_go_to_the_path(  # noqa: PLR0913, PLR0917 - a case and what it gives
    envoy: Path, export: str, given: dict[str, Any], path: str, kind: str, port: int
) -> None:
    got = _collected(envoy, export, **given)
    assert set(got.paths) == {path}
    assert {each["content-type"] for each in got.headers} == {kind}
    assert {each["host"] for each in got.headers} == {f"127.0.0.1:{port}"}


def test_the_meshs_own_jaeger_takes_otlp_over_http() -> None:
    view = _plan({"group": "traces", "export": "otlp_http"}).hosts["app"].proxies[0].view
    (cluster,) = [each for each in view["clusters"] if each["name"] == "tracing_collector"]
    assert [(each["address"], each["port"]) for each in cluster["endpoints"]] == [
        ("10.0.0.2", 4318)
    ]
    assert not cluster["http2"]


@pytest.mark.parametrize("export", list(COLLECTORS))
def test_a_file_can_be_shown_without_its_secrets_and_made_whole_again(export: str) -> None:
    """What Ansible shows and logs of a file, and what the host gets."""
    tracing = {"export": export, "collector": {"host": "a.example", "headers": {"x-key": KEY}}}
    (proxy, *_) = _plan(tracing).hosts["app"].proxies
    text = Renderer().files(proxy)["listeners/listeners.json"]
    # Of gRPC's metadata Envoy takes every text as it is.
    value = KEY if export == "otlp" else KEY.replace("%", "%%")
    assert json.dumps(value, ensure_ascii=False) in text
    hidden, secrets = hide_secrets(document_of(text))
    assert "Bearer" not in text_of(hidden)
    assert set(secrets.values()) == {value}
    assert text_of(reveal_secrets(hidden, secrets)) == text
    assert shown(text) == text_of(hidden) == shown(text_of(hidden))
    assert shown("version_info: old\n# of an earlier release\n").startswith("(not shown")


def test_only_the_owner_can_read_what_is_rendered(tmp_path: Path) -> None:
    write_files(_plan({"collector": {"host": "a.example", "headers": {"x-key": KEY}}}), tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
