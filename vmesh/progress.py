"""Telling the user what is happening during anything long."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from vmesh import paths


class Progress(Protocol):
    """Receives the steps of a long task; `log_path` takes the full output of commands."""

    log_path: Path

    def step(self, text: str) -> None:
        """Say what is being done now, in a few words."""


class Plain:
    """Progress as lines on standard error."""

    def __init__(self, log_path: Path | None = None) -> None:
        self.log_path = log_path or paths.log_dir() / "vmesh.log"

    def step(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class CommandFailed(Exception):
    """A command ended with a non-zero exit code; `tail` holds its last lines."""

    def __init__(self, command: Sequence[str], code: int, tail: str, log_path: Path) -> None:
        self.command, self.code, self.tail, self.log_path = tuple(command), code, tail, log_path
        super().__init__(
            f"`{' '.join(command)}` ended with exit code {code}; full output: {log_path}\n{tail}"
        )


def run(
    command: Sequence[str],
    progress: Progress,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run `command` with its output appended to the progress's log.

    Raises CommandFailed with the last 20 lines of the output.
    """
    progress.log_path.parent.mkdir(parents=True, exist_ok=True)
    with progress.log_path.open("ab") as log:
        log.write(f"$ {' '.join(command)}\n".encode())
        log.flush()
        start = log.tell()
        result = subprocess.run(
            list(command), cwd=cwd, env=env, stdin=subprocess.DEVNULL,
            stdout=log, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    if result.returncode != 0:
        with progress.log_path.open("rb") as log:
            log.seek(start)
            lines = log.read().decode(errors="replace").splitlines()
        raise CommandFailed(command, result.returncode, "\n".join(lines[-20:]), progress.log_path)
