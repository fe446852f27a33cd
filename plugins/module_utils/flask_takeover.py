# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""Start, try and renew the gunicorn of a Flask service: flask-control COMMAND NAME.

  serve   becomes gunicorn (the unit's ExecStart)
  reload  has a new gunicorn take over from the running one (the unit's ExecReload)
  trial   starts a release on a socket of its own and requests its health path

A gunicorn starts with the release that /opt/NAME/current leads to at that time, and with the
settings in /etc/flask/NAME/env. Exit status 0: done; 1: with the reason on standard error.

A new gunicorn takes over as in gunicorn's own upgrade (SIGUSR2, see
https://gunicorn.org/deploy/#upgrading), with the socket that systemd holds, so no request waits
for it. The package meshtrace does gunicorn's part: it writes which process is next
(RUNTIME_DIRECTORY/next) and which one has begun to serve (RUNTIME_DIRECTORY/serving).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from .environment_file import read_environment
from .processes import Process, wait_for
from .systemd import wait_until
from .unix_http import FAULTS, UnixConnection, status_of

# The command on a host. A running gunicorn starts its successor with this path, which stays the
# same when the kit changes, and when a rollback restores a release of vmesh without the kit.
PROGRAM = "/usr/local/bin/flask-control"
GUNICORN = (
    sys.executable,
    "-P",
    "-m",
    "gunicorn",
    "--chdir",
    "app",
    "--config",
    "python:meshtrace.gunicorn_conf",
)
# A gunicorn keeps these variables of its environment; the others are in its file of settings.
KEPT = (
    "HOME",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "LANG",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LOGNAME",
    "NOTIFY_SOCKET",
    "PATH",
    "RUNTIME_DIRECTORY",
    "SHELL",
    "USER",
    "GUNICORN_PID",
)
# Seconds that a gunicorn may take to end after it closed its connections.
_END_SECONDS = 5.0
# Seconds that a gunicorn whose trial is over may take to end before it is killed.
_STOP_SECONDS = 10.0


class Failed(Exception):  # noqa: N818 - the outcome of a command
    """A command did not succeed; the text is the reason."""


def environment(current: Mapping[str, str], settings: Path) -> dict[str, str]:
    """Return the environment of a gunicorn.

    current: this process's own environment
    settings: file of the service's settings
    """
    return {
        **{name: current[name] for name in KEPT if name in current},
        "PYTHONPATH": "lib",
        "PYTHONDONTWRITEBYTECODE": "1",
        **read_environment(settings.read_text(encoding="utf-8")),
    }


def serve(release: Path, settings: Path, successor: Sequence[str]) -> None:
    """Become the gunicorn of `release`. It keeps that release when `current` changes.

    successor: program and arguments with which gunicorn starts the process that takes over
    """
    found = environment(os.environ, settings)
    found["FLASK_CONTROL"] = shlex.join(successor)
    os.chdir(release.resolve())
    os.execve(GUNICORN[0], GUNICORN, found)


def reload(old: int, runtime: Path, seconds: float) -> int:
    """Have a new gunicorn take over from the process `old`; return the id of the new process.

    Raises Failed when the new one does not begin to serve; then the old one goes on.
    """
    following, serving = runtime / "next", runtime / "serving"
    following.unlink(missing_ok=True)
    deadline, running = time.monotonic() + seconds, Process(old)
    os.kill(old, signal.SIGUSR2)
    wait_for(lambda: _process_in(following) is not None, running, seconds)
    new = _process_in(following)
    if new is None:
        if running.has_ended():
            raise Failed("gunicorn ended when it was told that another one takes over")
        raise Failed("gunicorn did not start another one; `systemctl restart` does")
    ended = Failed("the new gunicorn ended before it served; the old one goes on")
    try:
        coming = Process(new)
    except ProcessLookupError:
        raise ended from None
    left = max(0.0, deadline - time.monotonic())
    if wait_for(lambda: _process_in(serving) == new, coming, left) or _process_in(serving) == new:
        return new
    if coming.has_ended():
        raise ended
    coming.kill()
    raise Failed(f"the new gunicorn did not serve within {seconds:.0f} s; the old one goes on")


def _process_in(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (FileNotFoundError, ValueError):
        return None


def trial(release: Path, settings: Path, health: str, seconds: float) -> float:
    """Start the gunicorn of `release` beside the one that serves, and request its health path.

    Returns how many seconds the start took. Raises Failed when gunicorn ends, does not answer in
    time, or answers with a status from 500 on. gunicorn's output goes where this program's goes.
    """
    found = environment(os.environ, settings)
    for name in ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "RUNTIME_DIRECTORY"):
        found.pop(name, None)
    with tempfile.TemporaryDirectory(prefix="flask-trial-") as folder:
        path = f"{folder}/app.sock"
        began = time.monotonic()
        process = subprocess.Popen(
            (*GUNICORN, "--bind", f"unix:{path}"), cwd=release.resolve(), env=found
        )
        try:
            status = _answer(process, path, health, seconds)
            took = time.monotonic() - began
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    if status >= 500:
        raise Failed(f"it starts, but answers {health} with {status}")
    return took


def _answer(process: subprocess.Popen[bytes], path: str, health: str, seconds: float) -> int:
    """Return the status with which gunicorn answers, as soon as it listens; raises Failed."""
    deadline = time.monotonic() + seconds
    statuses: list[int] = []

    def listens() -> bool:
        if process.poll() is not None:
            raise Failed(f"it ends when it is started, with exit status {process.returncode}")
        left = max(1.0, deadline - time.monotonic())
        try:
            statuses.append(status_of(UnixConnection(path, left), health))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except FAULTS as error:
            # gunicorn listens before its workers have imported the app. When they cannot, it
            # resets the connections that wait, a moment before it ends.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_SECONDS)
            if process.poll() is not None:
                return False
            raise Failed(f"it does not answer {health}: {error}") from error
        return True

    if not wait_until(listens, seconds):
        raise Failed(f"it does not listen in time ({path})")
    return statuses[0]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flask-control", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("command", choices=("serve", "reload", "trial"))
    parser.add_argument("name", help="the service")
    parser.add_argument("--release", type=Path, help="default: /opt/NAME/current")
    parser.add_argument("--settings", type=Path, help="default: /etc/flask/NAME/env")
    parser.add_argument("--health", default="/healthz", help="the path that a trial requests")
    parser.add_argument("--seconds", type=float, default=120, help="how long to wait")
    parser.add_argument("--program", default=PROGRAM, help="what starts the next gunicorn")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Carry out the command line; return the exit status."""
    given = _parser().parse_args(arguments)
    release = given.release or Path("/opt", given.name, "current")
    settings = given.settings or Path("/etc/flask", given.name, "env")
    try:
        if given.command == "serve":
            serve(release, settings, [given.program, *arguments])
        elif given.command == "reload":
            old, runtime = os.environ["MAINPID"], os.environ["RUNTIME_DIRECTORY"]
            print(f"process {reload(int(old), Path(runtime), given.seconds)} serves now")
        else:
            took = trial(release, settings, given.health, given.seconds)
            print(f"{given.name} started in {took:.1f} s")
    except Failed as reason:
        print(f"flask-control: {given.name}: {reason}", file=sys.stderr)
        return 1
    return 0
