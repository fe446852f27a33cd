"""Small servers on the loopback address that behave, or misbehave, exactly as a test says."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

# Serves one accepted connection; the number counts connections from 1. What it returns does not
# matter; the connection is closed afterwards.
Handler = Callable[["Connection"], object]


@dataclass
class Connection:
    """The server's end of a connection."""

    socket: socket.socket
    number: int
    server: Server

    def request(self) -> str | None:
        """Return the next request up to its empty line; None when the client has closed."""
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            try:
                got = self.socket.recv(1)
            except ConnectionError:
                return None
            if not got:
                return None
            data += got
        text = data.decode()
        with self.server.lock:
            self.server.requests.append(text)
        return text

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def answer(self, body: str = "ok\n", status: str = "200 OK", fields: str = "") -> None:
        """Send a whole answer; `fields` are header lines, each with its end."""
        head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{fields}\r\n"
        self.send((head + body).encode())

    def reset(self) -> None:
        """End the connection brutally."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


@dataclass
class Server:
    """A running server: where it is, and what it was asked."""

    port: int
    requests: list[str] = field(default_factory=list)
    connections: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        """Return the URL of a path."""
        return f"http://{host}:{self.port}{path}"


@contextmanager
def serving(handler: Handler, host: str = "127.0.0.1") -> Iterator[Server]:
    """Let a handler serve each connection in a thread of its own."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family, backlog=200) as listening:
        server = Server(listening.getsockname()[1])

        def serve(connection: Connection) -> None:
            with connection.socket, contextlib.suppress(OSError):
                handler(connection)

        def accept() -> None:
            while True:
                try:
                    accepted, _ = listening.accept()
                except OSError:
                    return
                with server.lock:
                    server.connections += 1
                    connection = Connection(accepted, server.connections, server)
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield server
        finally:
            listening.shutdown(socket.SHUT_RDWR)


def polite(connection: Connection) -> None:
    """Answer every request with 200 and ok."""
    while connection.request() is not None:
        connection.answer()


def unused_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port
