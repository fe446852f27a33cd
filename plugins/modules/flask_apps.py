#!/usr/bin/python
# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""See that a host's Flask services run with what is in place, and renew those that do not."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: flask_apps
short_description: Run the Flask services of a host, and renew those that run with something older
description:
  - Has the sockets and services of all O(apps) started at boot, and starts those that do not run.
  - Finds the services whose process was started with something older than is in place (in its
    status it shows the CONFIG_ID of the settings it was started with), and returns them as
    RV(outdated). With O(renew) they are renewed, as many at once as the host has processors.
  - A new process takes over from the old one, so that no request waits (C(systemctl reload)). Where
    the unit itself has changed the service is restarted, and requests wait in its socket meanwhile.
  - Each service that was started or renewed must answer its health path with a status below 500,
    on its own socket and through its own Envoy, if that runs.
options:
  apps:
    description: The services.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the service, the instance of its units.
        type: str
        required: true
      health:
        description: Path that must be answered.
        type: str
        default: /healthz
      address:
        description: Where its own Envoy listens; empty for one without.
        type: str
        default: ""
      port:
        description: Port of that Envoy.
        type: int
        default: 0
  changing:
    description: Names of the services whose settings this run has changed; or would, in check mode.
    type: list
    elements: str
    default: []
  renew:
    description: Whether to renew what is outdated, or only to tell.
    type: bool
    default: false
  timeout:
    description: Seconds that a service may take until it answers.
    type: float
    default: 120
author:
  - vmesh maintainers
"""

EXAMPLES = r"""
- name: Renew the shop
  vmesh.mesh.flask_apps:
    apps:
      - {name: shop, address: 10.0.0.11, port: 9001}
    renew: true
"""

RETURN = r"""
outdated:
  description: Names of the services that run with something older; with O(renew), that did.
  returned: always
  type: list
  elements: str
started:
  description: Names of the services that did not run.
  returned: always
  type: list
  elements: str
