"""The service of what lasts, under the real gunicorn, asked by the load client."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from flask.testing import FlaskClient

from bench.load import NEW, Download, Load, StreamResult, Target, Verdict, WebSocket
from vmesh.base.paths import PROJECT

from .conftest import LoadService, StandIn

APP = PROJECT / "services" / "streams"
GRACE_SECONDS = 2


@dataclass
class Running:
    """A gunicorn with the service, on a TCP port."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self.url(path), timeout=10) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()

    def terminate(self) -> None:
        """Tell the process to stop, as systemd does."""
        self.process.send_signal(signal.SIGTERM)


@contextmanager
def gunicorn(folder: Path) -> Iterator[Running]:
    """Run the service until the end of the test; stopping it belongs to the test."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(
            [str(PROJECT / "services" / "meshtrace"), *filter(None, [os.environ.get("PYTHONPATH")])]
        ),
        "SERVICE_NAME": "streams",
        "THREADS": "6",
        "FAIL_FILE": str(folder / "fail"),
        "GRACEFUL_TIMEOUT_SECONDS": str(GRACE_SECONDS),
    }
    log = folder / "log"
    with socket.create_server(("127.0.0.1", 0)) as listening, log.open("wb") as output:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "gunicorn",
                "--config",
                "python:meshtrace.gunicorn_conf",
                "--bind",
                f"fd://{listening.fileno()}",
            ],
            cwd=APP,
            env=environment,
            pass_fds=[listening.fileno()],
            stdout=output,
            stderr=output,
        )
        port: int = listening.getsockname()[1]
    try:
        # The socket listens already: what is asked now is answered when the app is there.
        yield Running(process, port, log)
    finally:
        process.kill()
        process.wait(10)


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One process for all tests that do not stop it."""
    with gunicorn(tmp_path_factory.mktemp("streams")) as running:
        yield running


def client(load_service: LoadService, **environment: str) -> FlaskClient:
    app = load_service("streams", {"SERVICE_NAME": "front"} | environment).app
    found: FlaskClient = app.test_client()
    return found


def test_it_tells_who_answers(streams: Running) -> None:
    status, body = streams.get("/streams/hello")
    told = json.loads(body)
    assert (status, told.pop("pid") > 0) == (200, True)
    assert told == {"service": "streams", "instance": socket.gethostname(), "version": "1"}
    assert streams.get("/healthz") == (200, "ok\n")
    assert streams.get("/hello")[0] == 404


def test_two_hops_are_seen_and_the_trace_goes_along(
    load_service: LoadService, stand_in: StandIn
) -> None:
    stand_in.json = {"service": "streams-back", "version": "2"}
    front = client(load_service, STREAMS_BACK_URL=stand_in.url, VERSION="7")
    answer = front.get("/streams/hello", headers={"traceparent": "t", "authorization": "secret"})
    assert answer.json is not None
    assert (answer.json["version"], answer.json["upstream"]) == ("7", stand_in.json)
    [(path, received)] = stand_in.requests
    assert (path, received["traceparent"]) == ("/streams/hello", "t")
    assert "authorization" not in received


@pytest.mark.parametrize(("status", "answered"), [(500, 502), (504, 504), (200, 502)])
def test_an_upstream_that_fails_is_a_sentence(
    load_service: LoadService, stand_in: StandIn, status: int, answered: int
) -> None:
    stand_in.status = status
    answer = client(load_service, STREAMS_BACK_URL=stand_in.url).get("/streams/hello")
    assert answer.status_code == answered
    assert answer.text.startswith("Sorry, streams-back ")


@pytest.mark.parametrize(
    "query",
    [
        "slow?seconds=1801",
        "slow?seconds=-1",
        "slow?every=0",
        "slow?every=x",
        "slow?seconds=nan",
        "wait?seconds=121",
        "wait?seconds=inf",
    ],
)
def test_more_than_is_allowed_is_refused(load_service: LoadService, query: str) -> None:
    answer = client(load_service).get(f"/streams/{query}")
    assert answer.status_code == 400
    assert re.fullmatch(r"(seconds|every) must be a number from [\d.]+ to \d+\.\n", answer.text)


