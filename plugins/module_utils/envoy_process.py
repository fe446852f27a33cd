# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""The processes of one proxy: what they run with, their command line, their start.

Files in a proxy's runtime directory, which processes of an earlier release leave too:

  admin.sock        the admin interface of the main process
  admin-<pid>.sock  that of an old process beside which a new one began
  base-id           the number by which the processes of hot restarts find each other
  older             the process that drains since the last hot restart, and who stands by for it
  tried.<suffix>    the bootstrap that a new process was started with
  good.<suffix>     that of the last process that became ready
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .envoy_admin import Admin
from .envoy_files import EARLIER_FORMAT, FORMAT, bootstrap_of
from .processes import NotStarted, Process, spawn, wait_for
from .unix_http import FAULTS

# The old process ends its last streams a little after it should have drained.
SHUTDOWN_MARGIN_SECONDS = 10
# How long a binary may take to tell its version or to check a bootstrap.
CHECK_SECONDS = 60
# How long an answer of the admin interface may take.
ANSWER_SECONDS = 5
EVIDENCE_LINES = 10


class Failure(Exception):  # noqa: N818 - what people read, not a fault of this program
    """A reason in one sentence, with `evidence` lines."""

    def __init__(self, reason: str, evidence: Sequence[str] = ()) -> None:
        super().__init__(reason)
        self.evidence = list(evidence)[-EVIDENCE_LINES:]


class Unrelated(Exception):  # noqa: N818 - not a fault, another way is taken
    """Why two processes cannot hand over to each other."""


@dataclass(frozen=True)
class Settings:
    """What the processes of one proxy run with, from the environment that its unit sets.

    folder: of its configuration; runtime: its runtime directory
    concurrency: worker threads, 0 for one for each processor
    timeout, drain_time: seconds for a new process to become ready, for an old one to drain
    """

    name: str
    binary: Path
    folder: Path
    runtime: Path
    concurrency: int
    log_level: str
    timeout: float
    drain_time: int

    @classmethod
    def of(cls, name: str, environment: Mapping[str, str]) -> Settings:
        """Return the settings of the proxy `name`; raises ValueError for a number that is none."""
        get = environment.get
        return cls(
            name,
            Path(get("ENVOY_BINARY", "/opt/envoy/current/bin/envoy")),
            Path(get("ENVOY_CONFIG_ROOT", "/etc/envoy"), name),
            Path(get("ENVOY_RUNTIME_ROOT", "/run/envoy"), name),
            int(get("ENVOY_CONCURRENCY", "0")),
            get("ENVOY_LOG_LEVEL", "warning"),
            float(get("ENVOY_TIMEOUT", "60")),
            int(get("ENVOY_DRAIN_TIME_SECONDS", "600")),
        )

    @property
    def bootstrap(self) -> Path:
        """Return the bootstrap with which a process starts now."""
        return self.folder / bootstrap_of(path.name for path in self.folder.glob("bootstrap.*"))

    def path(self, name: str) -> Path:
        """Return a file of the proxy's runtime directory."""
        return self.runtime / name

    @property
    def admin(self) -> Admin:
        """Return the admin interface of the main process."""
        return admin_at(self.path("admin.sock"))

    @property
    def base_id(self) -> int:
        """Return by what the processes of this proxy find each other; raises Unrelated."""
        try:
            return int(self.path("base-id").read_text())
        except (OSError, ValueError) as error:
            raise Unrelated(f"{self.path('base-id')} cannot be used ({error})") from error

    @property
    def shared_memory(self) -> Path:
        """Return the memory that the processes of hot restarts share; raises Unrelated."""
        return Path(f"/dev/shm/envoy_shared_memory_{self.base_id * 10}")

    @property
    def shutdown_seconds(self) -> int:
        """Return after how long an old process has to end."""
        return self.drain_time + SHUTDOWN_MARGIN_SECONDS

    def command(self, *identity: str) -> list[str]:
        """Return the command line of a process; `identity` are its options for hot restarts."""
        command = [str(self.binary), "--config-path", str(self.bootstrap), *identity]
        if self.concurrency > 0:
            command += ["--concurrency", str(self.concurrency)]
        command += ["--drain-time-s", str(self.drain_time)]
        command += ["--parent-shutdown-time-s", str(self.shutdown_seconds)]
        # Each connection goes over at its next answer, so that a second restart soon after
        # the first finds few of them where they would be cut.
        command += ["--drain-strategy", "immediate", "--log-level", self.log_level]
        return [*command, "--file-flush-interval-msec", "1000"]


