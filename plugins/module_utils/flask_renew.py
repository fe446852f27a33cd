# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""The Flask services of a host: start what does not run, renew what runs with something older."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import mutual_tls, systemd
from .environment_file import read_environment
from .unix_http import FAULTS, UnixConnection, status_of

# A service: name, health (path), address and port of its own Envoy (empty and 0 for none).
App = Mapping[str, Any]

PROPERTIES = (
    "ActiveState",
    "UnitFileState",
    "StatusText",
    "NeedDaemonReload",
    "FragmentPath",
    "ExecMainStartTimestamp",
)
# Requests with it make no spans (vmesh.compile.cluster_views.HEALTH_CHECK_HEADER).
HEALTH_CHECK_HEADER = "x-vmesh-health-check"
ENABLED = ("enabled", "enabled-runtime")
# A service in another state is started again. One that is `activating` would go on with the
# release and settings of before.
RUNNING = ("active", "reloading")
# Lines of the journal that explain no failure.
_CHATTER = re.compile(
    r'"level": ?"(info|debug)"| INFO: |^(Start|Stopp|Clos)(ed|ing) |^Listening on '
)


class Failed(Exception):  # noqa: N818 - the outcome of a start
    """A service does not run as it should; the text says why."""


class Apps:
    """The services of a host.

    run: executes commands
    timeout: seconds that a service may take until it answers
    settings, envoys: folders with each one's settings, and with the files of its Envoy
    left: names of those that all their callers leave out meanwhile
    """

    def __init__(  # noqa: PLR0913 - options, by name
        self,
        apps: Sequence[App],
        timeout: float,
        run: systemd.Run = systemd.run,
        settings: Path = Path("/etc/flask"),
        *,
        envoys: Path = Path("/etc/envoy"),
        left: Collection[str] = (),
    ) -> None:
        self.apps, self.run, self.timeout, self.settings = apps, run, timeout, settings
        self.envoys, self.left = envoys, left
        self.at_once = os.cpu_count() or 1
        self.units = self._show()

    def _show(self) -> dict[str, systemd.Shown]:
        return systemd.show(_units(self.apps), PROPERTIES, self.run)

    def _property(self, unit: str, name: str) -> str:
        return self.units.get(unit, {}).get(name, "")

    def config_id(self, app: App) -> str:
        """Return the id of the settings that are in place."""
        text = (self.settings / app["name"] / "env").read_text(encoding="utf-8")
        return read_environment(text).get("CONFIG_ID", "no CONFIG_ID")

    def disabled(self) -> list[str]:
        """Return the units that would not start at boot."""
        return [
            unit
            for unit in _units(self.apps)
            if self._property(unit, "UnitFileState") not in ENABLED
        ]

    def stopped(self) -> list[App]:
        """Return the services that do not run, or whose socket does not listen."""
        return [
            app
            for app in self.apps
            if self._property(_service(app), "ActiveState") not in RUNNING
            or self._property(_socket(app), "ActiveState") != "active"
        ]

    def outdated(self) -> list[App]:
        """Return the services that run with something older than is in place."""
        stopped = self.stopped()
        return [app for app in self.apps if app not in stopped and not self._is_current(app)]

    def _is_current(self, app: App) -> bool:
        return self.config_id(app) in self._property(_service(app), "StatusText")

    def _has_older_unit(self, app: App) -> bool:
        """Tell whether the unit has changed since the service was started."""
        unit = _service(app)
        return (
            systemd.is_older_than_its_unit(self.units.get(unit, {}))
            or self._property(unit, "NeedDaemonReload") == "yes"
        )

    def enable(self) -> None:
        """Have all units started at boot, as their files are now."""
        self._reload_manager(self.apps)
        if units := self.disabled():
            self._systemctl(["enable", "--quiet", *units])

    def start(self) -> list[App]:
        """Start what does not run; return it. Raises Failed when one does not come to answer."""
        stopped = self.stopped()
        if stopped:
            self._reload_manager(stopped)
            sockets = [_socket(app) for app in stopped]
            began = time.time()
            # Fails for units that have never been loaded.
            self.run(["systemctl", "reset-failed", *_units(stopped)])
            self._systemctl(["start", *sockets], stopped)
            self._each("restart", stopped, began)
            self.see_answers(stopped, began)
        return stopped

    def renew(self) -> list[str]:
        """Renew what is outdated. Raises Failed when one does not come to answer.

        Returns the units that have changed since systemd started them, and that were not restarted.
        Settings of a unit count for what systemd starts, not for what takes over. A restart waits
        for the requests under way, and new ones wait for it: so only those restart that get none.
        """
        outdated = self.outdated()
        older = [app for app in outdated if self._has_older_unit(app)]
        restarted = [app for app in older if app["name"] in self.left]
        if outdated:
            taken_over = [app for app in outdated if app not in restarted]
            self._reload_manager(outdated)
            began = time.time()
            self._each("reload", taken_over, began)
            self._each("restart", restarted, began)
            self.see_answers(outdated, began)
        return [_service(app) for app in older if app not in restarted]

    def _each(self, verb: str, apps: Sequence[App], since: float) -> None:
        """Do it with as many at once as the host has processors: a start is nothing but work."""
        for begin in range(0, len(apps), self.at_once):
            some = apps[begin : begin + self.at_once]
            self._systemctl([verb, *map(_service, some)], some, since)

    def _reload_manager(self, apps: Iterable[App]) -> None:
        if any(self._property(unit, "NeedDaemonReload") == "yes" for unit in _units(apps)):
            self._systemctl(["daemon-reload"])

    def _systemctl(
        self, arguments: Sequence[str], apps: Sequence[App] = (), since: float = 0
    ) -> None:
        """Run systemctl; raises Failed with the journal of `apps` since then, or its message."""
        try:
            systemd.systemctl(*arguments, run=self.run)
        except systemd.CommandFailed as failure:
            reason = self.journal(apps, since) or str(failure)
            command = " ".join(["systemctl", *arguments])
            raise Failed(f"`{command}` failed\n{reason}") from failure

    def see_answers(self, apps: Iterable[App], since: float) -> None:
        """See that each service answers, and is what it should be; raises Failed else."""
        for app in apps:
            self._see_answer(app, since)
        self.units = self._show()
        for app in apps:
            if not self._is_current(app):
                shown = self._property(_service(app), "StatusText")
                raise Failed(
                    f"{app['name']} runs, but not with what is in place: it says {shown!r}"
                )

    def _see_answer(self, app: App, since: float) -> None:
        path = app["health"]
        ways = {"on its socket": lambda: get_unix(f"/run/flask/{app['name']}/app.sock", path)}
        envoy = ["systemctl", "is-active", "--quiet", f"envoy@{app['name']}.service"]
        if app["address"] and self.run(envoy).code == 0:
            ways["through its Envoy"] = lambda: self._get_by_envoy(app)
        deadline = time.monotonic() + self.timeout
        for way, ask in ways.items():
            while fault := _fault(ask, f"{path} {way}"):
                # The app itself answers 500, and goes on to; Envoy answers 503 for a moment.
                if time.monotonic() > deadline or fault.endswith(" with 500"):
                    raise Failed(f"{app['name']} {fault}\n{self.journal([app], since)}")
                time.sleep(0.3)

    def _get_by_envoy(self, app: App) -> int:
        """Return the status with which a service answers at the address of its Envoy."""
        folder = self.envoys / app["name"]
        connection = mutual_tls.connection_to(folder, app["address"], app["port"])
        return status_of(connection, app["health"], {HEALTH_CHECK_HEADER: "1"})

    def journal(self, apps: Sequence[App], since: float) -> str:
        """Return what the services said since a time in seconds since the epoch."""
        if not apps:
            return ""
        lines = systemd.journal([_service(app) for app in apps], since, lines=60, run=self.run)
        telling = [line for line in lines if not _CHATTER.search(line)]
        return "\n".join(dict.fromkeys(telling or lines))


