"""A service of the example shop: which one, and whom it asks, its environment says.

Every request but /healthz and .../export is answered after all upstreams were asked for the same
path, one after another by name, and tells in JSON who answered and what the upstreams said. So the
way of a request through the shop can be read off its answer, and the trace that it must have off
the inventory.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flask import Flask, Response, jsonify, request
from meshtrace.answers import UpstreamFailed, answer_failures
from meshtrace.drill import Drill
from meshtrace.headers import trace_headers
from meshtrace.upstream import Upstream

log = logging.getLogger(__name__)

URL = "_URL"
# What an export may ask for at most: it holds a thread all the while.
MOST_LINES = 2000
LONGEST_PAUSE_SECONDS = 1.0


def upstreams(environment: Mapping[str, str]) -> dict[str, Upstream]:
    """Return the upstreams that the variables <NAME>_URL tell of, by name in the order of names."""
    names = sorted(name.removesuffix(URL) for name in environment if name.endswith(URL))
    return {
        name.lower().replace("_", "-"): Upstream(
            name.lower().replace("_", "-"),
            environment[name + URL],
            timeout_seconds=float(environment.get("UPSTREAM_TIMEOUT_SECONDS", "12")),
            pool_size=int(environment.get("THREADS", "8")),
        )
        for name in names
    }


def create_app(environment: Mapping[str, str]) -> Flask:
    """Return the service that `environment` describes; its README lists the variables."""
    app = Flask(__name__)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    answer_failures(app)
    asked = upstreams(environment)
    file = environment.get("FAIL_FILE")
    drill = Drill(Path(file) if file else None)
    itself = {
        "service": environment["SERVICE_NAME"],
        "instance": socket.gethostname(),
        "address": environment["MESH_ADDRESS"],
        "version": environment.get("VERSION", "1"),
    }

    @app.get("/healthz")
    def health() -> str:
        """Tell whoever checks that this process answers; it says nothing about the upstreams."""
        return "ok\n"

    @app.get("/", defaults={"path": ""})
    @app.get("/<path:path>")
    def answer(path: str) -> Response:
        status = drill.status()
        if status is not None:
            log.warning("failing on command", extra={"status": status})
            return Response("Sorry, this is a drill.\n", status, mimetype="text/plain")
        if path.endswith("export"):
            return Response(export(itself["service"]), mimetype="text/plain")
        headers = trace_headers(request.headers.items())
        told = {name: said(one, request.path, headers) for name, one in asked.items()}
        return jsonify(itself | {"path": request.path, "upstreams": told})

    return app


def said(upstream: Upstream, path: str, headers: Mapping[str, str]) -> Any:
    """Return what an upstream answers for `path`; raises UpstreamFailed when it is no answer."""
    response = upstream.get(path, headers)
    try:
        return response.json()
    except ValueError as error:
        raise UpstreamFailed(
            f"{upstream.name} answered {response.status_code} and no JSON"
        ) from error


def export(service: str) -> Iterator[str]:
    """Return lines that come slowly, `lines` of them with `pause` seconds between, as asked for."""
    lines = min(request.args.get("lines", 10, int), MOST_LINES)
    pause = min(max(request.args.get("pause", 0.0, float), 0.0), LONGEST_PAUSE_SECONDS)

    def write() -> Iterator[str]:
        for number in range(1, lines + 1):
            yield f"{service} {number} of {lines}\n"
            time.sleep(pause)

    return write()


app = create_app(os.environ)
