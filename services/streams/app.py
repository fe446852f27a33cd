"""What lasts: a slow download, a long request, a WebSocket, to see what a change does to them."""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from flask import Flask, Response, abort, jsonify, request
from meshtrace.answers import UpstreamFailed, answer_failures
from meshtrace.drill import Drill
from meshtrace.headers import trace_headers
from meshtrace.upstream import Upstream
from simple_websocket import ConnectionClosed, Server

log = logging.getLogger(__name__)

# What a request may ask for at most: it holds a thread all the while.
LONGEST_DOWNLOAD_SECONDS = 1800.0
LONGEST_WAIT_SECONDS = 120.0
SHORTEST_PAUSE_SECONDS = 0.01
MOST_MESSAGE_BYTES = 65536
# How often a WebSocket that nobody speaks on is looked after.
_TICK_SECONDS = 0.25
GOING_AWAY = 1001
# How long a client has to answer that.
GOODBYE_SECONDS = 1.0


def create_app(environment: Mapping[str, str]) -> Flask:
    """Return the service that `environment` describes; its README lists the variables."""
    app = Flask(__name__)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    answer_failures(app)
    file = environment.get("FAIL_FILE")
    drill = Drill(Path(file) if file else None)
    back = upstream(environment)
    name, version = environment["SERVICE_NAME"], environment.get("VERSION", "1")
    grace = float(environment.get("GRACEFUL_TIMEOUT_SECONDS", "30"))

    @app.before_request
    def fail() -> Response | None:
        """Fail on command, but for the health check."""
        status = None if request.path == "/healthz" else drill.status()
        if status is None:
            return None
        log.warning("failing on command", extra={"status": status})
        return Response("Sorry, this is a drill.\n", status, mimetype="text/plain")

    @app.get("/healthz")
    def health() -> str:
        """Tell whoever checks that this process answers."""
        return "ok\n"

    @app.get("/streams/hello")
    def hello() -> Response:
        """Tell who answers, and what the upstream says, if there is one."""
        told: dict[str, Any] = {
            "service": name,
            "instance": socket.gethostname(),
            "version": version,
            "pid": os.getpid(),
        }
        if back is not None:
            told["upstream"] = said(back, trace_headers(request.headers.items()))
        return jsonify(told)

    @app.get("/streams/slow")
    def slow() -> Response:
        """Send lines for so many seconds."""
        every = asked("every", 1.0, SHORTEST_PAUSE_SECONDS, LONGEST_DOWNLOAD_SECONDS)
        seconds = asked("seconds", 10.0, 0.0, LONGEST_DOWNLOAD_SECONDS)
        return Response(lines(seconds, every), mimetype="text/plain")

    @app.get("/streams/wait")
    def wait() -> str:
        """Answer after so many seconds."""
        seconds = asked("seconds", 1.0, 0.0, LONGEST_WAIT_SECONDS)
        time.sleep(seconds)
        return f"waited {seconds:g} s\n"

    @app.get("/streams/ws")
    def no_websocket() -> Response:
        """Refuse what is no WebSocket."""
        return sentence("This path takes WebSockets", 426)

    @app.route("/streams/ws", websocket=True)
    def websocket() -> Response:
        """Send every message back, until the client closes or this process stops."""
        accepted = accept()
        try:
            echo(accepted, grace)
        except ConnectionClosed as closed:
            log.info("the WebSocket has ended", extra={"code": int(closed.reason)})
        # The library's thread has still to send, or to be sent, the answering close frame; when
        # this function is left gunicorn ends the connection.
        accepted.thread.join(GOODBYE_SECONDS)
        return Taken()

    return app


def sentence(text: str, status: int) -> Response:
    """Return a refusal."""
    return Response(f"{text}.\n", status, mimetype="text/plain")


def asked(name: str, default: float, least: float, most: float) -> float:
    """Return a number of the query. Aborts with 400 when it is none, or out of its bounds."""
    given = request.args.get(name, str(default))
    try:
        number = float(given)
    except ValueError:
        number = math.nan
    if not least <= number <= most:
        abort(sentence(f"{name} must be a number from {least:g} to {most:g}", 400))
    return number


def lines(seconds: float, every: float) -> Iterator[str]:
    """Give numbered lines, the first at once and then one every so often, for so long."""
    count = math.floor(seconds / every) + 1
    begun = time.monotonic()
    for number in range(1, count + 1):
        yield f"line {number} of {count}\n"
        # Counted from the beginning, so that late lines do not make all others late.
        if number < count:
            time.sleep(max(begun + number * every - time.monotonic(), 0))


def upstream(environment: Mapping[str, str]) -> Upstream | None:
    """Return the service behind this one; None when the environment names none."""
    url = environment.get("STREAMS_BACK_URL")
    if not url:
        return None
    return Upstream(
        "streams-back",
        url,
        timeout_seconds=float(environment.get("UPSTREAM_TIMEOUT_SECONDS", "12")),
        pool_size=int(environment.get("THREADS", "8")),
    )


def said(back: Upstream, headers: Mapping[str, str]) -> Any:
    """Return who answers behind this service; raises UpstreamFailed when nobody does."""
    response = back.get("/streams/hello", headers)
    try:
        return response.json()
    except ValueError as error:
        raise UpstreamFailed(f"{back.name} answered {response.status_code} and no JSON") from error


class Taken(Response):
    """The end of a request whose connection has been used for something else."""

    def __call__(self, *_: Any) -> Any:
        """End the request: this is how gunicorn's thread worker is told to send nothing."""
        raise StopIteration


def accept() -> Server:
    """Turn this request's connection into a WebSocket, or abort with 400."""
    environ = request.environ
    # A socket of the library's own, as it closes it: gunicorn counts its connections by closing
    # them, and counts one twice that is closed already.
    taken = environ["gunicorn.socket"].dup()
    try:
        return Server.accept(
            environ | {"gunicorn.socket": taken},
            max_message_size=MOST_MESSAGE_BYTES,
            # A peer that never answers must not keep a stopping process.
            thread_class=partial(threading.Thread, daemon=True),
        )
    except Exception:
        taken.close()
        log.info("no WebSocket", exc_info=True)
        abort(sentence("This is no handshake of a WebSocket", 400))


def echo(accepted: Server, grace: float) -> None:
    """Send messages back; raises ConnectionClosed when the client ends it.

    When this process is stopped the conversation may go on for nearly all of its grace time, and is
    then closed as the protocol has it: going away.
    """
    stopped: float | None = None
    while True:
        message = accepted.receive(timeout=_TICK_SECONDS)
        if message is not None:
            accepted.send(message)
        if stopped is None and stopping():
            stopped = time.monotonic()
        if stopped is not None and time.monotonic() > stopped + max(grace - 2.0, grace / 2):
            accepted.close(GOING_AWAY, "this process stops")
            return


def stopping() -> bool:
    """Tell whether this process has been told to stop.

    gunicorn's worker notes it in the object that its handler of SIGTERM belongs to. There is no
    other sign of it while a request is being served.
    """
    worker = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return not getattr(worker, "alive", True)


app = create_app(os.environ)
