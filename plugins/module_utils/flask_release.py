# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""The releases and settings of a host's Flask services: find what differs, put it in place.

A new release and new settings of a service that runs are tried together (flask-control trial),
before either is put in place.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import systemd
from .file_writing import remove_if_empty, write_whole
from .flask_settings import CONFINED, Service, Wanted, mistakes
from .flask_takeover import PROGRAM
from .host_parts import app_drop_in
from .releases import current_version, switch_release

SETTINGS_MODE = 0o640
FOLDER_MODE = 0o750
# Seconds that a trial may take beyond the start of the app, to end it.
_TRIAL_MARGIN = 60
# Lines of an app's output that a message about a refused release shows.
_LINES_SHOWN = 40


class Refused(Exception):  # noqa: N818 - the outcome of an installation
    """The services cannot be installed; the text says which, why, and what to do."""


def group_id(name: str) -> int | None:
    """Return the id of a group; None when there is none of this name."""
    with contextlib.suppress(KeyError):
        return grp.getgrnam(name).gr_gid
    return None


def user_id(name: str) -> int | None:
    """Return the id of a user; None when there is none of this name."""
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(name).pw_uid
    return None


@dataclass(frozen=True)
class Plan:
    """What is to be done, by the names of the services.

    missing: the release is not on the host
    switched: another release is the current one, or none
    changed: the settings in place are others, or none
    tried: have a release already, and get another one or other settings
    """

    missing: list[str]
    switched: list[str]
    changed: list[str]
    tried: list[str]

    @property
    def installed(self) -> list[str]:
        """The services that get another release or other settings."""
        return sorted({*self.switched, *self.changed})


class Host:
    """The Flask services' files on a host.

    root: where the host's file system begins
    run: executes commands
    owner: id of the user who owns the settings
    """

    def __init__(
        self,
        root: Path = Path("/"),
        run: systemd.Run = systemd.run,
        owner: int = 0,
        group_id: Callable[[str], int | None] = group_id,
        user_id: Callable[[str], int | None] = user_id,
    ) -> None:
        self.root, self.run, self.owner = root, run, owner
        self.group_id, self.user_id = group_id, user_id

    def _release(self, service: Service) -> Path:
        return Path(self.root, "opt", service["name"], service["version"])

    def _settings(self, service: Service) -> Path:
        return Path(self.root, "etc/flask", service["name"], "env")

    def unprepared(self, wanted: Wanted) -> list[str]:
        """Return the names of the services that lack their user, a group or a folder."""
        return [
            name
            for name in (service["name"] for service in wanted.services)
            if self.user_id(f"flask-{name}") is None
            or not self._is_folder_of(self.root / "etc/flask" / name, f"flask-{name}")
            or not self._is_folder_of(
                self.root / "run/flask" / name, wanted.socket_group.replace("%i", name)
            )
        ]

    def _is_folder_of(self, path: Path, group: str) -> bool:
        """Tell whether a folder is there, open to this group alone."""
        try:
            status = path.stat()
        except OSError:
            return False
        return stat.S_ISDIR(status.st_mode) and (status.st_gid, stat.S_IMODE(status.st_mode)) == (
            self.group_id(group),
            FOLDER_MODE,
        )

    def plan(self, wanted: Wanted) -> Plan:
        """Return what differs on the host from what is wanted."""
        services = wanted.installed
        current = {each["name"]: current_version(self.root, each["name"]) for each in services}
        switched = [each["name"] for each in services if current[each["name"]] != each["version"]]
        changed = [each["name"] for each in services if not self._is_set(each, wanted)]
        return Plan(
            missing=[each["name"] for each in services if not self._release(each).is_dir()],
            switched=switched,
            changed=changed,
            tried=[
                name
                for name, version in current.items()
                if version is not None and name in {*switched, *changed}
            ],
        )

    def _is_set(self, service: Service, wanted: Wanted) -> bool:
        """Tell whether the settings of a service are in place, with their owner and mode."""
        path = self._settings(service)
        try:
            status = path.stat()
            content = path.read_bytes()
        except OSError:
            return False
        rights = (self.owner, self.group_id(f"flask-{service['name']}"), SETTINGS_MODE)
        there = (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))
        if content != wanted.file_of(service).encode() or there != rights:
            return False
        return self._drop_in(service) == wanted.drop_in(service)

    def _drop_in(self, service: Service) -> str:
        """Return the addition to a service's unit that is in place; empty without one."""
        with contextlib.suppress(OSError):
            return (self.root / app_drop_in(service["name"])).read_text(encoding="utf-8")
        return ""

    def _put_drop_in(self, service: Service, text: str) -> bool:
        """Put the addition to a service's unit in place, or remove it where there is none.

        Returns whether that changes anything.
        """
        path = self.root / app_drop_in(service["name"])
        if self._drop_in(service) == text:
            return False
        if not text:
            path.unlink(missing_ok=True)
            remove_if_empty(path.parent)
        else:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            write_whole(path, text, 0o644)
        return True

    def install(self, wanted: Wanted, plan: Plan, seconds: float) -> None:
        """Put the releases and settings in place, after a trial of those that replace others.

        seconds: that an app may take until it answers its health path
        Raises Refused; then what was in place still is.
        """
        if plan.missing:
            raise Refused(
                f"the releases of {', '.join(plan.missing)} are not in /opt. The role"
                " vmesh.mesh.release brings them."
            )
        changed = _named(wanted.services, plan.changed)
        for service in changed:
            self._lay(service, wanted)
        tried = _named(wanted.services, plan.tried)
        refusals = [
            self._trial(each, each in changed, seconds, CONFINED if wanted.drop_in(each) else ())
            for each in tried
        ]
        if refused := [text for text in refusals if text]:
            raise Refused("\n".join(refused))
        for service in _named(wanted.services, plan.switched):
            switch_release(self.root, service["name"], service["version"])
        additions = [self._put_drop_in(each, wanted.drop_in(each)) for each in changed]
        for service in changed:
            path = self._settings(service)
            _beside(path).replace(path)
        # systemd applies IPAddress* to the processes that run, without a restart.
        if any(additions) and (done := self.run(("systemctl", "daemon-reload"))).code != 0:
            raise Refused(f"systemctl daemon-reload: {done.err.strip()}")

    def _lay(self, service: Service, wanted: Wanted) -> None:
        """Write new settings beside those in use, for the service's own user."""
        group = self.group_id(f"flask-{service['name']}")
        path = _beside(self._settings(service))
        if group is None or not path.parent.is_dir():
            raise Refused(
                f"{service['name']} has no group flask-{service['name']} or no folder"
                f" {path.parent}. Run the role flask_service with the tag `configure` too."
            )
        path.unlink(missing_ok=True)
        path.touch(mode=0o600, exist_ok=False)
        path.write_text(wanted.file_of(service), encoding="utf-8")
        os.chown(path, self.owner, group)
        path.chmod(SETTINGS_MODE)

    def _trial(
        self, service: Service, changed: bool, seconds: float, directives: Sequence[str]
    ) -> str:
        """Try a release with its settings, as the service's user; return why it is refused.

        changed: the settings to try are those that lie beside
        directives: of systemd, under which it runs
        """
        name, settings = service["name"], self._settings(service)
        done = self.run(
            [
                *("systemd-run", "--quiet", "--pipe", "--wait", "--collect"),
                *(f"--uid=flask-{name}", f"--gid=flask-{name}"),
                f"--property=RuntimeMaxSec={seconds + _TRIAL_MARGIN:.0f}",
                *(f"--property={each}" for each in directives),
                *(PROGRAM, "trial", name),
                *("--release", str(self._release(service))),
                *("--settings", str(_beside(settings) if changed else settings)),
                *("--health", service["health"], "--seconds", f"{seconds:g}"),
            ]
        )
        if done.code == 0:
            return ""
        told = re.search(r"^flask-control: [^:]*: (.*)$", done.err, re.MULTILINE)
        why = told[1] if told else f"its trial ended with status {done.code}"
        lines = done.out.splitlines()[-_LINES_SHOWN:]
        return "\n".join(
            [
                f"{name}: its new release or settings are refused: {why}. What ran before runs on.",
                done.err.strip(),
                *lines,
            ]
        )


