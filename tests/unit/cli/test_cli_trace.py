"""`./mesh trace` against a stand-in for the edge and for Jaeger's query API."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from vmesh import cli

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Standin:
    """Answers like the edge and like Jaeger; spans appear at the third time of asking."""

    def __init__(self) -> None:
        self.sampled = True
        self.sampling: float = 100
        self.status = 200
        self.asked: list[str] = []
        standin = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                standin.asked.append(self.path)
                if self.path.startswith("/api/traces/"):
                    self._answer(*standin.stored())
                else:
                    self._answer(standin.status, "Hello\n", standin.sampled)

            def _answer(self, status: int, body: str, traced: bool = False) -> None:
                self.send_response(status)
                if traced:
                    self.send_header("x-trace-id", TRACE)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stored(self) -> tuple[int, str]:
        if len([path for path in self.asked if path.startswith("/api/")]) < 3:
            return 404, '{"data": null}'
        spans = [
            {"traceID": TRACE, "spanID": "a", "operationName": "buy", "startTime": 1,
             "duration": 900, "processID": "p1"},
            {"traceID": TRACE, "spanID": "b", "operationName": "buy", "startTime": 100,
             "duration": 700, "processID": "p2",
             "references": [{"refType": "CHILD_OF", "traceID": TRACE, "spanID": "a"}]},
        ]  # fmt: skip
        processes = {"p1": {"serviceName": "door"}, "p2": {"serviceName": "shop"}}
        return 200, json.dumps({"data": [{"spans": spans, "processes": processes}]})

    def inventory(self, folder: Path) -> Path:
        port = self.server.server_port
        hosts = {
            "vm1": {"mesh_address": "198.18.0.1"},
            "vm2": {"mesh_address": "198.18.0.2", "lab_publish": {port: 8000}},
            "vm3": {"mesh_address": "198.18.0.3", "lab_publish": {port: 16686}},
        }
        variables = {
            "mesh_services": {"shop": {"group": "vm1", "port": 9001, "app": {"flask": "shop"}}},
            "mesh_edges": {
                "door": {
                    "group": "vm2",
                    "port": 8000,
                    "routes": [
                        {"prefix": "/a", "to": "shop"},
                        {"prefix": "/trace/shop", "to": "shop"},
                    ],
                }
            },
            "mesh_tracing": {"group": "vm3", "sampling": self.sampling},
        }
        path = folder / "hosts.yml"
        path.write_text(json.dumps({"all": {"hosts": hosts, "vars": variables}}))
        return path


@pytest.fixture
def standin() -> Iterator[Standin]:
    made = Standin()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_trace_shows_the_answer_the_waterfall_and_the_link(
    standin: Standin, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["trace", "-i", str(standin.inventory(tmp_path))]) == 0
    told = capsys.readouterr().out
    assert standin.asked[0] == "/trace/shop"
    assert "Hello" in told
    assert "2 spans" in told
    assert told.index("door") < told.index("  shop")
    assert f"http://127.0.0.1:{standin.server.server_port}/trace/{TRACE}" in told


def test_trace_requests_the_path_it_is_given(standin: Standin, tmp_path: Path) -> None:
    cli.main(["trace", "-i", str(standin.inventory(tmp_path)), "/a?x=1"])
    assert standin.asked[0] == "/a?x=1"


def test_a_failing_service_is_shown_with_its_trace_and_ends_with_1(
    standin: Standin, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    standin.status = 502
    assert cli.main(["trace", "-i", str(standin.inventory(tmp_path))]) == 1
    told = capsys.readouterr().out
    assert "502" in told
    assert "2 spans" in told


def test_an_answer_without_a_trace_id_is_told(
    standin: Standin, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    standin.sampled = False
    assert cli.main(["trace", "-i", str(standin.inventory(tmp_path))]) == 1
    assert "no x-trace-id" in capsys.readouterr().err


@pytest.mark.parametrize(("sampling", "hint"), [(100, False), (50, True)])
def test_a_trace_that_was_not_kept_is_told_with_the_likely_reason(
    sampling: float,
    hint: bool,
    standin: Standin,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    standin.sampling = sampling
    inventory = str(standin.inventory(tmp_path))
    assert cli.main(["trace", "-i", inventory, "--wait", "0.1"]) == 1
    told = capsys.readouterr().err
    assert "has no span of trace" in told
    assert ("sampling" in told) == hint


@pytest.mark.parametrize("asked", [["/é"], ["/a b"], ["/", "-H", "x: €"]])
def test_what_cannot_be_requested_is_told_and_ends_with_2(
    asked: list[str], standin: Standin, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["trace", "-i", str(standin.inventory(tmp_path)), *asked]) == 2
    assert "cannot be requested" in capsys.readouterr().err


def test_an_edge_that_is_down_is_one_sentence_and_what_to_do(
    standin: Standin, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = standin.inventory(tmp_path)
    standin.server.shutdown()
    standin.server.server_close()
    assert cli.main(["trace", "-i", str(path)]) == 1
    told = capsys.readouterr().err
    assert "The edge does not answer" in told
    assert "./mesh up" in told
    assert "Traceback" not in told
