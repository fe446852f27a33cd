"""Which spans a real Jaeger has after an Envoy was stopped, replaced or changed: all of them."""

from __future__ import annotations

import http.client
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from plugins.module_utils.envoy_apply import bring
from tests.native.jaeger import NativeJaeger, Settings, binary, running_jaeger
from tests.native.native import Native, Upstream, ask, eventually, on_loopback, port_of, running
from tests.native.test_changes import streaming
from tests.native.test_hot_restart import NAME, Running, supervised
from tests.native.views import cluster, collector, host, proxy, public, route, table, tracing
from vmesh.compile.host_spec import ProxySpec

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return binary(tmp_path_factory.mktemp("jaeger"))


@pytest.fixture(scope="module")
def jaeger(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeJaeger]:
    with running_jaeger(program, tmp_path_factory.mktemp("traces")) as made:
        yield made


@pytest.fixture
def front(envoy: Path, tmp_path: Path, jaeger: NativeJaeger) -> Iterator[Running]:
    with (
        streaming() as stream,
        supervised(
            envoy, tmp_path, cluster("shop", stream.port), stream.end, jaeger.ports["otlp_http"]
        ) as made,
    ):
        yield made


def lost(jaeger: NativeJaeger, traces: list[str]) -> int:
    """Return how many of these requests have no span."""
    stored = jaeger.traces("front")
    return sum(each not in stored for each in traces)


def traced(port: int, requests: int) -> list[str]:
    """Send requests; return their traces."""
    return [ask(port, "/").headers["x-trace-id"] for _ in range(requests)]


class Clients:
    """Clients that ask until nobody listens; `traces` are those of requests that were answered."""

    def __init__(self, port: int) -> None:
        self.port, self.traces = port, list[str]()
        self.broken: list[str] = []
        self.done = threading.Event()

    def _ask(self, *, keeps: bool) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        while not self.done.is_set():
            try:
                connection.request("GET", "/")
                response = connection.getresponse()
                response.read()
                assert response.status == 200
                self.traces.append(response.headers["x-trace-id"])
            except (AssertionError, OSError, http.client.HTTPException) as error:
                connection.close()
                if isinstance(error, ConnectionRefusedError):
                    time.sleep(0.05)  # it is stopped
                else:
                    self.broken.append(repr(error))
            if not keeps:
                connection.close()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        threads = [
            threading.Thread(target=self._ask, kwargs={"keeps": keeps})
            for keeps in (True, True, False)
        ]
        for thread in threads:
            thread.start()
        try:
            assert eventually(lambda: len(self.traces) > 50)
            yield
        finally:
            self.done.set()
            for thread in threads:
                thread.join()


def test_a_stop_sends_the_spans_of_the_last_second(front: Running, jaeger: NativeJaeger) -> None:
    traces = traced(front.port, 40)
    assert front.supervisor.stop() < 5
    assert lost(jaeger, traces) == 0


def test_without_it_they_would_be_lost(front: Running, jaeger: NativeJaeger) -> None:
    traces = traced(front.port, 40)
    os.kill(front.supervisor.main, signal.SIGTERM)
    front.supervisor.end_all(signal.SIGTERM)
    assert lost(jaeger, traces) > 0


def test_a_stop_under_load_loses_no_span_of_an_answer(front: Running, jaeger: NativeJaeger) -> None:
    clients = Clients(front.port)
    with clients.at_work():
        assert front.supervisor.stop() < 10
    assert lost(jaeger, clients.traces) == 0
    # Connections that waited to be accepted when the listener closed.
    assert len(clients.broken) <= 3, clients.broken


def test_a_stop_waits_for_an_answer_that_has_begun(front: Running, jaeger: NativeJaeger) -> None:
    stream = front.open_stream()
    threading.Timer(3, front.end_stream.set).start()
    assert 3 < front.supervisor.stop() < 8
    assert stream.read() == b"ended"
    assert lost(jaeger, [stream.headers["x-trace-id"]]) == 0


def test_a_stop_does_not_wait_for_an_envoy_that_was_killed(front: Running) -> None:
    os.kill(front.supervisor.main, signal.SIGKILL)
    os.waitpid(front.supervisor.main, 0)
    assert front.supervisor.stop() < 2


def test_processes_that_follow_each_other_lose_none(front: Running, jaeger: NativeJaeger) -> None:
    """The third ends the first, which has sent its last spans then; all are stopped in the end."""
    clients = Clients(front.port)
    with clients.at_work():
        for _ in range(2):
            front.supervisor.reload(NAME)
        assert front.epoch == 2
    assert clients.broken == []
    traces = clients.traces + traced(front.port, 40)
    front.supervisor.stop()
    assert lost(jaeger, traces) == 0


def _edge(jaeger: NativeJaeger, app: Upstream, export: str) -> ProxySpec:
    """Return an edge that sends spans to Jaeger in a form."""
    sends = tracing(export=export, collector_path="/v1/traces")
    by_http = export == "otlp_http"
    port = jaeger.ports["otlp_http" if by_http else "otlp_grpc"]
    return on_loopback(
        proxy(
            [public(tracing=sends)],
            {"public": table(host("all", [route("/", "app")]), tell_trace=True)},
            [cluster("app", app.port), {**collector(port), "http2": not by_http}],
        )
    )


def _counter(envoy: Native, name: str) -> int:
    _, text = envoy.proxy.admin.get(f"/stats?filter=^{name}$")
    return int(text.rpartition(": ")[2] or 0)


def test_an_edge_that_sent_spans_over_grpc_sends_them_over_http_and_no_request_fails(
    envoy: Path, tmp_path: Path, jaeger: NativeJaeger
) -> None:
    """What an Envoy of the previous release gets while it serves."""
    with Upstream("app") as app:
        before, after = (_edge(jaeger, app, export) for export in ("otlp", "otlp_http"))
        port = port_of(before, "public")
        after.view["listeners"][0]["port"] = port
        with running(envoy, tmp_path, before) as made:
            clients = Clients(port)
            with clients.at_work():
                made.plan = after
                bring(made.proxy, made.files())
                answered = len(clients.traces)
                assert eventually(lambda: len(clients.traces) > answered + 50)
            assert clients.broken == []
            traces = traced(port, 40)
            assert eventually(lambda: lost(jaeger, traces) == 0)


def _has(envoy: Native, name: str) -> bool:
    return _counter(envoy, name) > 0


def _without_memory(settings: Settings) -> None:
    limiter = settings["processors"]["memory_limiter"]
    limiter.update(check_interval="50ms", limit_mib=2, spike_limit_mib=1)


def test_envoy_counts_what_jaeger_refuses(envoy: Path, program: Path, tmp_path: Path) -> None:
    """Which over gRPC it does not: such a refusal is no status of HTTP."""
    refusals = {}
    with Upstream("app") as app, running_jaeger(program, tmp_path, _without_memory) as refusing:
        for export in ("otlp_http", "otlp"):
            plan = _edge(refusing, app, export)
            folder = tmp_path / export
            folder.mkdir()
            with running(envoy, folder, plan) as made:
                traced(port_of(plan, "public"), 40)
                done = "cluster.tracing_collector.upstream_rq_completed"
                assert eventually(partial(_has, made, done))
                refusals[export] = _counter(made, "cluster.tracing_collector.upstream_rq_503")
    assert refusals["otlp_http"] > 0
    assert refusals["otlp"] == 0