def _beside(settings: Path) -> Path:
    return settings.with_name(f"{settings.name}.next")


def _named(services: Iterable[Service], names: Sequence[str]) -> list[Service]:
    return [service for service in services if service["name"] in names]


def _shown(services: Iterable[Service], *keys: str) -> list[dict[str, Any]]:
    """Return these keys of each service; the environment, which has secrets, is none of them."""
    return [{key: service[key] for key in keys} for service in services]


def plan_result(host: Host, wanted: Wanted) -> dict[str, Any]:
    """Return the result of the operation `plan` of the module flask_release.

    Raises Refused for mistakes in the services.
    """
    if wrong := mistakes(wanted.services):
        raise Refused("\n".join(wrong))
    plan = host.plan(wanted)
    missing = _named(wanted.services, plan.missing)
    return {
        "changed": False,
        "unprepared": host.unprepared(wanted),
        "missing": _shown(missing, "name", "version", "archive"),
        "changing": plan.changed,
        "installing": plan.installed,
        "apps": _shown(wanted.installed, "name", "health", "address", "port"),
    }


def install_result(host: Host, wanted: Wanted, seconds: float, *, check: bool) -> dict[str, Any]:
    """Install what differs; return the result of the operation `install`.

    seconds: that an app may take in its trial until it answers
    check: only tell what would be installed
    Raises Refused; then what was in place still is.
    """
    plan = host.plan(wanted)
    if not check:
        host.install(wanted, plan, seconds)
    lines = [
        *(
            f"{each['name']}: release {each['version']} becomes the current one\n"
            for each in _named(wanted.services, plan.switched)
        ),
        *(f"{name}: settings change\n" for name in plan.changed),
    ]
    return {
        "changed": bool(lines),
        "installed": plan.installed,
        "diff": [{"prepared": line} for line in lines],
    }
