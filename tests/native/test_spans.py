"""What spans hold, by the real Envoy: sent as Zipkin's JSON, which is easy to read here."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.native.native import (
    Native,
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
    LOOPBACK,
    answer,
    cluster,
    collector,
    host,
    listener,
    proxy,
    public,
    route,
    table,
    tag,
    tracing,
)
from vmesh.compile.cluster_views import HEALTH_CHECK_HEADER, LOCAL_APP
from vmesh.compile.host_spec import ProxySpec, View

FOREIGN = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
Span = dict[str, Any]


class Mesh:
    """An edge, the Envoy of the service `shop` behind it, its app, and a collector of spans."""

    def __init__(self, proxies: Mapping[str, Native], app: Upstream, sink: Upstream) -> None:
        self.proxies, self.app, self.sink = proxies, app, sink
        self.edge = port_of(proxies["front"].plan, "public")
        self.trusting = port_of(proxies["trusting"].plan, "public")
        self.shop = port_of(proxies["shop"].plan, "ingress")

    def spans(self) -> list[Span]:
        """Return all spans that have arrived."""
        return [span for request in list(self.sink.requests) for span in json.loads(request.body)]

    def of(self, trace: str, count: int = 1) -> list[Span]:
        """Return the spans of `trace`, when there are that many, from the root on."""

        def found() -> list[Span]:
            return [span for span in self.spans() if span["traceId"] == trace]

        assert eventually(lambda: len(found()) >= count), f"{len(found())} spans of {trace}"
        return sorted(found(), key=lambda span: span["timestamp"])

    def seen(self) -> dict[str, str]:
        """Return the headers that the app saw last."""
        return self.app.requests[-1].headers


def _edge(name: str, **given: Any) -> ProxySpec:
    """Return an edge with a route for each case."""
    tags = [
        tag("tenant", header="x-tenant", default="none"),
        tag("site", literal="berlin"),
        tag("home", environment="HOME"),
        tag("absent", environment="NO_SUCH_VARIABLE"),
    ]
    traced = tracing(export="zipkin", tags=tags)
    own: View = {"sampling": None, "tags": [tag("site", literal="here")]}
    routes = [
        answer("/gone", answer={"status": 404, "body": ""}, operation="goneAway"),
        route("/unsampled", "shop", tracing={"sampling": 0.0, "tags": []}),
        route("/tagged", "shop", tracing=own, operation="browse"),
        route("/", "shop", operation="shopping"),
    ]
    return on_loopback(
        proxy(
            [public(tracing=traced, **given)],
            {"public": table(host("all", routes), tell_trace=True)},
            [cluster("shop", 0), cluster("tracing_collector", 0, circuit_breaker=None)],
            name=name,
        )
    )


def _shop(app: Upstream) -> ProxySpec:
    """Return the Envoy of a service."""
    routes = [route("/", "app", operation="checkStock")]
    return on_loopback(
        proxy(
            [listener("ingress", tracing=tracing(export="zipkin", follows=True))],
            {"ingress": table(host("all", routes))},
            [cluster("app", app.port), cluster("tracing_collector", 0)],
            name="shop",
        )
    )


@pytest.fixture(scope="module")
def mesh(envoy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with ExitStack() as stack:
        app, sink = stack.enter_context(Upstream("app")), stack.enter_context(Upstream("sink"))
        sink.answers(202)
        shop = _shop(app)
        edge = _edge("front")
        trusting = _edge("trusting", trusted_networks=[LOOPBACK], internal_networks=[LOOPBACK])
        proxies = {}
        for plan in (shop, edge, trusting):
            send_to(plan, "tracing_collector", sink.port)
            send_to(plan, "shop", port_of(shop, "ingress"))
            root = tmp_path_factory.mktemp(plan.name)
            proxies[plan.name] = stack.enter_context(running(envoy, root, plan))
        yield Mesh(proxies, app, sink)


def test_every_hop_has_a_span_of_its_own_below_the_one_before(mesh: Mesh) -> None:
    trace = ask(mesh.edge, "/a").headers["x-trace-id"]
    seen = mesh.seen()
    edge, shop = mesh.of(trace, 2)
    assert [each["localEndpoint"]["serviceName"] for each in (edge, shop)] == ["front", "shop"]
    assert [each["name"] for each in (edge, shop)] == ["shopping", "checkStock"]
    assert "parentId" not in edge
    assert shop["parentId"] == edge["id"] != shop["id"]
    assert {each["kind"] for each in (edge, shop)} == {"SERVER"}
    assert len(trace) == 32
    assert seen["traceparent"] == f"00-{trace}-{shop['id']}-01"
    assert (seen["x-b3-traceid"], seen["x-b3-spanid"]) == (trace, shop["id"])
    assert seen["x-b3-sampled"] == "1"


@pytest.mark.parametrize(
    "headers",
    [
        {"traceparent": f"00-{FOREIGN}-{SPAN}-01"},
        {"b3": f"{FOREIGN}-{SPAN}-1"},
        {"x-b3-traceid": FOREIGN, "x-b3-spanid": SPAN, "x-b3-sampled": "1"},
        {"b3": f"{FOREIGN}-{SPAN}-1", "x-b3-traceid": "1" * 32, "x-b3-spanid": "2" * 16},
    ],
    ids=",".join,
)
def test_an_app_may_forward_either_form(mesh: Mesh, headers: dict[str, str]) -> None:
    before = len([span for span in mesh.spans() if span["traceId"] == FOREIGN])
    ask(mesh.shop, "/forwarded", headers=headers)
    span = mesh.of(FOREIGN, before + 1)[-1]
    assert span["parentId"] == SPAN
    seen = mesh.seen()
    assert seen["traceparent"] == f"00-{FOREIGN}-{span['id']}-01"
    assert (seen["x-b3-traceid"], seen["x-b3-spanid"]) == (FOREIGN, span["id"])
    assert "b3" not in seen


def test_a_stranger_cannot_join_or_switch_off_a_trace(mesh: Mesh) -> None:
    for headers in (
        {"traceparent": f"00-{FOREIGN}-{SPAN}-00"},
        {"b3": f"{FOREIGN}-{SPAN}-0"},
        {"x-b3-traceid": FOREIGN, "x-b3-spanid": SPAN, "x-b3-sampled": "0"},
    ):
        trace = ask(mesh.edge, "/a", headers=headers).headers["x-trace-id"]
        assert trace != FOREIGN
        assert mesh.seen()["x-b3-sampled"] == "1"


def test_tags_arrive_and_a_routes_own_go_first(mesh: Mesh) -> None:
    plain = ask(mesh.edge, "/a", headers={"x-tenant": "acme"}).headers["x-trace-id"]
    routed = ask(mesh.edge, "/tagged").headers["x-trace-id"]
    tags, own = mesh.of(plain, 2)[0]["tags"], mesh.of(routed, 2)[0]["tags"]
    assert (tags["tenant"], tags["site"]) == ("acme", "berlin")
    assert (own["tenant"], own["site"]) == ("none", "here")
    assert "home" in tags
    assert "absent" not in tags
    assert mesh.of(routed)[0]["name"] == "browse"


def test_an_answer_of_the_edge_itself_has_a_span(mesh: Mesh) -> None:
    (span,) = mesh.of(ask(mesh.edge, "/gone").headers["x-trace-id"])
    assert (span["name"], span["tags"]["http.status_code"]) == ("goneAway", "404")


def test_an_unsampled_route_makes_no_spans_and_says_so_to_the_next_hop(mesh: Mesh) -> None:
    trace = ask(mesh.edge, "/unsampled").headers["x-trace-id"]
    seen = mesh.seen()
    assert seen["x-b3-sampled"] == "0"
    assert seen["traceparent"].endswith("-00")
    mesh.of(ask(mesh.edge, "/a").headers["x-trace-id"], 2)  # later, and sent by now
    assert trace not in {span["traceId"] for span in mesh.spans()}


def test_only_a_trusted_peer_can_force_a_trace(mesh: Mesh) -> None:
    force = {"x-envoy-force-trace": "1"}
    ask(mesh.edge, "/unsampled", headers=force)
    assert mesh.seen()["x-b3-sampled"] == "0"
    trace = ask(mesh.trusting, "/unsampled", headers=force).headers["x-trace-id"]
    assert mesh.seen()["x-b3-sampled"] == "1"
    assert len(mesh.of(trace, 2)) == 2


def test_health_checks_make_no_spans_and_clients_cannot_pass_for_them(mesh: Mesh) -> None:
    header = {HEALTH_CHECK_HEADER: "1"}
    ask(mesh.shop, "/healthz", headers=header)
    assert mesh.seen()["x-b3-sampled"] == "0"
    for edge in (mesh.edge, mesh.trusting):
        trace = ask(edge, "/healthz", headers=header).headers["x-trace-id"]
        assert HEALTH_CHECK_HEADER not in mesh.seen()
        mesh.of(trace, 2)
    paths = [span["tags"]["http.url"] for span in mesh.spans()]
    assert sum("/healthz" in path for path in paths) == 4


def test_requests_are_logged_and_health_checks_are_not(mesh: Mesh) -> None:
    log = mesh.proxies["shop"].access_log
    ask(mesh.shop, "/unlogged", headers={HEALTH_CHECK_HEADER: "1"})
    trace = ask(mesh.edge, "/logged?secret").headers["x-trace-id"]
    assert eventually(lambda: "/logged" in [line["path"] for line in log()])
    (line,) = [line for line in log() if line["path"] == "/logged"]
    assert (line["trace_id"], line["status"], line["method"]) == (trace, 200, "GET")
    assert "/unlogged" not in [line["path"] for line in log()]


def test_spans_go_to_the_collector_that_is_named(mesh: Mesh) -> None:
    mesh.of(ask(mesh.edge, "/a").headers["x-trace-id"], 2)
    sent = mesh.sink.requests[-1]
    assert (sent.method, sent.path) == ("POST", "/api/v2/spans")
    assert sent.headers["host"] == "127.0.0.1:9411"


def test_sampling_of_a_route_holds_with_otlp_too(envoy: Path, tmp_path: Path) -> None:
    none: View = {"sampling": 0.0, "tags": []}
    routes = [route("/unsampled", "app", tracing=none), route("/", "app")]
    with Upstream("app") as app:
        plan = on_loopback(
            proxy(
                [public()],
                {"public": table(host("all", routes))},
                [cluster("app", app.port), collector(free_port())],
            )
        )
        with running(envoy, tmp_path, plan):
            for path, flag in (("/unsampled", "0"), ("/", "1")):
                ask(port_of(plan, "public"), path)
                seen = app.requests[-1].headers
                assert seen["traceparent"].endswith(f"-0{flag}")
                assert seen["x-b3-sampled"] == flag


class GrpcSink:
    """A listener that lets a client begin HTTP/2 and keeps all bytes that it sends.

    Nothing is answered: what is in a message can be read without, as gRPC does not compress it.
    """

    SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"  # none given
    ACKNOWLEDGED = b"\x00\x00\x00\x04\x01\x00\x00\x00\x00"

    def __init__(self) -> None:
        self.got = b""
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.server.getsockname()[1])
        threading.Thread(target=self._keep, daemon=True).start()

    def _keep(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self.server.accept()
            with connection:
                connection.sendall(self.SETTINGS + self.ACKNOWLEDGED)
                while data := connection.recv(65536):
                    self.got += data

    def __enter__(self) -> GrpcSink:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.close()


def test_every_span_tells_its_host_in_the_node_id(mesh: Mesh, envoy: Path, tmp_path: Path) -> None:
    trace = ask(mesh.edge, "/a").headers["x-trace-id"]
    ids = [each["tags"]["node_id"] for each in mesh.of(trace, 2)]
    assert ids == ["front@here", "shop@here"]
    # And to which cluster a request went, by which an Envoy beside its app is known.
    assert [each["tags"]["upstream_cluster.name"] for each in mesh.of(trace, 2)] == ["shop", "app"]
    with Upstream("app") as app, GrpcSink() as sink:
        plan = on_loopback(
            proxy(
                [public()],
                {"public": table(host("all", [route("/", LOCAL_APP)]))},
                [cluster(LOCAL_APP, app.port), collector(sink.port)],
            )
        )
        with running(envoy, tmp_path, plan):
            ask(port_of(plan, "public"), "/a")
            assert eventually(lambda: b"front@here" in sink.got)
    for tag_name, value in (("node_id", "front@here"), ("upstream_cluster.name", LOCAL_APP)):
        # Key and value of an attribute, each with its length before it.
        inner = _field(1, value.encode())
        assert _field(1, tag_name.encode()) + _field(2, inner) in sink.got


def _field(number: int, content: bytes) -> bytes:
    """Return a short field of a protocol buffer, as text and messages are written."""
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content
