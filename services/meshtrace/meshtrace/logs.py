"""Logs for journald: one JSON object a line, with the ids of the request being served."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Iterable
from contextvars import ContextVar
from datetime import UTC, datetime

# Pairs of the request that this thread (or greenlet) serves, as gunicorn parsed them.
# Kept raw: most requests log nothing, so the ids are looked for when a line is written.
_request: ContextVar[tuple[tuple[str, str], ...]] = ContextVar("request", default=())

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_B3_TRACE_ID = re.compile(r"[0-9a-f]{16}(?:[0-9a-f]{16})?")

# What every record has; whatever else is on one came with `extra=`.
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}

# journald takes a line's priority from such a prefix (see sd-daemon(3)) and removes it.
_PRIORITY = {
    logging.CRITICAL: "<2>",
    logging.ERROR: "<3>",
    logging.WARNING: "<4>",
    logging.INFO: "<6>",
    logging.DEBUG: "<7>",
}


def serving(headers: Iterable[tuple[str, str]]) -> None:
    """Note that this thread now serves the request with these headers (none: no request)."""
    _request.set(tuple(headers))


def trace_id(headers: Iterable[tuple[str, str]]) -> str | None:
    """Return the trace id a request carries: W3C's `traceparent`, else B3; None without one."""
    given = {name.lower(): value.strip().lower() for name, value in headers}
    if match := _TRACEPARENT.fullmatch(given.get("traceparent", "")):
        return match[1]
    for candidate in (given.get("b3", "").split("-")[0], given.get("x-b3-traceid", "")):
        if _B3_TRACE_ID.fullmatch(candidate):
            return candidate
    return None


def request_id(headers: Iterable[tuple[str, str]]) -> str | None:
    """Return the id Envoy gave the request; None without one."""
    return next((value for name, value in headers if name.lower() == "x-request-id"), None)


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object in one line."""

    def __init__(self, *, priority_prefix: bool = False) -> None:
        super().__init__()
        self._priority_prefix = priority_prefix

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for a record; never raises for values JSON does not know."""
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, object] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        headers = _request.get()
        for key, value in (("trace_id", trace_id(headers)), ("request_id", request_id(headers))):
            if value is not None:
                line[key] = value
        line |= {k: v for k, v in record.__dict__.items() if k not in _STANDARD and k not in line}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        prefix = _PRIORITY.get(record.levelno, "") if self._priority_prefix else ""
        return prefix + json.dumps(line, default=str)


def stderr_is_journal() -> bool:
    """Tell whether standard error goes straight to journald, as systemd.exec(5) describes."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


def configure(level: int) -> logging.Handler:
    """Send the log of the whole process to standard error as JSON, from `level` up.

    Returns the handler, for loggers that do not pass their records on to the root.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(priority_prefix=stderr_is_journal()))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    return handler
