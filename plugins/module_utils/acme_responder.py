# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""Answers challenges http-01 at a unix socket, to which the edge's Envoy sends them."""

from __future__ import annotations

import contextlib
import http.server
import os
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

# RFC 8555, section 8.3.
PREFIX = "/.well-known/acme-challenge/"


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


@contextlib.contextmanager
def responder(path: Path) -> Iterator[dict[str, str]]:
    """Serve at a unix socket while the context lasts; raises OSError.

    Yields the mapping of tokens to answers, which is empty and may be changed meanwhile. Any other
    request gets 404, so that an Envoy with several hosts to ask tries the next one.
    """
    answers: dict[str, str] = {}
    with served(path, _handler(answers)):
        yield answers


@contextlib.contextmanager
def served(path: Path, handler: type[socketserver.BaseRequestHandler]) -> Iterator[None]:
    """Serve connections to a unix socket by `handler` while the context lasts; raises OSError."""
    path.unlink(missing_ok=True)
    # The socket is for its owner and for the group of its folder, which is Envoy's.
    mask = os.umask(0o117)
    try:
        server = _Server(str(path), handler)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.umask(mask)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        path.unlink(missing_ok=True)


def _handler(answers: dict[str, str]) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        # One request a connection: no Envoy holds one to a socket that is about to go.
        protocol_version = "HTTP/1.0"

        def do_GET(self) -> None:
            # The edge's other hosts ask under a path of their own (vmesh/compile/acme_views.py).
            found = answers.get(self.path.rpartition("/")[2])
            body = (found or "no such challenge here\n").encode()
            self.send_response(200 if found else 404)
            self.send_header("content-type", "text/plain")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def address_string(self) -> str:
            return "envoy"

        def log_message(self, *_: object) -> None:
            """Say nothing: the access log of Envoy has each request."""

    return Handler
