"""Streams: which survive, which are closed in order and when, and which are broken."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Callable

import pytest

from bench.load import Download, NotAllowedError, StreamResult, Verdict, WebSocket

from .servers import Connection, Handler, polite, serving, unused_port

CHUNKED = b"HTTP/1.1 200 OK\r\nx-trace-id: 4bf9\r\ntransfer-encoding: chunked\r\n\r\n"
ACCEPTED = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"


def chunk(text: str) -> bytes:
    return f"{len(text):x}\r\n{text}\r\n".encode()


def lines(first: int, last: int, of: int = 5) -> bytes:
    return b"".join(chunk(f"line {number} of {of}\n") for number in range(first, last + 1))


def sends(*parts: bytes, pause: float = 0.02) -> Handler:
    """Send an answer in parts, and close."""

    def handler(connection: Connection) -> None:
        connection.request()
        for part in parts:
            connection.send(part)
            time.sleep(pause)

    return handler


def downloaded(handler: Handler, seconds: float = 10, silence: float = 5) -> StreamResult:
    with serving(handler) as server:
        with Download(server.url("/slow"), seconds=seconds, silence=silence) as download:
            assert download.wait(10)
        return download.result()


def test_a_download_that_is_whole_survives() -> None:
    # Neither chunks nor what arrives at one time need be whole lines.
    parts = [
        lines(1, 2),
        chunk("line 3 "),
        chunk("of 5\nline 4 of 5\nli"),
        b"a\r\nne 5",
        b" of 5\n\r\n",
    ]
    result = downloaded(sends(CHUNKED, *parts, b"0\r\n\r\n"))
    assert (result.verdict, result.how) == (Verdict.SURVIVED, "complete")
    assert (result.messages, result.expected, result.trace_id) == (5, 5, "4bf9")
    assert 0.08 <= result.seconds < 2


@pytest.mark.parametrize(
    ("parts", "verdict", "how"),
    [
        ((lines(1, 3), b"0\r\n\r\n"), Verdict.CLOSED, "chunk end"),
        ((lines(1, 3),), Verdict.CLOSED, "end of file"),
        ((lines(1, 5),), Verdict.CLOSED, "end of file after the last line"),
        ((lines(1, 3), chunk("line 4")), Verdict.BROKEN, "end of file within a line"),
        ((lines(1, 3), chunk("li"), b"0\r\n\r\n"), Verdict.BROKEN, "chunk end within a line"),
        ((lines(1, 3)[:-4],), Verdict.BROKEN, "end of file within a line"),
        ((lines(1, 2), lines(4, 5), b"0\r\n\r\n"), Verdict.BROKEN, "line 3 is due, not b'line 4"),
        ((lines(1, 2), lines(2, 5), b"0\r\n\r\n"), Verdict.BROKEN, "line 3 is due, not b'line 2"),
        ((lines(1, 2), lines(3, 6, 6)), Verdict.BROKEN, "line 3 is due, not b'line 3 of 6'"),
        ((chunk("upstream gone\n"),), Verdict.BROKEN, "no numbered line: b'upstream gone'"),
        (
            (lines(1, 2), b"oh no\r\n"),
            Verdict.BROKEN,
            "bad answer: illegal chunk header: bytearray(b'oh no",
        ),
    ],
)
def test_a_download_that_is_cut(parts: tuple[bytes, ...], verdict: Verdict, how: str) -> None:
    result = downloaded(sends(CHUNKED, *parts, pause=0.005))
    assert (result.verdict, how in result.how) == (verdict, True), result


def test_a_download_that_is_reset_is_broken() -> None:
    def handler(connection: Connection) -> None:
        connection.request()
        connection.send(CHUNKED + lines(1, 3))
        time.sleep(0.1)
        connection.reset()

    result = downloaded(handler)
    assert (result.verdict, result.how, result.messages) == (Verdict.BROKEN, "reset", 3)
    assert 0.05 <= result.seconds < 1


@pytest.mark.parametrize("seconds", [10, 0.3])
def test_a_download_may_be_left_by_the_client(seconds: float) -> None:
    def handler(connection: Connection) -> None:
        connection.request()
        connection.send(CHUNKED + lines(1, 3))
        connection.request()

    with serving(handler) as server:
        with Download(server.url(), seconds=seconds) as download:
            assert download.result().verdict is Verdict.OPEN
            download.wait(0.5)
        result = download.result()
    assert (result.verdict, result.how) == (Verdict.SURVIVED, "left by the client")
    assert 0.3 <= result.seconds < 1.5


def test_silence_breaks_a_download() -> None:
    def handler(connection: Connection) -> None:
        connection.request()
        connection.send(CHUNKED + lines(1, 3))
        connection.request()

    result = downloaded(handler, silence=0.2)
    assert (result.verdict, result.how, result.messages) == (
        Verdict.BROKEN,
        "silence for 0.2 s",
        3,
    )


@pytest.mark.parametrize("kind", [Download, WebSocket])
def test_what_cannot_be_opened_is_broken(kind: type[Download | WebSocket]) -> None:
    def refused(connection: Connection) -> None:
        connection.request()
        connection.answer(status="503 Service Unavailable")

    def closed(connection: Connection) -> None:
        connection.request()

    def silent(connection: Connection) -> None:
        connection.request()
        connection.request()

    told = {}
    for handler in (refused, closed, silent):
        with serving(handler) as server:
            with kind(server.url(), seconds=10, silence=0.2) as stream:
                assert stream.wait(5)
            result = stream.result()
        assert result.verdict is Verdict.BROKEN
        told[handler.__name__] = result.how
    with kind(f"http://127.0.0.1:{unused_port()}/", seconds=10) as stream:
        pass
    assert told | {"absent": stream.result().how} == {
        "refused": "not opened: status 503",
        "closed": "not opened: end of file",
        "silent": "silence for 0.2 s",
        "absent": "not opened: Connection refused",
    }


def frame(opcode: int, payload: bytes = b"", *, final: bool = True) -> bytes:
    size = len(payload)
    length = bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2, "big")
    return bytes([opcode | (0x80 if final else 0)]) + length + payload


class Peer:
    """The server's side of a WebSocket, after the handshake."""

    def __init__(self, connection: Connection) -> None:
        request = connection.request()
        assert request is not None
        match = re.search(r"sec-websocket-key: (\S+)\r\n", request, re.IGNORECASE)
        assert match is not None
        assert len(base64.b64decode(match[1])) == 16
        proof = hashlib.sha1(f"{match[1]}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
        accept = base64.b64encode(proof).decode()
        connection.send(f"{ACCEPTED}Sec-WebSocket-Accept: {accept}\r\n\r\n".encode())
        self.connection = connection

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            got = self.connection.socket.recv(count - len(data))
            if not got:
                raise ConnectionResetError
            data += got
        return data

    def receive(self) -> tuple[int, bytes]:
        """Return opcode and payload of the client's next frame."""
        first, second = self._exactly(2)
        assert first & 0x80 and second & 0x80, "whole and masked"
        key = self._exactly(4)
        payload = bytes(b ^ key[i % 4] for i, b in enumerate(self._exactly(second & 0x7F)))
        return first & 0x0F, payload

    def echo(self, count: int) -> None:
        """Send so many messages back."""
        for _ in range(count):
            opcode, payload = self.receive()
            assert opcode == 1
            self.connection.send(frame(1, payload))


def talking(then: Callable[[Peer], object]) -> Handler:
    """Echo three messages, then do something else."""

    def handler(connection: Connection) -> None:
        peer = Peer(connection)
        peer.echo(3)
        then(peer)

    return handler


def talked(handler: Handler, silence: float = 5) -> StreamResult:
    with serving(handler) as server:
        with WebSocket(server.url("/ws"), seconds=10, every=0.03, silence=silence) as stream:
            assert stream.wait(10)
        return stream.result()


def goes_on(peer: Peer) -> None:
    """Echo until the client closes, as a good server does."""
    while True:
        opcode, payload = peer.receive()
        peer.connection.send(frame(opcode, payload))
        if opcode == 8:
            return


@pytest.mark.parametrize("seconds", [10, 0.3])
def test_a_websocket_ends_with_a_handshake(seconds: float) -> None:
    with serving(talking(goes_on)) as server:
        with WebSocket(server.url("/ws"), seconds=seconds, every=0.03) as stream:
            stream.wait(0.4)
        result = stream.result()
    assert result.verdict is Verdict.SURVIVED
    assert result.how == "left by the client, close frame 1000 in answer"
    assert result.messages == result.expected
    assert 5 < result.messages < 16
    assert 0.3 <= result.seconds < 1.5


def test_pings_pongs_and_messages_in_parts_are_understood() -> None:
    def then(peer: Peer) -> None:
        peer.connection.send(frame(9, b"are you there"))
        answers = [peer.receive()]
        if answers[0][0] == 1:  # the fourth message was under way
            answers.append(peer.receive())
        if (10, b"are you there") not in answers:
            return
        _, message = answers[0] if answers[0][0] == 1 else peer.receive()
        peer.connection.send(frame(1, message[:3], final=False) + frame(10, b"pong for nothing"))
        peer.connection.send(frame(0, message[3:-1], final=False) + frame(0, message[-1:]))
        goes_on(peer)

    with serving(talking(then)) as server:
        with WebSocket(server.url("/ws"), seconds=0.4, every=0.05) as stream:
            assert stream.wait(10)
        assert stream.result().verdict is Verdict.SURVIVED, stream.result()


def closes(code: bytes) -> Callable[[Peer], object]:
    def then(peer: Peer) -> None:
        peer.connection.send(frame(8, code))
        while peer.receive() != (8, code):  # the client answers with the same
            pass

    return then


@pytest.mark.parametrize(
    ("code", "verdict", "how"),
    [
        (b"\x03\xe8", Verdict.CLOSED, "close frame 1000"),
        (b"\x03\xe9going away", Verdict.CLOSED, "close frame 1001"),
        (b"\x03\xf4", Verdict.CLOSED, "close frame 1012"),
        (b"", Verdict.CLOSED, "close frame 1005"),
        (b"\x03\xf3", Verdict.BROKEN, "close frame 1011"),
    ],
)
def test_a_server_that_closes(code: bytes, verdict: Verdict, how: str) -> None:
    result = talked(talking(closes(code)))
    assert (result.verdict, result.how.split(",")[0], result.messages) == (verdict, how, 3)


def test_an_end_of_file_with_all_messages_back_is_in_order() -> None:
    def then(peer: Peer) -> None:
        peer.connection.socket.close()

    result = talked(talking(then))
    assert (result.verdict, result.how, result.messages) == (Verdict.CLOSED, "end of file", 3)


def swallows(peer: Peer) -> None:
    peer.receive()


def resets(peer: Peer) -> None:
    peer.connection.reset()


def half(peer: Peer) -> None:
    peer.connection.send(frame(1, b"message 4")[:-2])


def begins(peer: Peer) -> None:
    peer.connection.send(frame(10, b"pong") + frame(1, b"message 4")[:1])


def of_bytes(peer: Peer) -> None:
    peer.receive()
    peer.connection.send(frame(2, b"message 4"))


def another(peer: Peer) -> None:
    peer.receive()
    peer.connection.send(frame(1, b"message 5"))


def unasked(peer: Peer) -> None:
    peer.connection.send(frame(1, b"message 4") * 50)


def masks(peer: Peer) -> None:
    peer.connection.send(b"\x81\x81\0\0\0\0m")


@pytest.mark.parametrize(
    ("then", "how"),
    [
        (swallows, "end of file, 1 messages not back"),
        (resets, "reset"),
        (half, "end of file within a frame"),
        (begins, "end of file within a frame"),
        (of_bytes, "bad answer: a message that is not text"),
        (another, "bad answer: message 4 is due, not b'message 5'"),
        (unasked, "bad answer: message"),
        (masks, "bad answer: client received unexpected masked frame"),
    ],
)
def test_a_websocket_that_is_broken(then: Callable[[Peer], object], how: str) -> None:
    result = talked(talking(then))
    assert (result.verdict, how in result.how) == (Verdict.BROKEN, True), result


def test_silence_breaks_a_websocket() -> None:
    def then(peer: Peer) -> None:
        while peer.receive():
            pass

    result = talked(talking(then), silence=0.2)
    assert (result.verdict, result.how) == (Verdict.BROKEN, "message 4 not back after 0.2 s")


def test_a_server_that_does_not_answer_the_close_is_broken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bench.load.websocket._GOODBYE_SECONDS", 0.2)

    def then(peer: Peer) -> None:
        while (got := peer.receive())[0] != 8:
            peer.connection.send(frame(*got))
        peer.connection.request()

    with serving(talking(then)) as server:
        with WebSocket(server.url(), seconds=0.2, every=0.03) as stream:
            assert stream.wait(10)
        assert stream.result().how == "no close frame came back"


def test_a_handshake_with_another_key_is_refused() -> None:
    def handler(connection: Connection) -> None:
        connection.request()
        connection.send(f"{ACCEPTED}Sec-WebSocket-Accept: AAAA\r\n\r\n".encode())

    result = talked(handler)
    assert (result.verdict, result.how) == (Verdict.BROKEN, "bad answer: Bad accept token")


def test_a_result_is_told_to_people_and_programs() -> None:
    result = downloaded(sends(CHUNKED, lines(1, 3)))
    told = re.sub(r"after [\d.]+ s", "after 0.0 s", result.summary())
    assert re.fullmatch(
        r"download http://127\.0\.0\.1:\d+/slow: closed \(end of file\) after 0\.0 s, "
        r"3 of 5 messages, trace 4bf9",
        told,
    )
    found = json.loads(json.dumps(result.as_dict()))
    assert (found["verdict"], found["how"], found["messages"]) == ("closed", "end of file", 3)


def test_streams_go_nowhere_else_and_end() -> None:
    with pytest.raises(NotAllowedError):
        WebSocket("http://192.0.2.1/", seconds=10)
    with pytest.raises(NotAllowedError):
        Download("http://198.18.0.11/", seconds=10)
    Download("http://198.18.0.11/", seconds=10, allow=["198.18.0.0/15"])
    with pytest.raises(ValueError, match="at most 7200"):
        Download("http://127.0.0.1/", seconds=7201)


def test_a_stream_left_by_an_exception_ends_at_once() -> None:
    begun = time.monotonic()
    with (
        serving(polite) as server,
        pytest.raises(KeyboardInterrupt),
        WebSocket(server.url(), seconds=60),
        Download(server.url(), seconds=60),
    ):
        raise KeyboardInterrupt
    assert time.monotonic() - begun < 1
