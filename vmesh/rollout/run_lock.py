"""Two runs never change the same hosts at once.

A run writes down on the controller that it is going on, and each host keeps who began to change it.
From its own controller a run is known to live or to be dead. A host that somebody else began to
change is left alone for as long as that may take.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import getpass
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# A run of somebody else that began to change a host so long ago and has not ended was killed.
SECONDS_ON_A_HOST = 900
TAKE_OVER = "vmesh_take_over"


@dataclass(frozen=True)
class Running:
    """A run that goes on: its process, when that began (by the kernel's clock), who runs it."""

    pid: int
    began: str
    who: str
    when: str

    @classmethod
    def of(cls, pid: int, who: str) -> Running:
        """Return the run of a living process."""
        now = datetime.datetime.now().astimezone()
        return cls(pid, _began(pid), who, now.isoformat(timespec="seconds"))

    def lives(self) -> bool:
        """Tell whether its process is there, and not another one with its number."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # another user's
        return _began(self.pid) == self.began


def _began(pid: int) -> str:
    """Return when a process began; empty if it has ended, or where /proc is not to be had."""
    with contextlib.suppress(OSError):
        # proc_pid_stat(5), from the third field: the second is in parentheses and may have spaces.
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if state in {"Z", "X"} else fields[18]
    return ""


def acquire(path: Path, mine: Running) -> Running | None:
    """Write down that a run goes on, unless another one does; return that one.

    Nobody has to take it back: a run is over when its process is. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        with contextlib.suppress(ValueError, TypeError):
            other = Running(**json.loads(file.read()))
            if other.lives() and (other.pid, other.began) != (mine.pid, mine.began):
                return other
        file.truncate(0)
        file.write(json.dumps(asdict(mine)))
    return None


def current_user() -> str:
    """Return who runs this, as history and hosts have it."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def held_locally(path: Path, pid: int | None = None) -> str:
    """Note in `path` that a run goes on; return why it may not, and what to do, empty if it may.

    pid: the process that is the run; by default the parent of this one, as Ansible's tasks are
    processes of their own
    Raises OSError.
    """
    other = acquire(path, Running.of(os.getppid() if pid is None else pid, current_user()))
    if other is None:
        return ""
    return (
        f"Nothing was changed: a run of {other.who} (process {other.pid}, since {other.when}) is"
        " changing this inventory's hosts. Wait until it has ended, or end it"
        f" (kill -INT {other.pid}), and run this again: it goes on from there."
    )


def held_on_hosts(
    answers: Mapping[str, Mapping[str, Any]], who: str, *, take_over: bool = False
) -> str:
    """Return why hosts may not be changed by `who` now, and what to do; empty if they may.

    answers: host -> what it answered; `interrupted` is the run that began there and has not ended
    take_over: whether runs of others are known to be dead
    """
    found = [
        f"  {host}: run {begun['run']} of {begun['who']}, {begun['seconds']:.0f} s ago"
        for host, answer in answers.items()
        if (begun := answer["interrupted"])
        and begun["who"] not in {"", who}
        and begun["seconds"] < SECONDS_ON_A_HOST
    ]
    if not found or take_over:
        return ""
    return "\n".join(
        (
            "Nothing was changed: somebody else began to change these hosts, and has not ended:",
            *found,
            "Wait until that run has ended and run this again. If it was killed, this works again"
            f" {SECONDS_ON_A_HOST // 60} minutes after it began, or at once with"
            f" `-e {TAKE_OVER}=true`: this run finishes it then.",
        )
    )
