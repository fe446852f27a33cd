#!/usr/bin/python3
# Installed by the role flask_service.
"""Start, try and renew the gunicorn of a Flask service: flask-control COMMAND NAME.

  serve   becomes gunicorn (the unit's ExecStart)
  reload  has a new gunicorn take over from the running one (the unit's ExecReload)
  trial   starts a release on a socket of its own and asks it for its health

What is started and how is read when it starts: the release that /opt/NAME/current leads to, the
settings in /etc/flask/NAME/env. Exit status 0: done; 1: with the reason on standard error.

A new gunicorn takes over as gunicorn's own upgrade does (SIGUSR2, see
https://gunicorn.org/deploy/#upgrading), with the socket that systemd holds, so no request waits
for it. The package meshtrace does gunicorn's part: it tells here which process is next
(RUNTIME_DIRECTORY/next) and which one has begun to serve (RUNTIME_DIRECTORY/serving).
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

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
# Of the environment of before, a new process gets these; the rest is in its file of settings.
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
# How long a gunicorn may take to end that has closed its connections.
_END_SECONDS = 5.0


class Failed(Exception):  # noqa: N818 - says what happened
    """What was asked for did not come about; the text says why."""


def read_settings(text: str) -> dict[str, str]:
    """Return the variables of a file of NAME="value" entries as systemd reads it.

    A value may go over several lines; a backslash stands before each quote, backslash, dollar
    sign and backtick that belongs to it.
    """
    found = re.findall(r'^(\w+)="((?:[^"\\]|\\.)*)"$', text, re.MULTILINE | re.DOTALL)
    return {name: re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL) for name, value in found}


def environment(current: Mapping[str, str], settings: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a gunicorn."""
    return {
        **{name: current[name] for name in KEPT if name in current},
        "PYTHONPATH": "lib",
        "PYTHONDONTWRITEBYTECODE": "1",
        **settings,
    }


def serve(release: Path, settings: Path) -> None:
    """Become the gunicorn of `release`, which goes on with it whatever `current` becomes."""
    found = environment(os.environ, read_settings(settings.read_text(encoding="utf-8")))
    # How the one that takes over is started; by then `release` may lead elsewhere.
    found["FLASK_CONTROL"] = shlex.join(sys.argv)
    os.chdir(release.resolve())
    os.execve(GUNICORN[0], GUNICORN, found)


def reload(old: int, runtime: Path, seconds: float) -> int:
    """Have a new gunicorn take over from the one with the process id `old`; return the new id.

    Raises Failed when it does not come to serve; then the old one goes on.
    """
    following, serving = runtime / "next", runtime / "serving"
    following.unlink(missing_ok=True)
    os.kill(old, signal.SIGUSR2)
    deadline = time.monotonic() + seconds
    while (new := _process_in(following)) is None:
        if not _is_alive(old):
            raise Failed("gunicorn ended when it was told that another one takes over")
        if time.monotonic() > deadline:
            raise Failed("gunicorn did not start another one; `systemctl restart` does")
        time.sleep(0.05)
    while _process_in(serving) != new:
        if not _is_alive(new):
            raise Failed("the new gunicorn ended before it served; the old one goes on")
        if time.monotonic() > deadline:
            os.kill(new, signal.SIGKILL)
            raise Failed(
                f"the new gunicorn did not serve within {seconds:.0f} s; the old one goes on"
            )
        time.sleep(0.05)
    return new


def _process_in(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (FileNotFoundError, ValueError):
        return None


def _is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def trial(release: Path, settings: Path, health: str, seconds: float) -> float:
    """Start the gunicorn of `release` beside the one that serves, and ask it for its health.

    Returns how many seconds it took to start. Raises Failed when it ends, does not answer in
    time, or answers with a status from 500 on. What it prints goes where this program's goes.
    """
    found = environment(os.environ, read_settings(settings.read_text(encoding="utf-8")))
    for name in ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "RUNTIME_DIRECTORY"):
        found.pop(name, None)
    with tempfile.TemporaryDirectory(prefix="flask-trial-") as folder:
        path = f"{folder}/app.sock"
        began = time.monotonic()
        process = subprocess.Popen(
            (*GUNICORN, "--bind", f"unix:{path}"), cwd=release.resolve(), env=found
        )
        try:
            status = _answer(process, path, health, began + seconds)
            took = time.monotonic() - began
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    if status >= 500:
        raise Failed(f"it starts, but answers {health} with {status}")
    return took


def _answer(process: subprocess.Popen[bytes], path: str, health: str, deadline: float) -> int:
    while True:
        if process.poll() is not None:
            raise Failed(f"it ends when it is started, with exit status {process.returncode}")
        try:
            return get(path, health, max(1.0, deadline - time.monotonic()))
        except (FileNotFoundError, ConnectionRefusedError):
            pass
        except (OSError, http.client.HTTPException) as error:
            # gunicorn listens before its workers have imported the app, and resets who waits when
            # it ends because they cannot: a moment before it has ended.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_SECONDS)
            if process.poll() is None:
                raise Failed(f"it does not answer {health}: {error}") from error
        if time.monotonic() > deadline:
            raise Failed(f"it does not listen in time ({path})")
        time.sleep(0.05)


def get(path: str, url: str, seconds: float) -> int:
    """Return the status with which the server of a unix socket answers a GET of `url`."""
    connection = http.client.HTTPConnection("localhost", timeout=seconds)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.settimeout(seconds)
    try:
        connection.sock.connect(path)
        connection.request("GET", url)
        return connection.getresponse().status
    finally:
        connection.close()


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="flask-control", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("command", choices=("serve", "reload", "trial"))
    parser.add_argument("name", help="the service")
    parser.add_argument("--release", type=Path, help="default: /opt/NAME/current")
    parser.add_argument("--settings", type=Path, help="default: /etc/flask/NAME/env")
    parser.add_argument("--health", default="/healthz", help="what a trial asks for")
    parser.add_argument("--seconds", type=float, default=120, help="how long to wait")
    given = parser.parse_args(arguments)
    release = given.release or Path("/opt", given.name, "current")
    settings = given.settings or Path("/etc/flask", given.name, "env")
    try:
        if given.command == "serve":
            serve(release, settings)
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
