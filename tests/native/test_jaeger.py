"""What Jaeger says it has taken is stored, however it ends; what it refuses it counts."""

from __future__ import annotations

import http.client
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.jaeger_load import SPANS_A_TRACE, batch
from tests.native.jaeger import NativeJaeger, Settings, binary, running_jaeger
from tests.native.native import eventually

pytestmark = pytest.mark.slow

TRACES_A_REQUEST = 25
TAKEN = "otelcol_receiver_accepted_spans_total"
REFUSED = "otelcol_receiver_refused_spans_total"
STORED = "otelcol_exporter_sent_spans_total"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return binary(tmp_path_factory.mktemp("jaeger"))


class Senders:
    """Clients that send spans as fast as they are answered; `statuses` are the answers."""

    def __init__(self, jaeger: NativeJaeger) -> None:
        self.jaeger, self.acknowledged = jaeger, list[str]()
        self.statuses: list[int] = []
        self.done = threading.Event()

    def _send(self) -> None:
        while not self.done.is_set():
            ids, body = batch(TRACES_A_REQUEST)
            connection = http.client.HTTPConnection(
                "127.0.0.1", self.jaeger.ports["otlp_http"], timeout=10
            )
            try:
                kind = {"content-type": "application/x-protobuf"}
                connection.request("POST", "/v1/traces", body, kind)
                status = connection.getresponse().status
            except (OSError, http.client.HTTPException):
                time.sleep(0.02)  # it has been killed and starts again
                continue
            finally:
                connection.close()
            self.statuses.append(status)
            if status == http.client.OK:
                self.acknowledged += ids

    @contextmanager
    def at_work(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._send) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.done.set()
            for thread in threads:
                thread.join()

    def go_on(self) -> None:
        """Wait until more is acknowledged."""
        wanted = len(self.acknowledged) + 40 * TRACES_A_REQUEST
        assert eventually(lambda: len(self.acknowledged) > wanted, 20)

    def lost(self) -> int:
        """Return how many spans were acknowledged and are not stored."""
        stored = self.jaeger.traces("front-proxy")
        return sum(SPANS_A_TRACE - stored.get(each, 0) for each in self.acknowledged)


def _with_batch(settings: Settings) -> None:
    settings["processors"]["batch"] = {}
    settings["service"]["pipelines"]["traces"]["processors"].append("batch")


def _ended_four_times(jaeger: NativeJaeger, by: signal.Signals) -> Senders:
    senders = Senders(jaeger)
    with senders.at_work():
        for _ in range(4):
            senders.go_on()
            jaeger.end(by)
            jaeger.start()
        senders.go_on()
    return senders


def test_a_kill_loses_no_span_that_was_acknowledged(program: Path, tmp_path: Path) -> None:
    with running_jaeger(program, tmp_path) as jaeger:
        assert _ended_four_times(jaeger, signal.SIGKILL).lost() == 0


def test_a_batch_before_the_storage_would_lose_spans(program: Path, tmp_path: Path) -> None:
    """Why there is none: the test above would see it."""
    with running_jaeger(program, tmp_path, _with_batch) as jaeger:
        assert _ended_four_times(jaeger, signal.SIGKILL).lost() > 0


def test_a_stop_ends_soon_and_in_order_and_loses_nothing(program: Path, tmp_path: Path) -> None:
    with running_jaeger(program, tmp_path) as jaeger:
        senders = Senders(jaeger)
        with senders.at_work():
            senders.go_on()
            began = time.monotonic()
            assert jaeger.end(signal.SIGTERM) == 0
            # Far below TimeoutStopSec of the unit.
            assert time.monotonic() - began < 30
        jaeger.start()
        assert senders.lost() == 0
    assert "Shutdown complete" in jaeger.log.read_text()


def test_its_metrics_tell_how_many_spans_it_took_and_stored(program: Path, tmp_path: Path) -> None:
    with running_jaeger(program, tmp_path) as jaeger:
        senders = Senders(jaeger)
        with senders.at_work():
            senders.go_on()
        spans = len(senders.acknowledged) * SPANS_A_TRACE
        assert jaeger.counted(TAKEN) == jaeger.counted(STORED) == spans
        assert jaeger.counted(REFUSED) == 0
        assert sum(jaeger.traces("front-proxy").values()) == spans


def _without_memory(settings: Settings) -> None:
    limiter = settings["processors"]["memory_limiter"]
    limiter.update(check_interval="50ms", limit_mib=2, spike_limit_mib=1)


def test_spans_that_it_refuses_are_counted_and_the_sender_is_told(
    program: Path, tmp_path: Path
) -> None:
    with running_jaeger(program, tmp_path, _without_memory) as jaeger:
        senders = Senders(jaeger)
        with senders.at_work():
            assert eventually(lambda: senders.statuses.count(503) > 10, 20)
        refused = senders.statuses.count(503) * TRACES_A_REQUEST * SPANS_A_TRACE
        assert jaeger.counted(REFUSED) == refused
        assert jaeger.counted(TAKEN) == len(senders.acknowledged) * SPANS_A_TRACE
        assert senders.lost() == 0
