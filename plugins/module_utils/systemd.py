# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""The host's service manager: commands, what `systemctl show` says of units, their journal."""

from __future__ import annotations

import os
import select
import shlex
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# ActiveState of a unit that serves, or is about to.
UP = ("active", "activating", "reloading", "refreshing")


@dataclass(frozen=True)
class Done:
    """The result of a command: exit status, standard output, standard error."""

    code: int
    out: str = ""
    err: str = ""


Run = Callable[[Sequence[str]], Done]
# Properties of a unit by name, as `systemctl show` prints them.
Shown = Mapping[str, str]


class CommandFailed(Exception):  # noqa: N818 - says what happened
    """A command did not succeed; the text is what it printed."""


def run(arguments: Sequence[str]) -> Done:
    """Run a command to its end."""
    try:
        done = subprocess.run(
            list(arguments), check=False, capture_output=True, text=True, errors="replace"
        )
    except FileNotFoundError:
        return Done(127, "", f"{arguments[0]} is not on this host")
    return Done(done.returncode, done.stdout, done.stderr)


def systemctl(*arguments: str, run: Run = run) -> str:
    """Run systemctl and return its output; raises CommandFailed with its message."""
    done = run(["systemctl", *arguments])
    if done.code != 0:
        raise CommandFailed(done.err.strip() or f"systemctl {' '.join(arguments)} failed")
    return done.out


def show(units: Iterable[str], properties: Sequence[str], run: Run = run) -> dict[str, Shown]:
    """Return the properties of units by unit; systemd tells of unknown ones too (LoadState).

    Timestamps are seconds since the epoch after an `@`.
    """
    names = list(units)
    if not names:
        return {}
    wanted = ",".join(dict.fromkeys(("Id", *properties)))
    text = run(["systemctl", "show", "--timestamp=unix", f"--property={wanted}", "--", *names]).out
    blocks = [
        dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        for block in text.split("\n\n")
    ]
    return {block["Id"]: block for block in blocks if "Id" in block}


def show_one(unit: str, *properties: str, run: Run = run) -> Shown:
    """Return the properties of one unit; empty when systemd does not answer."""
    return show([unit], properties, run).get(unit, {})


def started_at(shown: Shown) -> int | None:
    """Return when a unit's main process started (ExecMainStartTimestamp), in seconds since the
    epoch; None when it never did."""
    text = shown.get("ExecMainStartTimestamp", "").removeprefix("@")
    return int(text) if text.isdigit() else None


def is_older_than_its_unit(shown: Shown) -> bool:
    """Tell whether the unit file was written after the main process started.

    shown: has FragmentPath and ExecMainStartTimestamp
    """
    started, unit = started_at(shown), Path(shown.get("FragmentPath", ""))
    return started is not None and unit.is_file() and int(unit.stat().st_mtime) > started


def environment_of(shown: Shown) -> dict[str, str]:
    """Return the variables that the unit's own file sets (its property Environment)."""
    words = shlex.split(shown.get("Environment", ""))
    return dict(word.split("=", 1) for word in words)


def journal(
    units: Sequence[str], since: float, lines: int = 20, pid: int | None = None, run: Run = run
) -> list[str]:
    """Return the last journal lines of units, or only those of the process `pid` among them.

    since: seconds since the epoch
    """
    run(["journalctl", "--sync"])
    wanted = [f"--unit={unit}" for unit in units] if pid is None else [f"_PID={pid}"]
    options = ["--quiet", "--no-pager", "--output=cat", f"--lines={lines}"]
    done = run(["journalctl", *options, f"--since=@{int(since)}", *wanted])
    return [line for line in done.out.splitlines() if line]


def wait_until(holds: Callable[[], bool], seconds: float, pause: float = 0.05) -> bool:
    """Wait until `holds`; tell whether it did within so many seconds."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True


def notify(message: str) -> None:
    """Tell systemd what `sd_notify(3)` says, where this process is of a unit with Type=notify.

    Returns when systemd has read it, as it looks at the sender's process then, or after 10 s.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    reading, writing = os.pipe()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        # `@` stands for the null byte that begins an abstract address.
        manager.connect(f"\0{address[1:]}" if address.startswith("@") else address)
        manager.send(message.encode())
        socket.send_fds(manager, [b"BARRIER=1"], [writing])
    os.close(writing)
    select.select([reading], [], [], 10)
    os.close(reading)
