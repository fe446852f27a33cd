"""Telling the user what is happening during anything long."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TextIO

from vmesh.base import paths


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


class CommandFailed(Exception):  # noqa: N818 - says what happened, as `except` reads it
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
        process = subprocess.Popen(
            list(command),
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            code = process.wait()
        except BaseException:
            # Ctrl-C reached the command as well: let it tidy up before this ends.
            process.terminate()
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            raise
    if code != 0:
        with progress.log_path.open("rb") as log:
            log.seek(start)
            lines = log.read().decode(errors="replace").splitlines()
        raise CommandFailed(command, code, "\n".join(lines[-20:]), progress.log_path)


def new_log(command: str, keep: int = 20) -> Path:
    """Return the path of a new log for `command`; of its older logs only `keep` stay."""
    folder = paths.log_dir()
    folder.mkdir(parents=True, exist_ok=True)
    for old in logs_of(command)[:-keep]:
        for path in (old, old.with_suffix(".json"), old.with_suffix(".events")):
            path.unlink(missing_ok=True)
    log = folder / f"{command}-{time.strftime('%Y%m%d-%H%M%S')}.log"
    log.touch()
    return log


def logs_of(command: str, suffix: str = ".log") -> list[Path]:
    """Return the logs of `command`, or the files with `suffix` beside them, the oldest first."""
    # The digit begins the time: the logs of `test-site` are not logs of `test`.
    return sorted(paths.log_dir().glob(f"{command}-[0-9]*{suffix}"))


def duration(seconds: float) -> str:
    """Say a length of time as people do: `4 s`, `2 min 05 s`, `3 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Steps:
    """Numbered steps with their seconds, and one live line of what is being done.

    On a terminal the last line shows the present step and how long it has taken. Elsewhere
    each new piece of work is a line, and one line a minute says that it still goes on.
    """

    HEARTBEAT = 60.0

    def __init__(self, total: int, log_path: Path, stream: TextIO | None = None) -> None:
        self.total = total
        self.log_path = log_path
        self.phases: list[dict[str, Any]] = []
        self.doing = ""
        self._stream = stream or sys.stderr
        self._terminal = self._live = self._stream.isatty()
        self._lock = threading.Lock()
        self._title = ""
        self._detail = ""
        self._began = time.monotonic()
        self._spoke = self._began
        self._number = 0

    @contextmanager
    def phase(self, name: str, title: str) -> Iterator[None]:
        """Do one numbered step; its name and seconds are kept in `phases`."""
        self._number += 1
        self._title, self._detail = f"[{self._number}/{self.total}] {title}", ""
        self.doing = title
        self._began = time.monotonic()
        if not self._live:
            self._print(f"{self._title} ...")
        done = threading.Event()
        ticker = threading.Thread(target=self._tick, args=(done,), daemon=True)
        ticker.start()
        entry: dict[str, Any] = {"name": name, "finished": False}
        self.phases.append(entry)
        try:
            yield
            entry["finished"] = True
        finally:
            done.set()
            ticker.join()
            entry["seconds"] = round(time.monotonic() - self._began, 2)
            mark = "" if entry["finished"] else "  not finished"
            self._print(f"{self._title}  {duration(entry['seconds'])}{mark}")

    def skip(self, name: str, reason: str) -> None:
        """Count a step that has nothing to do here, and say why."""
        self._number += 1
        self.phases.append({"name": name, "finished": True, "seconds": 0.0, "skipped": reason})
        self._print(f"[{self._number}/{self.total}] skipped: {reason}")

    def step(self, text: str) -> None:
        """Say what is being done now, inside the present step."""
        self._detail = text
        if self._live:
            self._draw()
        else:
            self._print(f"      {text}")

    def status(self, text: str) -> None:
        """Change the live line only; without a terminal this is said at the next heartbeat."""
        self._detail = text
        if self._live:
            self._draw()

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Leave the terminal alone meanwhile: a program may ask for a password there."""
        if self._live:
            self._print(self._title)
        self._live = False
        try:
            yield
        finally:
            self._live = self._terminal

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self._print(text)

    def _print(self, text: str) -> None:
        with self._lock:
            erase = "\r\033[K" if self._live else ""
            self._stream.write(f"{erase}{text}\n")
            self._stream.flush()
            self._spoke = time.monotonic()

    def _draw(self) -> None:
        elapsed = duration(time.monotonic() - self._began)
        line = f"{self._title}  {elapsed}  {self._detail}".replace("\n", " ")
        width = shutil.get_terminal_size().columns - 1
        with self._lock:
            self._stream.write(f"\r\033[K{line[:width]}")
            self._stream.flush()

    def _tick(self, done: threading.Event) -> None:
        while not done.wait(0.5):
            if self._live:
                self._draw()
            elif time.monotonic() - self._spoke >= self.HEARTBEAT:
                elapsed = duration(time.monotonic() - self._began)
                self._print(f"      still at it after {elapsed}: {self._detail or self.doing}")

    def record(self, command: str, **more: Any) -> Path:
        """Write the phases and their seconds as JSON beside the log; return that file's path."""
        path = self.log_path.with_suffix(".json")
        seconds = round(sum(phase["seconds"] for phase in self.phases), 2)
        data = {"command": command, "seconds": seconds, "phases": self.phases, **more}
        path.write_text(json.dumps(data, indent=2) + "\n")
        return path
