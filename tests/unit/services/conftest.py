"""A service of the demo in this process, and a stand-in for the service it calls."""

from __future__ import annotations

import importlib.util
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType
from typing import Any

import pytest

from vmesh.base.paths import PROJECT

LoadService = Callable[[str, dict[str, str]], ModuleType]


@pytest.fixture
def load_service(monkeypatch: pytest.MonkeyPatch) -> LoadService:
    """Import a service's `app.py` afresh with the given environment."""

    def load(name: str, environment: dict[str, str]) -> ModuleType:
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        spec = importlib.util.spec_from_file_location(
            f"tested_{name}", PROJECT / "services" / name / "app.py"
        )
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@dataclass
class StandIn:
    """A service that answers as told and remembers what it was sent."""

    status: int = 200
    delay: float = 0.0
    json: Any = None  # what it answers; nothing: an empty body
    extra_headers: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving(state: StandIn) -> Iterator[StandIn]:
    """Let a stand-in serve on the loopback address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            state.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
            time.sleep(state.delay)
            body = b"" if state.json is None else json.dumps(state.json).encode()
            self.send_response(state.status)
            for name, value in state.extra_headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_args: object) -> None:
            """A client that gave up waiting is part of the test."""

    server = Server(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    """A service 2 on the loopback address."""
    with serving(StandIn()) as state:
        yield state
