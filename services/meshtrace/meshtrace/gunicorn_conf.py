"""gunicorn's settings for an app behind Envoy; the README of this package lists the variables.

`bind` is missing on purpose: systemd hands over the listening socket. So is
`forwarded_allow_ips`: it does not apply to a unix socket, and only this service's Envoy may open
this one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import signal
import socket
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from gunicorn import systemd
from gunicorn.glogging import Logger

from meshtrace import logs

wsgi_app = os.environ.get("WSGI_APP", "app:app")
workers = int(os.environ.get("WORKERS", "1"))
threads = int(os.environ.get("THREADS", "8"))
worker_class = os.environ.get("WORKER_CLASS", "gthread")
graceful_timeout = int(os.environ.get("GRACEFUL_TIMEOUT_SECONDS", "30"))
keepalive = int(os.environ.get("KEEP_ALIVE_SECONDS", "75"))
loglevel = os.environ.get("LOG_LEVEL", "info")

# gunicorn tells systemd "ready" once the app is imported only if it imports it itself.
preload_app = True
# Instances of one user would share one control socket; systemd is who controls this process.
control_socket_disable = True
# A worker's heartbeat is a file's time stamp: not one to wait for a disk.
worker_tmp_dir = "/dev/shm"
# Envoy refuses headers above 60 KiB in all; gunicorn's own limit of one field is 8190 bytes,
# and a request that Envoy lets through must not fail here.
limit_request_field_size = 61440
limit_request_line = 0
limit_request_fields = 200

# How long an answer may take to get to an Envoy of the same host that is busy sending.
_REST_SECONDS = 2.0
_REST_BYTES = 65536

_access_log = os.environ.get("ACCESS_LOG", "0") == "1"


class JsonLogger(Logger):  # type: ignore[misc]  # gunicorn ships no types
    """gunicorn's log, in the form of the app's own."""

    def setup(self, cfg: Any) -> None:
        """Take over gunicorn's settings, then log as JSON, the app's log included."""
        super().setup(cfg)
        handler = logs.configure(self.loglevel)
        # gunicorn keeps its two logs from the root logger.
        self.error_log.handlers = [handler]
        self.access_log.handlers = [handler]

    def _compute_access_log_enabled(self) -> bool:
        return _access_log

    def access(self, resp: Any, req: Any, environ: Any, request_time: timedelta) -> None:
        """Write one line about a request served."""
        if _access_log:
            self.access_log.info(
                "%s %s",
                req.method,
                req.path,
                extra={
                    # Where gunicorn itself refuses a request only the status line is set.
                    "status": int(str(resp.status).split(maxsplit=1)[0]),
                    "bytes": resp.sent,
                    "milliseconds": round(request_time / timedelta(milliseconds=1), 1),
                },
            )


logger_class = JsonLogger


def pre_request(worker: Any, req: Any) -> None:
    """Note whose request this thread serves, for the log."""
    logs.serving(req.headers)


def post_request(worker: Any, req: Any, environ: Any, resp: Any) -> None:
    """Forget it: what this thread logs next belongs to nobody's request."""
    logs.serving(())
    if sock := environ.get("gunicorn.socket"):
        _read_rest(req.body, sock)


def _read_rest(body: Any, sock: socket.socket) -> None:
    """Take in what an app left of a request that it refused, until the sender has the answer.

    gunicorn gives up after 64 KiB and closes the connection. For Envoy, which is still sending
    then, that is a failed request: it answers 503 in place of the app. Once it has read the
    answer it sends no more.
    """
    before, deadline = sock.gettimeout(), time.monotonic() + _REST_SECONDS
    with contextlib.suppress(Exception):  # a body that cannot be read is the worker's to treat
        while (left := deadline - time.monotonic()) > 0:
            sock.settimeout(left)
            if not body.read(_REST_BYTES):
                break
    with contextlib.suppress(OSError):
        sock.settimeout(before)


# Taking over from a running gunicorn (SIGUSR2), so that no request waits for a new release. The
# role's flask-control begins it and watches: it is told in RUNTIME_DIRECTORY which process is to
# follow and which one serves.
_predecessor = os.environ.get("GUNICORN_PID")
_runtime = os.environ.get("RUNTIME_DIRECTORY")
_FIRST_DESCRIPTOR = 3  # of the sockets that systemd hands over: sd_listen_fds(3)


def _tell(file: str, process: int) -> None:
    assert _runtime is not None
    path = Path(_runtime, file)
    path.with_name(f".{file}").write_text(str(process))
    path.with_name(f".{file}").replace(path)


def pre_exec(server: Any) -> None:
    """Let the process that takes over be the release and settings of today, not those of old.

    gunicorn has forked this process and executes what START_CTX says next.
    """
    if os.fork():
        os._exit(0)  # so that systemd's first process becomes its parent, and supervises it
    command = [sys.executable, *shlex.split(os.environ["FLASK_CONTROL"])]
    server.START_CTX.update({0: command[0], "args": command, "cwd": "/"})
    for number, listener in enumerate(server.LISTENERS):
        os.dup2(listener.sock.fileno(), _FIRST_DESCRIPTOR + number)
    _tell("next", os.getpid())


def _status() -> str:
    """Say in `systemctl status` which configuration this process was started with."""
    return f"STATUS=Serving {wsgi_app}, configuration {os.environ.get('CONFIG_ID') or 'unnamed'}"


def when_ready(server: Any) -> None:
    """Tell systemd what this process serves, unless another one still does."""
    if _predecessor is None:
        systemd.sd_notify(_status(), logging.getLogger("gunicorn.error"))


def post_worker_init(worker: Any) -> None:
    """Take over: a first worker of the new process can serve, so the old one may go."""
    master = os.getppid()
    if _predecessor is None or _runtime is None or _serving() == str(master):
        return
    systemd.sd_notify(f"MAINPID={master}\n{_status()}", logging.getLogger("gunicorn.error"))
    _tell("serving", master)
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(_predecessor), signal.SIGTERM)


def _serving() -> str:
    try:
        return Path(str(_runtime), "serving").read_text()
    except OSError:
        return ""