def test_a_slow_download_lasts_as_long_as_asked(streams: Running) -> None:
    with Download(streams.url("/streams/slow?seconds=0.5&every=0.1"), seconds=10) as download:
        time.sleep(0.25)
        assert 1 <= download.result().messages <= 4, "the lines come one by one"
        assert download.wait(10)
    result = download.result()
    assert (result.verdict, result.how, result.messages) == (Verdict.SURVIVED, "complete", 6)
    assert 0.45 <= result.seconds < 1.5


def test_a_long_request_is_answered_in_the_end(streams: Running) -> None:
    begun = time.monotonic()
    assert streams.get("/streams/wait?seconds=0.3") == (200, "waited 0.3 s\n")
    assert time.monotonic() - begun >= 0.3


def test_a_websocket_sends_everything_back(streams: Running) -> None:
    with WebSocket(streams.url("/streams/ws"), seconds=10, every=0.05) as talk:
        talk.wait(0.5)
    result = talk.result()
    assert result.verdict is Verdict.SURVIVED, result
    assert result.messages == result.expected
    assert result.messages > 5


def test_a_request_that_is_no_websocket_is_refused(streams: Running) -> None:
    assert streams.get("/streams/ws") == (426, "This path takes WebSockets.\n")
    connection = http.client.HTTPConnection("127.0.0.1", streams.port, timeout=5)
    handshake = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "8"}
    connection.request("GET", "/streams/ws", headers=handshake)
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (400, b"This is no handshake of a WebSocket.\n")
    connection.close()


def test_websockets_give_their_threads_back(streams: Running) -> None:
    for _ in range(8):  # more than there are threads
        with WebSocket(streams.url("/streams/ws"), seconds=5) as talk:
            pass
        assert talk.result().verdict is Verdict.SURVIVED, talk.result()
    assert streams.get("/healthz") == (200, "ok\n")
    levels = {json.loads(line)["level"] for line in streams.log.read_text().splitlines()}
    assert not levels & {"error", "critical"}


def test_it_fails_on_command_but_stays_healthy(streams: Running) -> None:
    file = streams.log.with_name("fail")
    file.write_text("503 2")
    try:
        targets = [Target(streams.url("/streams/hello"), body='"service":')]
        with Load(targets, rate=50, seconds=0.1, modes=[NEW]) as load:
            load.wait(10)
        report = load.report()
        assert (report.sent, report.failed) == (5, 2), report.summary()
        assert {each.what for each in report.failures} == {"status 503: Sorry, this is a drill."}
        file.write_text("500")
        assert streams.get("/healthz") == (200, "ok\n")
    finally:
        file.unlink()


def held(running: Running, paths: dict[str, Any]) -> dict[str, StreamResult]:
    """Hold streams while the service is stopped; gives what became of them, by name."""
    with ExitStack() as stack:
        talk = stack.enter_context(WebSocket(running.url("/streams/ws"), seconds=20, every=0.1))
        found = {
            name: stack.enter_context(Download(running.url(path), seconds=20))
            for name, path in paths.items()
        }
        # One that has ended before must not make the service forget that others have not.
        with WebSocket(running.url("/streams/ws"), seconds=5):
            pass
        running.terminate()
        running.process.wait(20)
        assert talk.wait(5)
        assert all(each.wait(5) for each in found.values())
    return {"websocket": talk.result()} | {name: each.result() for name, each in found.items()}


def test_a_stopped_service_lets_streams_end_within_the_grace_time(tmp_path: Path) -> None:
    with gunicorn(tmp_path) as running:
        begun = time.monotonic()
        results = held(
            running,
            {
                "short": "/streams/slow?seconds=1&every=0.25",
                "long": "/streams/slow?seconds=60&every=0.2",
            },
        )
        took = time.monotonic() - begun
    assert results["short"].verdict is Verdict.SURVIVED, results
    assert (results["websocket"].verdict, results["websocket"].how) == (
        Verdict.CLOSED,
        "close frame 1001",
    ), results
    assert results["websocket"].messages > 5, "it goes on meanwhile"
    assert results["long"].verdict is not Verdict.SURVIVED
    assert took < GRACE_SECONDS + 5
