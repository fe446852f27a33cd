"""A small client of QEMU's monitor protocol (QMP)."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class QmpError(Exception):
    """QEMU refused a command, or its monitor did not answer."""


def connect_unix(path: Path, timeout: float) -> socket.socket:
    """Connect to the unix socket at `path`, however long that path is.

    A socket's address holds 108 bytes, a user's folders may be deeper: the
    folder is opened first and named by its descriptor.
    """
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.settimeout(timeout)
        try:
            client.connect(f"/proc/self/fd/{folder}/{path.name}")
        except OSError:
            client.close()
            raise
        return client
    finally:
        os.close(folder)


class Qmp:
    """One conversation with a running QEMU. Use as a context manager."""

    def __init__(self, path: Path, timeout: float = 30.0) -> None:
        """Connect to the monitor at `path`. Raises QmpError when nobody answers."""
        try:
            self._socket = connect_unix(path, timeout)
        except OSError as error:
            raise QmpError(f"no QEMU answers at {path}: {error}") from error
        self._stream = self._socket.makefile("rw", encoding="utf-8")
        try:
            self._read()  # the greeting
            self.command("qmp_capabilities")
        except QmpError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the conversation; QEMU goes on."""
        # What could not be sent does not matter any more.
        with contextlib.suppress(OSError):
            self._stream.close()
        self._socket.close()

    def _read(self) -> dict[str, Any]:
        try:
            line = self._stream.readline()
        except OSError as error:
            raise QmpError(f"the monitor did not answer: {error}") from error
        if not line:
            raise QmpError("QEMU closed the monitor")
        message = json.loads(line)
        if not isinstance(message, dict):
            raise QmpError(f"not a QMP message: {line.strip()}")
        return message

    def command(self, name: str, **arguments: Any) -> Any:
        """Run the QMP command `name` and return its result. Raises QmpError when refused."""
        request = {"execute": name, **({"arguments": arguments} if arguments else {})}
        try:
            self._stream.write(json.dumps(request) + "\n")
            self._stream.flush()
        except OSError as error:
            raise QmpError(f"the monitor is gone: {error}") from error
        while True:
            message = self._read()
            if "error" in message:
                raise QmpError(f"{name}: {message['error'].get('desc', message['error'])}")
            if "return" in message:
                return message["return"]
            # Anything else is an event; nobody here waits for one.

    def human(self, line: str) -> None:
        """Run a command of the human monitor, which answers only when something is wrong."""
        answer = self.command("human-monitor-command", **{"command-line": line})
        if answer.strip():
            raise QmpError(f"{line}: {answer.strip()}")
