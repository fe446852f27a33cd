"""Service 2 of the demo: checks the stock; it calls nobody."""

from __future__ import annotations

import logging
import os
import socket

from flask import Flask
from meshtrace.answers import answer_failures

# The address others reach this VM by. Asking the resolver would not do: Debian's
# /etc/hosts gives 127.0.1.1 for a machine's own name.
MESH_ADDRESS = os.environ["MESH_ADDRESS"]

log = logging.getLogger(__name__)
app = Flask(__name__)
answer_failures(app)


def hello() -> str:
    """Say which service this is and where it runs."""
    return (
        f"Hello from behind Envoy (service 2)! hostname: {socket.gethostname()} "
        f"resolvedhostname: {MESH_ADDRESS}\n"
    )


@app.get("/service/2")
def service() -> str:
    """Answer without asking anybody."""
    return hello()


@app.get("/trace/2")
def trace() -> str:
    """Answer as the last service of the trace."""
    log.info("the stock has been checked")
    return hello()


@app.get("/healthz")
def health() -> str:
    """Tell whoever checks that this process answers."""
    return "ok\n"
