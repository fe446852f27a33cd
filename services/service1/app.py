"""Service 1 of the demo: checks availability, for which it asks service 2 about the stock."""

from __future__ import annotations

import logging
import os
import socket

from flask import Flask, request
from meshtrace.answers import answer_failures
from meshtrace.headers import trace_headers
from meshtrace.upstream import Upstream

# The address others reach this VM by. Asking the resolver would not do: Debian's
# /etc/hosts gives 127.0.1.1 for a machine's own name.
MESH_ADDRESS = os.environ["MESH_ADDRESS"]

log = logging.getLogger(__name__)
app = Flask(__name__)
answer_failures(app)
service2 = Upstream(
    "service 2",
    os.environ["SERVICE2_URL"],
    timeout_seconds=float(os.environ.get("UPSTREAM_TIMEOUT_SECONDS", "12")),
    pool_size=int(os.environ.get("THREADS", "8")),
)


def hello() -> str:
    """Say which service this is and where it runs."""
    return (
        f"Hello from behind Envoy (service 1)! hostname: {socket.gethostname()} "
        f"resolvedhostname: {MESH_ADDRESS}\n"
    )


@app.get("/service/1")
def service() -> str:
    """Answer without asking anybody."""
    return hello()


@app.get("/trace/1")
def trace() -> str:
    """Ask service 2 first, so that the trace of this request shows both."""
    response = service2.get("/trace/2", trace_headers(request.headers.items()))
    log.info("service 2 has answered", extra={"status": response.status_code})
    return hello()


@app.get("/healthz")
def health() -> str:
    """Tell whoever checks that this process answers; it says nothing about service 2."""
    return "ok\n"
