# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""Answers challenges tls-alpn-01 (RFC 8737) at a unix socket.

The edge's Envoy sends connections there that ask for the protocol `acme-tls/1`, without looking
into them. For edges where the authority cannot reach port 80.
"""

from __future__ import annotations

import contextlib
import os
import socketserver
import ssl
from collections.abc import Iterator
from pathlib import Path

from . import acme_openssl
from .acme_responder import served

PROTOCOL = "acme-tls/1"
# No authority holds a connection for longer.
_SECONDS = 10


@contextlib.contextmanager
def tls_responder(path: Path) -> Iterator[dict[str, str]]:
    """Serve at a unix socket while the context lasts; raises OSError.

    Yields the mapping of domains to key authorizations, which may be changed meanwhile. Another
    name gets no certificate, so that the handshake fails.
    """
    answers: dict[str, str] = {}

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.settimeout(_SECONDS)
            # The handshake is the answer.
            with (
                contextlib.suppress(OSError),
                _context(answers).wrap_socket(self.request, server_side=True) as connection,
            ):
                connection.unwrap()

    with served(path, Handler):
        yield answers


def _context(answers: dict[str, str]) -> ssl.SSLContext:
    """Return what a connection is accepted with: the certificate follows from the name."""

    def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        if name in answers:
            chosen = _bare()
            _load(chosen, name, answers[name])
            connection.context = chosen

    context = _bare()
    context.sni_callback = choose
    return context


def _bare() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols([PROTOCOL])
    return context


def _load(context: ssl.SSLContext, domain: str, authorization: str) -> None:
    """Load the certificate that proves `domain`; Python takes files alone, so it is in memory."""
    chain, key = acme_openssl.challenge_certificate(domain, authorization)
    handle = os.memfd_create("acme-challenge", os.MFD_CLOEXEC)
    try:
        os.write(handle, f"{chain}{key}".encode())
        context.load_cert_chain(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)
