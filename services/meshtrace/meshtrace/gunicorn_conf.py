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
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from gunicorn import systemd
from gunicorn.glogging import Logger
from gunicorn.http.errors import ParseException

from meshtrace import logs
from meshtrace.forwarded import Forwarded

wsgi_app = os.environ.get("WSGI_APP", "app:app")
workers = int(os.environ.get("WORKERS", "1"))
threads = int(os.environ.get("THREADS", "8"))
worker_class = os.environ.get("WORKER_CLASS", "gthread")
graceful_timeout = int(os.environ.get("GRACEFUL_TIMEOUT_SECONDS", "30"))
keepalive = int(os.environ.get("KEEP_ALIVE_SECONDS", "75"))
loglevel = os.environ.get("LOG_LEVEL", "info")

# Imported before the fork, an app shares its memory among the workers, but a fork takes no thread
# along: a scheduler that a module starts would live in the master only.
preload_app = os.environ.get("PRELOAD", "0") == "1"
# Instances of one user would share one control socket; systemd is who controls this process.
control_socket_disable = True
# A worker's heartbeat is a file's time stamp: not one to wait for a disk.
worker_tmp_dir = "/dev/shm"
# Envoy limits the headers, their number and the length of the URL, and says so with a status. What
# it lets through must not fail here: Envoy cannot be set to more than 8192 KiB of headers.
limit_request_field_size = 8192 * 1024
limit_request_line = 0
limit_request_fields = 0
# The peer on a unix socket is always trusted, and Envoy passes such headers of clients on: they
# would choose the scheme and the place of the app. meshtrace.forwarded reads what Envoy says.
secure_scheme_headers: dict[str, str] = {}
forwarder_headers = ""

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
    """Forget it: what this thread logs next belongs to nobody's request.

    What the app has not read of the body is read here: gunicorn would reset the connection, and
    Envoy, which still writes, would answer 503 instead of what the app said.
    """
    logs.serving(())
    if environ.get("CONTENT_LENGTH", "0") != "0" or "HTTP_TRANSFER_ENCODING" in environ:
        _read_rest(req.body, environ["gunicorn.socket"])


_REST_SECONDS = 5.0  # at most; Envoy closes the connection as soon as it has the whole answer


def _read_rest(body: Any, connection: Any) -> None:
    before, deadline = connection.gettimeout(), time.monotonic() + _REST_SECONDS
    # The client may be gone, and what it sends may be no valid body.
    with contextlib.suppress(OSError, ParseException):
        while (left := deadline - time.monotonic()) > 0:
            connection.settimeout(left)
            if not body.read(65536):
                break
    with contextlib.suppress(OSError):
        connection.settimeout(before)


# Taking over from a running gunicorn (SIGUSR2), so that no request waits for a new release. The
# role's flask-control begins it and watches: it is told in RUNTIME_DIRECTORY which process is to
# follow and which one serves.
_predecessor = os.environ.get("GUNICORN_PID")
_runtime = os.environ.get("RUNTIME_DIRECTORY")
_FIRST_DESCRIPTOR = 3  # of the sockets that systemd hands over: sd_listen_fds(3)


def _tell(file: str, process: int) -> None:
    assert _runtime is not None
    path = Path(_runtime, file)
    # Several workers may tell the same at once: each writes a file of its own.
    own = path.with_name(f".{file}.{os.getpid()}")
    own.write_text(str(process))
    own.replace(path)


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


# gunicorn tells systemd "ready" before any worker has imported the app, and its status hides which
# configuration serves. It does not find the socket for that while it would say so.
_notify_socket = os.environ.get("NOTIFY_SOCKET")


def on_starting(server: Any) -> None:
    """Keep gunicorn from telling systemd that it is ready: the first worker will."""
    os.environ.pop("NOTIFY_SOCKET", None)


def when_ready(server: Any) -> None:
    """Go on where gunicorn would have told systemd; warn of threads that no worker will have."""
    if _notify_socket is not None:
        os.environ["NOTIFY_SOCKET"] = _notify_socket
    lost = [
        thread.name for thread in threading.enumerate() if thread is not threading.main_thread()
    ]
    if preload_app and lost:
        logging.getLogger("gunicorn.error").warning(
            "the app has started threads while it was imported (%s); with `app.preload: true` they"
            " exist in gunicorn's master only, and no request meets them. Set `app.preload: false`,"
            " or start them in the worker, with os.register_at_fork",
            ", ".join(lost),
        )


def post_worker_init(worker: Any) -> None:
    """Let the app see its clients; say that this process serves, the first of its workers does.

    A process that takes over from another one tells that one to go.
    """
    worker.wsgi = Forwarded(worker.wsgi)
    master = os.getppid()
    if not worker.alive or not _is_next(master):
        return
    words = ["READY=1", _status(), *([f"MAINPID={master}"] if _predecessor is not None else [])]
    systemd.sd_notify("\n".join(words), logging.getLogger("gunicorn.error"))
    if _runtime is not None:
        _tell("serving", master)
    if _predecessor is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(_predecessor), signal.SIGTERM)


def _is_next(master: int) -> bool:
    """Tell whether the gunicorn `master` is to serve from now on, and does not serve yet.

    A worker may be ready so late that another gunicorn has taken over from its own meanwhile.
    """
    serving = _serving() if _runtime is not None else ""
    if serving == str(master):
        return False
    return serving in ("", _predecessor) or not Path("/proc", serving).exists()


def worker_exit(server: Any, worker: Any) -> None:
    """Have gunicorn end when a worker could not start: it would start others for ever.

    It sees to that by itself where an import raises an exception, but not where it exits.
    """
    if worker.pid == os.getpid() and worker.alive and not worker.booted:
        # Python tells the reason of sys.exit when it ends, which it does not here.
        reason = sys.exc_info()[1]
        if isinstance(reason, SystemExit) and isinstance(reason.code, str):
            print(reason.code, file=sys.stderr, flush=True)
        logging.shutdown()
        os._exit(server.WORKER_BOOT_ERROR)


def _serving() -> str:
    try:
        return Path(str(_runtime), "serving").read_text()
    except OSError:
        return ""