def admin_at(socket: Path) -> Admin:
    """Return the admin interface at a unix socket, which has a few seconds to answer."""
    return Admin(str(socket), ANSWER_SECONDS)


def first_of_its_kind(base_id: Path) -> tuple[str, ...]:
    """Return the options of a process that follows none; it writes its base id to `base_id`."""
    return "--use-dynamic-base-id", "--base-id-path", str(base_id)


def say(*lines: str) -> None:
    """Write lines for people to standard error."""
    for line in lines:
        print(f"envoy-control: {line}", file=sys.stderr, flush=True)


def epoch_of(admin: Admin) -> int | None:
    """Return which number among hot restarts the process has that answers; None if none does."""
    try:
        return admin.server().epoch
    except (ValueError, *FAULTS):
        return None


def output_of(program: Path, *arguments: str) -> list[str]:
    """Return the lines that a program says; raises Failure when it does not end well.

    Envoy tells its hot-restart version where it tells errors, after its warnings.
    """
    what = f"{program} {' '.join(arguments[:2])}"
    try:
        done = subprocess.run(
            [program, *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=CHECK_SECONDS,
            stdin=subprocess.DEVNULL,
            errors="replace",
        )
    except subprocess.TimeoutExpired as error:
        raise Failure(f"`{what}` did not end within {CHECK_SECONDS} s") from error
    except OSError as error:
        raise Failure(f"`{what}` cannot be run: {error.strerror}") from error
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    if done.returncode != 0:
        raise Failure(f"`{what}` ended with status {done.returncode}", said)
    return said or [""]


def start_beside(settings: Settings, command: Sequence[str], epoch: int) -> Process:
    """Start a process of this epoch and return it once it is ready; raises Failure."""
    try:
        new = spawn(command)
    except NotStarted as error:
        raise Failure(str(error)) from error

    def is_ready() -> bool:
        return epoch_of(settings.admin) == epoch and settings.admin.is_ready()

    try:
        if wait_for(is_ready, new, settings.timeout):
            return new
        if new.has_ended():
            raise Failure(f"the new process {new.pid} ended before it was ready")
        raise Failure(f"the new process {new.pid} was not ready after {settings.timeout:.0f} s")
    except BaseException:
        new.kill()
        raise


# Copies of the bootstrap. Envoy parses a file by its suffix.


def keep_tried(settings: Settings) -> None:
    """Keep a copy of the bootstrap that a process is about to start with; raises OSError."""
    for copy in _copies(settings, "tried"):
        copy.unlink(missing_ok=True)
    bootstrap = settings.bootstrap
    shutil.copyfile(bootstrap, settings.path(f"tried{bootstrap.suffix}"))


def keep_good(settings: Settings) -> None:
    """Note that a process with the bootstrap that was tried became ready."""
    with contextlib.suppress(OSError):
        for tried in _copies(settings, "tried"):
            for earlier in _copies(settings, "good"):
                earlier.unlink()
            tried.rename(settings.path(f"good{tried.suffix}"))


def good_bootstrap(settings: Settings) -> Path | None:
    """Return the copy of the bootstrap of the last process that became ready, if it is there."""
    return next(iter(_copies(settings, "good")), None)


def _copies(settings: Settings, name: str) -> list[Path]:
    copies = [settings.path(f"{name}{suffix}") for suffix in (FORMAT, EARLIER_FORMAT)]
    return [copy for copy in copies if copy.is_file()]
