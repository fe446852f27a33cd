# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""Processes that are not children of this one: found, started, waited for and ended."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

# The status of a TCP socket that listens, in /proc/net/tcp.
_LISTEN = "0A"


class NotStarted(Exception):  # noqa: N818 - says what happened
    """A program could not be started; the text has the program and the reason."""


class Process:
    """A process by its pidfd, so that its number cannot come to mean another one."""

    def __init__(self, pid: int) -> None:
        """Raises ProcessLookupError when there is none."""
        self.pid, self.handle = pid, os.pidfd_open(pid)

    def has_ended(self, within: float = 0) -> bool:
        """Tell whether it has ended, or ends `within` so many seconds."""
        return bool(select.select([self.handle], [], [], within)[0])

    def end(self) -> None:
        """Ask it to end, and kill it when it has not ended after 10 s."""
        if not self._ends(signal.SIGTERM, 10):
            self.kill()

    def kill(self) -> None:
        """Kill it, and wait until it is gone."""
        self._ends(signal.SIGKILL, 5)

    def _ends(self, by: signal.Signals, within: float) -> bool:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.handle, by)
        return self.has_ended(within)


def wait_for(
    holds: Callable[[], bool], process: Process, seconds: float, pause: float = 0.05
) -> bool:
    """Wait until `holds`; tell whether it did before `process` ended and the time was over."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline or process.has_ended(pause):
            return False
    return True


def arguments_of(pid: int) -> list[str]:
    """Return the command line of a process; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def option(arguments: Sequence[str], name: str, default: str = "") -> str:
    """Return the value after an option of a command line."""
    with contextlib.suppress(ValueError, IndexError):
        return arguments[arguments.index(name) + 1]
    return default


def connections_of(pid: int) -> int:
    """Return how many connections of clients (to ports that listen) a process holds."""
    held = set()
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                held.add(str(link.readlink()))
    listening, established = set(), []
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                port, state, inode = fields[1].rpartition(":")[2], fields[3], fields[9]
                if state == _LISTEN:
                    listening.add(port)
                elif f"socket:[{inode}]" in held:
                    established.append(port)
    return sum(port in listening for port in established)


def spawn(command: Sequence[str]) -> Process:
    """Start a program as a child of PID 1 and return its process; raises NotStarted."""

    def become(pipe: int) -> None:
        try:
            os.execv(command[0], list(command))
        except OSError as error:
            os.write(pipe, f"!{error.strerror}\n".encode())

    # `!` sorts before the digits of the process's number.
    lines = sorted(_orphan(become))
    if lines[0].startswith("!"):
        raise NotStarted(f"{command[0]} cannot be started: {lines[0][1:]}")
    try:
        return Process(int(lines[0]))
    except ProcessLookupError as error:
        raise NotStarted(f"the new process {lines[0]} ended at once") from error


def in_background(work: Callable[[], None]) -> int:
    """Go on with `work` in another process, a child of PID 1; return its number.

    `work` must import nothing: the program's file may be removed meanwhile.
    """

    def alone(pipe: int) -> None:
        os.close(pipe)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        work()

    return int(_orphan(alone)[0])


def _orphan(work: Callable[[int], None]) -> list[str]:
    """Do `work` in a process whose parent is PID 1, as systemd supervises no other.

    Returns its number and what it writes to the pipe that `work` is given, until that is closed.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        intermediate = os.getpid()
        try:
            if grandchild := os.fork():
                os.write(writing, f"{grandchild}\n".encode())
                os._exit(0)
            # Envoy has the kernel end it with its parent, so that must be PID 1 by then.
            while os.getppid() == intermediate:
                time.sleep(0.001)
            work(writing)
        finally:
            os._exit(1)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as stream:
        return stream.read().splitlines()
