"""gunicorn's settings for an app behind Envoy; the README of this package lists the variables.

`bind` is missing on purpose: systemd hands over the listening socket. So is
`forwarded_allow_ips`: it does not apply to a unix socket, and only this service's Envoy may open
this one.
"""

from __future__ import annotations

import logging
import os
from datetime import timedelta
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


def when_ready(server: Any) -> None:
    """Show in `systemctl status` which configuration this process was started with."""
    status = f"STATUS=Serving {wsgi_app}, configuration {os.environ.get('CONFIG_ID') or 'unnamed'}"
    systemd.sd_notify(status, logging.getLogger("gunicorn.error"))
