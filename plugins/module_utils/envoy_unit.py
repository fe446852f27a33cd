# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""The unit of one Envoy: whether it runs, which binary it runs, how it is started."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from . import systemd
from .systemd import CommandFailed

# A file for each unit that has left the mesh and only finishes its requests.
LEAVING = Path("/run/vmesh/leaving")


class Service(Protocol):
    """What runs an Envoy. `start` and `enable` raise CommandFailed."""

    def is_running(self) -> bool: ...
    def executable(self) -> str: ...
    def is_older_than_its_unit(self) -> bool: ...
    def is_enabled(self) -> bool: ...
    def enable(self) -> None: ...
    def start(self) -> None: ...
    def messages(self, since: float) -> list[str]: ...


class Systemd:
    """The service manager of the host. `unit` is the Envoy's unit.

    started_by: a unit that wants it and is ordered after it; none where it is started itself
    """

    def __init__(
        self,
        unit: str,
        leaving: Path = LEAVING,
        run: systemd.Run = systemd.run,
        started_by: str = "",
    ) -> None:
        self.unit, self.leaving, self.run = unit, leaving / unit, run
        self.started_by = started_by

    def _holds(self, question: str) -> bool:
        return self.run(["systemctl", question, "--quiet", self.unit]).code == 0

    def is_running(self) -> bool:
        """Tell whether the unit is active, and not merely finishing what it had to do.

        One that left the mesh drains its listeners, which cannot be called back: when it is
        wanted again, it must be started again.
        """
        return not self.leaving.exists() and self._holds("is-active")

    def executable(self) -> str:
        """Return the path of the binary that the main process runs; empty without a process."""
        pid = systemd.show_one(self.unit, "MainPID", run=self.run).get("MainPID", "0")
        try:
            return str(Path(f"/proc/{pid}/exe").readlink())
        except OSError:
            return ""

    def is_older_than_its_unit(self) -> bool:
        """Tell whether the unit file was written after the main process was started."""
        wanted = ("FragmentPath", "ExecMainStartTimestamp")
        return systemd.is_older_than_its_unit(systemd.show_one(self.unit, *wanted, run=self.run))

    def is_enabled(self) -> bool:
        """Tell whether the unit would start at boot."""
        return self._holds("is-enabled")

    def enable(self) -> None:
        """Have the unit started at boot; raises CommandFailed when systemd does not do so."""
        try:
            systemd.systemctl("enable", "--quiet", self.unit, run=self.run)
        except CommandFailed as failed:
            raise CommandFailed(f"{self.unit} cannot be enabled: {failed}") from failed

    def start(self) -> None:
        """Start the unit as its file is now; raises CommandFailed when systemd reports a failure.

        A unit that is still trying to start would go on with the files of before, hence
        `restart`.
        """
        if self.leaving.exists():
            # The unit that waits to stop this one must not stop the new process.
            self.run(["systemctl", "stop", leaver(self.unit)])
            self.leaving.unlink(missing_ok=True)
        self.run(["systemctl", "daemon-reload"])
        self.run(["systemctl", "reset-failed", self.unit])
        try:
            if self.started_by:
                # In one job systemd stops that one before it starts this unit, and starts it
                # afterwards: systemd.unit(5), After=. Both in one command would be two jobs.
                systemd.systemctl("stop", self.unit, run=self.run)
            systemd.systemctl("restart", self.started_by or self.unit, run=self.run)
        except CommandFailed as failed:
            raise CommandFailed(f"{self.unit} does not start: {failed}") from failed

    def messages(self, since: float) -> list[str]:
        """Return the unit's journal lines since a time in seconds since the epoch."""
        return systemd.journal([self.unit], since, lines=200, run=self.run)


def leaver(unit: str) -> str:
    """Return the name of the unit that waits until `unit`, which left the mesh, may be stopped."""
    return f"vmesh-leave-{unit.removesuffix('.service').replace('@', '-')}.service"
