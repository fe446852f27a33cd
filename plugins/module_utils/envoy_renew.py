# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""Running proxies get the binary, the bootstrap and the unit that are on disk, as root."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from . import systemd
from .envoy_files import Store, format_of, has_version, not_taken
from .envoy_process import Failure, Settings
from .systemd import CommandFailed, show_one, systemctl, wait_until
from .unix_http import FAULTS

# How an Envoy's lines of its access log begin; they are no evidence.
ACCESS_LOG = "{"
EVIDENCE_LINES = 200
OURS = "envoy-control: "


class Manager(Protocol):
    """What runs the proxies."""

    def settings(self, proxy: str) -> Settings: ...
    def state(self, proxy: str) -> str: ...
    def main_pid(self, proxy: str) -> int: ...
    def start(self, proxy: str) -> None: ...
    def restart(self, proxy: str) -> None: ...
    def reload(self, proxy: str) -> None: ...


class Systemd:
    """The units envoy@<proxy>. Each method raises Failure with systemd's or Envoy's reason."""

    def __init__(self, run: systemd.Run = systemd.run) -> None:
        self.run, self.has_read_units = run, False

    def settings(self, proxy: str) -> Settings:
        """Return what the unit's file says now; systemd has read it once before."""
        if not self.has_read_units:
            # Always, as NeedDaemonReload= does not tell of a new drop-in.
            try:
                systemctl("daemon-reload", run=self.run)
            except CommandFailed as error:
                raise Failure(f"`systemctl daemon-reload` failed: {error}") from error
            self.has_read_units = True
        shown = self._show(proxy, "LoadState", "Environment")
        if shown.get("LoadState") != "loaded":
            raise Failure(f"there is no unit {_unit(proxy)}")
        try:
            return Settings.of(proxy, systemd.environment_of(shown))
        except ValueError as error:
            raise Failure(f"Environment= of {_unit(proxy)} is wrong: {error}") from error

    def state(self, proxy: str) -> str:
        """Return `active`, `starting` or `stopped`."""
        shown = self._show(proxy, "ActiveState", "SubState")
        if shown.get("ActiveState") in {"active", "reloading"}:
            return "active"
        is_starting = (
            shown.get("ActiveState") == "activating" and shown["SubState"] != "auto-restart"
        )
        return "starting" if is_starting else "stopped"

    def main_pid(self, proxy: str) -> int:
        """Return the number of the main process; 0 when there is none."""
        return int(self._show(proxy, "MainPID").get("MainPID", "0"))

    def start(self, proxy: str) -> None:
        """Start the unit, or wait until it has started."""
        self._act("start", proxy)

    def restart(self, proxy: str) -> None:
        """Start the unit anew, also after too many failures."""
        self.run(["systemctl", "reset-failed", _unit(proxy)])
        self._act("restart", proxy)

    def reload(self, proxy: str) -> None:
        """Let a new process take over."""
        began = time.time()
        done = self.run(["systemctl", "reload", _unit(proxy)])
        if done.code == 0:
            return
        helper = re.search(r"\bpid=([1-9]\d*)", self._show(proxy, "ExecReload")["ExecReload"])
        lines = self._journal(proxy, began, int(helper[1])) if helper else []
        told = [line.removeprefix(OURS) for line in lines]
        reasons = [line for line in told if not line.startswith("  ")]
        if not reasons:
            raise Failure(f"{_unit(proxy)} cannot be reloaded: {done.err.strip()}")
        evidence = [line.strip() for line in told if line.startswith("  ")]
        if new := re.search(r"the new process (\d+)", reasons[-1]):
            evidence += self._journal(proxy, began, int(new[1]))
        raise Failure(reasons[-1], evidence)

    def _act(self, verb: str, proxy: str) -> None:
        began = time.time()
        try:
            systemctl(verb, _unit(proxy), run=self.run)
        except CommandFailed as error:
            first = str(error).splitlines()[0]
            raise Failure(
                f"{_unit(proxy)} does not start: {first}", self._journal(proxy, began)
            ) from error

    def _show(self, proxy: str, *names: str) -> systemd.Shown:
        return show_one(_unit(proxy), *names, run=self.run)

    def _journal(self, proxy: str, since: float, pid: int | None = None) -> list[str]:
        """Return what the unit (or only the process `pid`) has logged, access logs left out."""
        lines = systemd.journal([_unit(proxy)], since, EVIDENCE_LINES, pid, self.run)
        return [line for line in lines if not line.startswith(ACCESS_LOG)]


def _unit(proxy: str) -> str:
    return f"envoy@{proxy}.service"


def renew(proxy: str, manager: Manager) -> str:
    """Bring a proxy to what is on disk; return what was done. Raises Failure."""
    settings = manager.settings(proxy)
    if not settings.bootstrap.is_file():
        raise Failure(f"there is no such proxy here, as {settings.bootstrap} is not there")
    before = manager.main_pid(proxy)
    if manager.state(proxy) == "starting":
        # What it starts with may be older than what is on disk.
        with contextlib.suppress(Failure):
            manager.start(proxy)
    if manager.state(proxy) != "active":
        manager.restart(proxy)
        done = "started"
    else:
        manager.reload(proxy)
        done = "taken over"
    main = manager.main_pid(proxy)
    if fault := wrong(settings, main) or lacking(settings, main):
        raise Failure(f"{done}, but {fault}")
    Store(settings.folder, -1).remove_other_format()
    return f"{proxy}: {done}, process {before or 'none'} -> {main}"


def renew_all(proxies: Sequence[str], manager: Manager, report: Callable[[str], None]) -> None:
    """Bring proxies to what is on disk, one after the other; raises Failure for the first failure.

    report: takes a line about each that is renewed
    """
    for number, proxy in enumerate(proxies):
        try:
            report(renew(proxy, manager))
        except Failure as failure:
            left = ", ".join(proxies[number + 1 :])
            more = f" (left as they were: {left})" if left else ""
            reason = f"{failure}".removeprefix(f"{proxy}: ")
            raise Failure(f"{proxy}: {reason}{more}", failure.evidence) from failure


def wrong(settings: Settings, main: int) -> str:
    """Return in what a process differs from what is on disk; empty when it is as it should be."""
    try:
        running = str(Path(f"/proc/{main}/exe").readlink())
    except OSError:
        return f"there is no main process {main}"
    if running != str(settings.binary.resolve()):
        return f"the main process {main} runs {running}, not {settings.binary.resolve()}"
    if not settings.admin.is_ready():
        return f"the main process {main} is not ready"
    try:
        version = settings.admin.server().bootstrap_version
    except (ValueError, *FAULTS) as error:
        return f"the main process {main} does not tell its bootstrap: {error}"
    bootstrap = settings.bootstrap
    if has_version(bootstrap.name, bootstrap.read_text(), version):
        return ""
    return f"the main process {main} has the bootstrap {version}, not {bootstrap}"


def lacking(settings: Settings, main: int) -> str:
    """Return which watched files a process has not taken within the proxy's timeout, or nothing."""
    waiting: list[str] = []

    def has_all() -> bool:
        files = Store(settings.folder, -1).read()
        # Only these does its bootstrap name.
        files = {path: text for path, text in files.items() if path.endswith(format_of(files))}
        try:
            waiting[:] = not_taken(files, settings.admin.versions())
        except (ValueError, *FAULTS) as error:
            waiting[:] = [f"an answer of its admin interface ({error})"]
        return not waiting

    if wait_until(has_all, settings.timeout, pause=0.1):
        return ""
    return f"the main process {main} has not taken: {', '.join(waiting)}"