def _fault(ask: Callable[[], int], request: str) -> str:
    """Return how a service does not serve; empty when it answers with a status below 500."""
    try:
        status = ask()
    except (ValueError, *FAULTS) as error:
        return f"does not answer {request}: {error}"
    return "" if status < 500 else f"answers {request} with {status}"


def get_unix(path: str, url: str) -> int:
    """Return the status of a GET of `url` on a unix socket."""
    return status_of(UnixConnection(path), url, {HEALTH_CHECK_HEADER: "1"})


def _socket(app: App) -> str:
    return f"flask@{app['name']}.socket"


def _service(app: App) -> str:
    return f"flask@{app['name']}.service"


def _units(apps: Iterable[App]) -> list[str]:
    return [unit for app in apps for unit in (_socket(app), _service(app))]


def work(
    apps: Apps, *, renew: bool, check: bool, changing: Sequence[str]
) -> tuple[dict[str, Any], str]:
    """Run what does not run and, with `renew`, renew what is outdated.

    check: only tell what would be done
    changing: names of the services whose settings the run changes; in check mode the new settings
        are not in place yet
    Returns the result of the module flask_apps, and why it failed (empty when it did not).
    """
    disabled, stopped, outdated = apps.disabled(), apps.stopped(), apps.outdated()
    if check:
        outdated = [app for app in apps.apps if app not in stopped and app["name"] in changing]
    lines = [
        *(f"{unit} is not enabled and will be\n" for unit in disabled),
        *(f"{_service(app)} is not running and will be started\n" for app in stopped),
        *(f"{_service(app)} runs with something older and is renewed\n" for app in outdated),
    ]
    result: dict[str, Any] = {
        # The call that renews reports the change.
        "changed": bool(disabled or stopped or (outdated and renew)),
        "outdated": [app["name"] for app in outdated],
        "started": [app["name"] for app in stopped],
        "older_units": [],
        "diff": [{"prepared": line} for line in lines],
    }
    try:
        if not check:
            apps.enable()
            apps.start()
            if renew:
                result["older_units"] = apps.renew()
    except Failed as failure:
        return result, str(failure)
    return result, ""