"""

import contextlib  # noqa: E402
import http.client  # noqa: E402
import os  # noqa: E402
import re  # noqa: E402
import subprocess  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterable, Mapping, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402

from ..module_utils.mesh_envoy import UnixConnection  # noqa: E402

App = Mapping[str, Any]
# Arguments of a command in, its exit status and what it printed out.
Command = Callable[[Sequence[str]], tuple[int, str]]

PROPERTIES = (
    "Id",
    "ActiveState",
    "UnitFileState",
    "StatusText",
    "NeedDaemonReload",
    "FragmentPath",
    "ExecMainStartTimestamp",
    "Result",
    "ExecMainStatus",
)
# Requests with it make no spans (vmesh.compile.cluster_views.HEALTH_CHECK_HEADER).
HEALTH_CHECK_HEADER = "x-vmesh-health-check"
ENABLED = ("enabled", "enabled-runtime")
# What says nothing about a failure.
_CHATTER = re.compile(
    r'"level": ?"(info|debug)"| INFO: |^(Start|Stopp|Clos)(ed|ing) |^Listening on '
)


class Failed(Exception):  # noqa: N818 - says what happened
    """A service does not run as it should."""


def command(arguments: Sequence[str]) -> tuple[int, str]:
    """Run a command; return its exit status and all it printed."""
    done = subprocess.run(
        arguments,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    return done.returncode, done.stdout


class Apps:
    """The services of a host.

    run: executes commands
    timeout: seconds that a service may take until it answers
    settings: folder with each one's settings
    """

    def __init__(
        self,
        apps: Sequence[App],
        run: Command,
        timeout: float,
        settings: Path = Path("/etc/flask"),
    ) -> None:
        self.apps, self.run, self.timeout, self.settings = apps, run, timeout, settings
        self.at_once = os.cpu_count() or 1
        self.units = self._shown()

    def _shown(self) -> dict[str, dict[str, str]]:
        names = [unit for app in self.apps for unit in (_socket(app), _service(app))]
        _, text = self.run(
            ["systemctl", "show", "--timestamp=unix", f"--property={','.join(PROPERTIES)}", *names]
        )
        blocks = [
            dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
            for block in text.split("\n\n")
        ]
        return {block["Id"]: block for block in blocks if "Id" in block}

    def _of(self, unit: str, key: str) -> str:
        return self.units.get(unit, {}).get(key, "")

    def config_id(self, app: App) -> str:
        """Return the id of the settings that are in place."""
        text = (self.settings / app["name"] / "env").read_text()
        found = re.search(r'^CONFIG_ID="(\w+)"$', text, re.MULTILINE)
        return found.group(1) if found else "no CONFIG_ID"

    def disabled(self) -> list[str]:
        """Return the units that would not start at boot."""
        return [
            unit
            for app in self.apps
            for unit in (_socket(app), _service(app))
            if self._of(unit, "UnitFileState") not in ENABLED
        ]

    def stopped(self) -> list[App]:
        """Return the services that do not run, or whose socket does not listen."""
        return [
            app
            for app in self.apps
            if self._of(_service(app), "ActiveState") not in {"active", "reloading"}
            or self._of(_socket(app), "ActiveState") != "active"
        ]

    def outdated(self) -> list[App]:
        """Return the services that run with something older than is in place."""
        stopped = self.stopped()
        return [
            app
            for app in self.apps
            if app not in stopped
            and self.config_id(app) not in self._of(_service(app), "StatusText")
        ]

    def _needs_restart(self, app: App) -> bool:
        """Tell whether the unit has changed since the service was started."""
        unit = _service(app)
        started = self._of(unit, "ExecMainStartTimestamp").removeprefix("@")
        path = Path(self._of(unit, "FragmentPath") or "/nonexistent")
        return (
            started.isdigit() and path.is_file() and int(path.stat().st_mtime) >= int(started)
        ) or self._of(unit, "NeedDaemonReload") == "yes"

    def enable(self) -> None:
        """Have all units started at boot, as their files are now."""
        self._reload_manager(self.apps)
        if units := self.disabled():
            self._must(["systemctl", "enable", "--quiet", *units], [])

    def start(self) -> list[App]:
        """Start what does not run; return it. Raises Failed when one does not come to answer."""
        stopped = self.stopped()
        if stopped:
            self._reload_manager(stopped)
            sockets = [_socket(app) for app in stopped]
            services = [_service(app) for app in stopped]
            began = time.time()
            self._must(["systemctl", "reset-failed", *services, *sockets], [], strict=False)
            self._must(["systemctl", "start", *sockets], stopped)
            # A unit that is still trying to start would go on with what was there before.
            self._turn("restart", stopped, began)
            self.see_answers(stopped, began)
        return stopped

    def renew(self) -> list[App]:
        """Renew what is outdated; return it. Raises Failed when one does not come to answer."""
        outdated = self.outdated()
        if outdated:
            again = [app for app in outdated if self._needs_restart(app)]
            over = [app for app in outdated if app not in again]
            self._reload_manager(outdated)
            began = time.time()
            self._turn("reload", over, began)
            self._turn("restart", again, began)
            self.see_answers(outdated, began)
        return outdated

    def _turn(self, verb: str, apps: Sequence[App], since: float) -> None:
        """Do it with as many at once as the host has processors: a start is nothing but work."""
        for begin in range(0, len(apps), self.at_once):
            some = apps[begin : begin + self.at_once]
            self._must(["systemctl", verb, *map(_service, some)], some, since)

    def _reload_manager(self, apps: Iterable[App]) -> None:
        units = [unit for app in apps for unit in (_socket(app), _service(app))]
        if any(self._of(unit, "NeedDaemonReload") == "yes" for unit in units):
            self._must(["systemctl", "daemon-reload"], [])

    def _must(
        self, arguments: list[str], apps: Sequence[App], since: float = 0, *, strict: bool = True
    ) -> None:
        status, text = self.run(arguments)
        if status != 0 and strict:
            raise Failed(f"`{' '.join(arguments)}` failed\n{self.journal(apps, since) or text}")

    def see_answers(self, apps: Iterable[App], since: float) -> None:
        """See that each service answers, and is what it should be; raises Failed else."""
        for app in apps:
            self._see_answer(app, since)
        self.units = self._shown()
        for app in apps:
            shown = self._of(_service(app), "StatusText")
            if self.config_id(app) not in shown:
                raise Failed(
                    f"{app['name']} runs, but not with what is in place: it says {shown!r}"
                )

    def _see_answer(self, app: App, since: float) -> None:
        deadline = time.monotonic() + self.timeout
        ways: list[tuple[str, Callable[[], int]]] = [
            ("on its socket", lambda: get_unix(_path(app), app["health"]))
        ]
        if app["address"] and self.run(["systemctl", "is-active", "-q", _envoy(app)])[0] == 0:
            ways.append(
                (
                    "through its Envoy",
                    lambda: get_tcp(app["address"], app["port"], app["health"]),
                )
            )
        for way, ask in ways:
            while True:
                try:
                    status = ask()
                except (OSError, http.client.HTTPException) as error:
                    told = f"does not answer {app['health']} {way}: {error}"
                else:
                    told = f"answers {app['health']} {way} with {status}"
                    if status < 500:
                        break
                if time.monotonic() > deadline or "with 500" in told:
                    raise Failed(f"{app['name']} {told}\n{self.journal([app], since)}")
                time.sleep(0.3)

    def journal(self, apps: Sequence[App], since: float) -> str:
        """Return what the services said since a time in seconds since the epoch."""
        if not apps:
            return ""
        units = [f"--unit={_service(app)}" for app in apps]
        _, text = self.run(
            [
                "journalctl",
                "--no-pager",
                "--output=cat",
                "--lines=60",
                f"--since=@{int(since)}",
                *units,
            ]
        )
        lines = text.splitlines()
        told = [line for line in lines if not _CHATTER.search(line)]
        return "\n".join(dict.fromkeys(told or lines))


def _socket(app: App) -> str:
    return f"flask@{app['name']}.socket"


def _service(app: App) -> str:
    return f"flask@{app['name']}.service"


def _envoy(app: App) -> str:
    return f"envoy@{app['name']}.service"


def _path(app: App) -> str:
    return f"/run/flask/{app['name']}/app.sock"


def get_unix(path: str, url: str) -> int:
    """Return the status of a GET of `url` on a unix socket."""
    with contextlib.closing(UnixConnection(path)) as connection:
        return _status(connection, url)


def get_tcp(address: str, port: int, url: str) -> int:
    """Return the status of a GET of `url` at an address."""
    with contextlib.closing(http.client.HTTPConnection(address, port, timeout=30)) as connection:
        return _status(connection, url)


def _status(connection: http.client.HTTPConnection, url: str) -> int:
    connection.request("GET", url, headers={HEALTH_CHECK_HEADER: "1"})
    return connection.getresponse().status


def told(disabled: Iterable[str], stopped: Iterable[App], outdated: Iterable[App]) -> list[str]:
    """Return what is to be done, a line for each unit, for `--diff`."""
    return [
        *(f"{unit} is not enabled and will be\n" for unit in disabled),
        *(f"{_service(app)} is not running and will be started\n" for app in stopped),
        *(f"{_service(app)} runs with something older and is renewed\n" for app in outdated),
    ]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "apps": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "health": {"type": "str", "default": "/healthz"},
                    "address": {"type": "str", "default": ""},
                    "port": {"type": "int", "default": 0},
                },
            },
            "changing": {"type": "list", "elements": "str", "default": []},
            "renew": {"type": "bool", "default": False},
            "timeout": {"type": "float", "default": 120},
        },
        supports_check_mode=True,
    )
    apps = Apps(module.params["apps"], command, module.params["timeout"])
    disabled, stopped, outdated = apps.disabled(), apps.stopped(), apps.outdated()
    if module.check_mode:  # what is in place is not yet what will be
        changing = module.params["changing"]
        outdated = [app for app in apps.apps if app not in stopped and app["name"] in changing]
    result: dict[str, Any] = {
        "outdated": [app["name"] for app in outdated],
        "started": [app["name"] for app in stopped],
        "diff": [{"prepared": line} for line in told(disabled, stopped, outdated)],
    }
    if not module.check_mode:
        try:
            apps.enable()
            apps.start()
            if module.params["renew"]:
                apps.renew()
        except Failed as failure:
            module.fail_json(msg=str(failure), **result)
    # What is outdated is changed by whoever renews it.
    renews = bool(outdated) and module.params["renew"]
    module.exit_json(changed=bool(disabled or stopped or renews), **result)


if __name__ == "__main__":
    main()
