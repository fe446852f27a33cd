"""The open-loop client: what it sends and when, and what it counts as failed."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from itertools import count, pairwise

import pytest

from bench.load import KEPT, NEW, Load, NotAllowedError, Report, Target

from .servers import Connection, Handler, polite, serving, unused_port

RATE, SECONDS = 200.0, 0.1
COUNT = 20


def loaded(handler: Handler, mode: str = KEPT, **options: object) -> tuple[Report, list[str], int]:
    """Let the load run against a handler; gives report, requests received and connections."""
    target = options.pop("target", {})
    assert isinstance(target, dict)
    chosen = {"rate": RATE, "seconds": SECONDS, "connections": 2, "modes": (mode,)} | options
    with serving(handler) as server:
        with Load([Target(server.url("/a?b=c"), **target)], **chosen) as load:  # type: ignore[arg-type]
            assert load.wait(10)
        return load.report(), server.requests, server.connections


def numbers(report: Report) -> tuple[int, int, int]:
    assert report.sent == report.ok + report.failed
    return report.sent, report.failed, report.total.retried_on_closed_connection


def what(report: Report) -> set[str]:
    return {each.what for each in report.failures}


def test_kept_connections_are_used_in_turn() -> None:
    used: list[int] = []

    def handler(connection: Connection) -> None:
        while connection.request() is not None:
            used.append(connection.number)
            connection.answer()

    # Slowly: a request that finds both busy opens another one, as it should.
    report, requests, connections = loaded(handler, rate=5.0, seconds=1.2)
    assert (numbers(report), len(requests), connections) == ((6, 0, 0), 6, 2)
    assert report.total.connections_opened == 2
    assert used == [1, 2, 1, 2, 1, 2]
    assert requests[0].startswith("GET /a?b=c HTTP/1.1\r\nhost: 127.0.0.1:")
    assert "connection" not in requests[0]


def test_a_new_connection_for_each_request_says_so() -> None:
    report, requests, connections = loaded(polite, NEW)
    assert (numbers(report), len(requests), connections) == ((COUNT, 0, 0), COUNT, COUNT)
    assert all("\r\nconnection: close\r\n" in request for request in requests)


def test_both_modes_and_several_edges_take_turns() -> None:
    with serving(polite) as one, serving(polite) as two:
        targets = [
            Target(one.url(), headers={"Host": "shop.example"}, name="one"),
            Target(two.url(), method="POST", name="two"),
        ]
        with Load(targets, rate=RATE, seconds=0.2) as load:
            load.wait(10)
    report = load.report()
    assert {key: each.sent for key, each in report.by_mode.items()} == {KEPT: 20, NEW: 20}
    assert {key: each.sent for key, each in report.by_target.items()} == {"one": 20, "two": 20}
    assert all("\r\nHost: shop.example\r\n" in each for each in one.requests)
    assert all("host: 127" not in each for each in one.requests)
    assert all(each.startswith("POST / HTTP/1.1") for each in two.requests)


@pytest.mark.parametrize("mode", [KEPT, NEW])
def test_another_status_fails(mode: str) -> None:
    def handler(connection: Connection) -> None:
        while request := connection.request():
            bad = len(connection.server.requests) in {5, 6, 7}
            assert request
            connection.answer("no upstream", "503 Service Unavailable") if bad else (
                connection.answer()
            )

    report, _, _ = loaded(handler, mode)
    assert numbers(report) == (COUNT, 3, 0)
    assert what(report) == {"status 503: no upstream"}
    assert report.by_mode[mode].failed == 3
    assert report.failures[0].mode == mode


def test_the_expected_status_may_be_any() -> None:
    def handler(connection: Connection) -> None:
        while connection.request():
            connection.answer(status="404 Not Found")

    assert loaded(handler, target={"status": 404})[0].failed == 0


@pytest.mark.parametrize("expected", [r"^from \d+$", lambda body: body.startswith(b"from")])
def test_another_body_fails(expected: str | Callable[[bytes], bool]) -> None:
    def handler(connection: Connection) -> None:
        while connection.request():
            bad = len(connection.server.requests) == 4
            connection.answer("sorry" if bad else "from 7")

    report, _, _ = loaded(handler, target={"body": expected})
    assert numbers(report) == (COUNT, 1, 0)
    assert what(report) == {"status 200 with another body: sorry"}


@pytest.mark.parametrize(
    "send",
    [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        b"2;x=y\r\no\n\r\n1\r\n!\r\n0\r\nt: 1\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\no\n!",
        b"HTTP/1.1 200 \r\nCONTENT-LENGTH:3\r\n\r\no\n!",
    ],
    ids=["chunks", "interim", "bare"],
)
def test_every_form_of_answer_is_read_on_a_kept_connection(send: bytes) -> None:
    def handler(connection: Connection) -> None:
        while connection.request():
            connection.send(send)

    report, _, connections = loaded(handler, target={"body": r"\Ao\n!\Z"})
    assert report.failed == 0
    assert connections < report.sent


@pytest.mark.parametrize(
    "head",
    [
        "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nConnection: x, Close\r\n",
    ],
)
def test_a_server_that_announces_the_end_gets_another_connection(head: str) -> None:
    def handler(connection: Connection) -> None:
        connection.request()
        connection.send(f"{head}\r\nok".encode())

    report, _, connections = loaded(handler, target={"body": r"\Aok\Z"})
    assert (numbers(report), connections) == ((COUNT, 0, 0), COUNT)


@pytest.mark.parametrize(
    ("send", "told"),
    [
        (b"", "end of file, no answer"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok", "end of file within the answer"),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",
            "end of file within the answer",
        ),
        (b"HTTP/1.1 200 OK\r\nx: y", "end of file within the answer"),
        (b"SSH-2.0-OpenSSH\r\n", "end of file within the answer"),
        (
            b"SSH-2.0-OpenSSH\r\n\r\n",
            "bad answer: illegal status line: bytearray(b'SSH-2.0-OpenSSH')",
        ),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\nok",
            "bad answer: bad Content-Length",
        ),
    ],
)
@pytest.mark.parametrize("mode", [KEPT, NEW])
def test_half_an_answer_fails(send: bytes, told: str, mode: str) -> None:
    def handler(connection: Connection) -> None:
        connection.request()
        connection.send(send)

    report, _, _ = loaded(handler, mode, seconds=0.05)
    # Nothing can be said against a first request on a connection: no other one is tried.
    assert (numbers(report), what(report)) == ((10, 10, 0), {told})


def test_a_reset_fails() -> None:
    def handler(connection: Connection) -> None:
        connection.request()
        connection.reset()

    report, _, _ = loaded(handler, NEW, seconds=0.05)
    assert (numbers(report), what(report)) == ((10, 10, 0), {"reset, no answer"})


def test_nobody_there_fails() -> None:
    with Load([Target(f"http://127.0.0.1:{unused_port()}/")], rate=RATE, seconds=0.05) as load:
        load.wait(10)
    report = load.report()
    assert (numbers(report), what(report)) == (
        (10, 10, 0),
        {"not connected: Connection refused"},
    )


def test_an_idle_connection_that_was_closed_is_not_used() -> None:
    def handler(connection: Connection) -> None:
        connection.request()
        connection.answer()  # promises to keep the connection, and does not

    report, requests, connections = loaded(handler, rate=10.0, seconds=0.6)
    assert (numbers(report), len(requests), connections) == ((6, 0, 0), 6, 6)


def test_an_idle_connection_with_something_on_it_is_not_used() -> None:
    def handler(connection: Connection) -> None:
        connection.request()
        connection.answer()
        connection.send(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")
        connection.request()

    report, requests, connections = loaded(handler, rate=10.0, seconds=0.6)
    assert (numbers(report), len(requests), connections) == ((6, 0, 0), 6, 6)


def closes_on_second(connection: Connection) -> None:
    """Answer one request; read another one, and close without a byte."""
    connection.request()
    connection.answer()
    connection.request()


@pytest.mark.parametrize("strict", [True, False])
def test_a_kept_connection_closed_under_a_request_is_counted_apart(*, strict: bool) -> None:
    report, _, connections = loaded(
        closes_on_second, rate=5.0, seconds=1.2, connections=1, closed_connection_fails=strict
    )
    assert connections == 6
    # Request 1 opens; each later one finds the kept connection good, and it is closed under it;
    # sent again on a new one it is answered, and that one is kept for the next.
    assert numbers(report) == (6, 5 if strict else 0, 5)
    assert what(report) == (
        {"kept connection closed without an answer; sent again: status 200"} if strict else set()
    )


def test_a_request_that_must_not_be_repeated_is_not() -> None:
    report, requests, _ = loaded(
        closes_on_second,
        rate=5.0,
        seconds=1.2,
        connections=1,
        closed_connection_fails=False,
        target={"method": "POST"},
    )
    assert (numbers(report), len(requests)) == ((6, 3, 0), 6)
    assert what(report) == {"end of file, no answer"}


def test_a_request_is_repeated_once_only() -> None:
    def handler(connection: Connection) -> None:
        connection.request()
        if connection.number == 1:
            connection.answer()
            connection.request()

    report, requests, _ = loaded(
        handler, rate=5.0, seconds=0.3, connections=1, closed_connection_fails=False
    )
    assert (numbers(report), len(requests)) == ((2, 1, 1), 3)
    assert what(report) == {"end of file, no answer"}


@pytest.mark.parametrize("mode", [KEPT, NEW])
def test_the_rate_is_kept_when_the_server_is_slow(mode: str) -> None:
    arrived: list[float] = []

    def handler(connection: Connection) -> None:
        while connection.request():
            arrived.append(time.monotonic())
            time.sleep(0.4)
            connection.answer()

    report, _, _ = loaded(handler, mode, rate=100.0, seconds=0.3)
    assert numbers(report) == (30, 0, 0)
    assert arrived[-1] - arrived[0] == pytest.approx(0.3, abs=0.1), "all before one answer"
    assert max(after - before for before, after in pairwise(arrived)) < 0.15
    assert 0.4 <= report.latency.p50 < 0.7
    assert report.total.longest_gap_seconds == pytest.approx(0.4, abs=0.15)


def test_silence_fails_at_the_time_limit() -> None:
    def handler(connection: Connection) -> None:
        connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
        connection.request()

    report, _, _ = loaded(handler, time_limit=0.2, seconds=0.05)
    assert (numbers(report), what(report)) == ((10, 10, 0), {"no answer within 0.2 s"})
    assert 0.2 <= report.failures[0].at_seconds + 0.2 < 0.4


def test_a_target_that_swallows_everything_is_not_sent_without_end() -> None:
    def handler(connection: Connection) -> None:
        connection.request()
        connection.request()

    report, requests, _ = loaded(handler, time_limit=0.3, most_in_flight=10)
    assert (numbers(report), len(requests)) == ((COUNT, COUNT, 0), 10)
    assert what(report) == {"not sent: 10 requests are unanswered", "no answer within 0.3 s"}


def test_a_report_covers_what_was_due_between_two_marks() -> None:
    failing = False
    numbers_from_one = count(1)

    def handler(connection: Connection) -> None:
        while connection.request():
            bad = failing
            time.sleep(0.05)
            trace = next(numbers_from_one)
            connection.answer(
                status="500 Oh" if bad else "200 OK", fields=f"x-trace-id: {trace}\r\n"
            )

    with serving(handler) as server, Load([Target(server.url())], rate=100, seconds=60) as load:
        time.sleep(0.2)
        failing = True
        load.mark("bad")
        time.sleep(0.2)
        load.mark("good again")
        # Those that are under way at the mark get the new answer, and are the share's before it.
        report = load.report("bad", "good again")
        failing = False
        time.sleep(0.1)
        load.mark("last")
        with pytest.raises(ValueError, match="there is a mark bad already"):
            load.mark("bad")
        assert load.report(wait=False).unfinished > 0
        begun = time.monotonic()
    assert time.monotonic() - begun < 1, "it does not go on to the end of its time"
    assert report.name == "bad"
    assert (report.ok, report.unfinished) == (0, 0)
    assert report.failed == pytest.approx(20, abs=4)
    assert report.total.longest_gap_seconds >= 0.2
    whole = load.report()
    before = load.report("start", "bad")
    after = load.report("good again")
    assert whole.sent == before.sent + report.sent + after.sent == len(server.requests)
    assert len(whole.trace_ids) == whole.sent == len(set(whole.trace_ids))
    with pytest.raises(KeyError):
        load.report("never")


def test_the_report_tells_what_happened() -> None:
    def handler(connection: Connection) -> None:
        while connection.request():
            bad = len(connection.server.requests) > 1
            connection.answer(
                "oh" if bad else "ok",
                "502 Bad Gateway" if bad else "200 OK",
                "x-trace-id: 4bf9\r\n",
            )

    with (
        serving(handler) as server,
        Load([Target(server.url(), name="edge")], rate=400, seconds=0.2) as load,
    ):
        load.wait(10)
    report = load.report(name="routes")
    told = report.summary()
    assert re.match(r"routes: 80 requests, 79 failed in 0\.\d s, 400 a second\n", told)
    assert "edge, kept-alive: status 502: oh (trace 4bf9)\n" in told
    assert len(report.failures) == 50
    assert told.endswith("\n  and 29 more")
    found = json.loads(json.dumps(report.as_dict()))
    assert (found["total"]["failed"], found["trace_ids"], found["rate"]) == (79, 80, 400)
    assert report.as_dict(trace_ids=True)["trace_ids"] == ["4bf9"] * 80


def test_nobody_waits_for_a_load_that_was_left_by_an_exception() -> None:
    def handler(connection: Connection) -> None:
        connection.request()
        connection.request()

    begun = time.monotonic()
    with (
        serving(handler) as server,
        pytest.raises(KeyboardInterrupt),
        Load([Target(server.url())], rate=10, seconds=60),
    ):
        time.sleep(0.1)
        raise KeyboardInterrupt
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize(
    "url",
    [
        "http://192.0.2.1:8000/",
        "http://[2001:db8::1]/",
        "http://localhost:8000/",
        "https://127.0.0.1/",
        "http://u:p@127.0.0.1/",
        "http://0.0.0.0/",
        "http://198.18.0.11/",
        "http://127.0.0.1:99999/",
        "/trace/1",
        "http://127.0.0.1/a b",
    ],
)
def test_load_goes_nowhere_else(url: str) -> None:
    with pytest.raises(NotAllowedError):
        Load([Target(url)], rate=1, seconds=1)


def test_load_goes_where_the_caller_allows() -> None:
    Load([Target("http://198.18.0.11/")], rate=1, seconds=1, allow=["198.18.0.0/15"])
    with pytest.raises(NotAllowedError):
        Load([Target("http://192.0.2.1/")], rate=1, seconds=1, allow=["198.18.0.0/15"])
    with serving(polite, "::1") as server:
        with Load([Target(server.url(host="[::1]"))], rate=RATE, seconds=0.05) as load:
            load.wait(10)
        assert numbers(load.report()) == (10, 0, 0)


@pytest.mark.parametrize(
    "options", [{"rate": 0}, {"seconds": 0}, {"seconds": 7201}, {"modes": ["other"]}]
)
def test_numbers_without_sense_are_refused(options: dict[str, object]) -> None:
    chosen = {"rate": 1.0, "seconds": 1.0} | options
    with pytest.raises(ValueError):
        Load([Target("http://127.0.0.1/")], **chosen)  # type: ignore[arg-type]


@pytest.mark.parametrize("header", [{"x": "a\r\nhost: b"}, {"a b": "c"}])
def test_a_header_that_would_be_two_is_refused(header: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="is not a header field"):
        Load([Target("http://127.0.0.1/", headers=header)], rate=1, seconds=1)
