# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""Bringing a host to a snapshot: files, releases, units, processes; what fits is left alone."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from . import releases
from .environment_file import read_environment
from .envoy_apply import FAULTS as ENVOY_FAULTS
from .envoy_apply import Proxy, bring
from .envoy_files import bootstrap_of, is_for_envoy, is_whole
from .file_writing import reason
from .host_files import File, NoSuchOwner, differ, put
from .host_parts import (
    GUARD,
    JAEGER_UNIT,
    UNITS,
    app_drop_in,
    part_of,
    status_of_jaeger,
    units_of,
)
from .leave import leave
from .machine import Machine
from .releases import NoRelease, release_in, switch_release
from .snapshot_store import Unreadable
from .snapshots import Snapshot, capture, parts_of
from .systemd import CommandFailed, Shown, journal, show, started_at

# What an operation on a host can raise; the text says why.
FAULTS = (Unreadable, NoSuchOwner, NoRelease, OSError, *ENVOY_FAULTS)
ENVOY_UNIT = f"{UNITS}envoy@.service"
# What systemd tells of the parts' units.
PROPERTIES = (
    "ActiveState",
    "UnitFileState",
    "MainPID",
    "StatusText",
    "ExecMainStartTimestamp",
)
# Makes effective what files of a folder say.
APPLIED_BY = (
    (re.compile(r"etc/(sysusers\.d/|systemd/).*\.conf"), ("systemd-sysusers",)),
    (re.compile(r"etc/tmpfiles\.d/.*\.conf"), ("systemd-tmpfiles", "--create")),
    (re.compile(r"etc/sysctl\.d/.*\.conf"), ("/usr/lib/systemd/systemd-sysctl",)),
)


@dataclass
class Restore:
    """Brings a host to the snapshot `wanted`. `restored` and `errors` tell what it did, by part.

    drain_seconds: how long an Envoy of which the snapshot knows nothing may finish its requests
    dry: only tell what would be done
    """

    machine: Machine
    wanted: Snapshot
    drain_seconds: int = 600
    dry: bool = False
    restored: set[str] = field(default_factory=set)
    errors: dict[str, str] = field(default_factory=dict)
    _there: Snapshot = field(init=False)
    _shown: dict[str, Shown] = field(init=False)
    # Path -> when the shared file that was not as it should be had been written.
    _replaced: dict[str, int] = field(default_factory=dict)
    _started: set[str] = field(default_factory=set)

    def run(self) -> None:
        """Do it, in the order in which nothing refers to what is not there yet; raises OSError."""
        self._there = capture(self.machine.root, self.machine.run)
        units = sorted({*self.wanted["units"], *self._there["units"]})
        self._shown = show(units, PROPERTIES, self.machine.run)
        parts = parts_of(self.wanted)
        for name in releases.SHARED_RELEASES:
            with self._part(name):
                self._switch(name, name)
        with self._part("units"):
            self._put_shared_files()
        for kind, bring_back in (
            ("jaeger", self._jaeger),
            ("flask@", self._app),
            ("env@", self._files),
            ("envoy@", self._proxy),
        ):
            for part in parts:
                if part.startswith(kind):
                    with self._part(part):
                        bring_back(part)
        self._renew([part.partition("@")[2] for part in parts if part.startswith("envoy@")])
        extra = [part for part in parts_of(self._there) if part not in parts]
        if extra:
            self.restored |= set(extra)
            with self._part(", ".join(extra)):
                if not self.dry:
                    leave(self.machine, extra, self.drain_seconds)
        with self._part("units"):
            self._remove_shared()

    @contextlib.contextmanager
    def _part(self, part: str) -> Iterator[None]:
        """Note what fails of a part, and go on."""
        try:
            yield
        except KeyError as missing:
            self.errors[part] = f"the group {missing.args[0]} does not exist"
        except FAULTS as fault:
            self.errors[part] = reason(fault)

    def _differing(self, part: str | None) -> dict[str, File]:
        return {
            path: file
            for path, file in self.wanted["files"].items()
            if part_of(path) == part and differ(self._there["files"].get(path), file)
        }

    def _extra(self, part: str | None) -> list[str]:
        return [
            path
            for path in self._there["files"]
            if part_of(path) == part and path not in self.wanted["files"]
        ]

    # What parts share

    def _put_shared_files(self) -> None:
        """Put unit files, programs and the like back, and have them take effect."""
        files = self._differing(None)
        if not files:
            return
        self.restored.add("units")
        for path in files:
            there = self._there["files"].get(path)
            self._replaced[path] = there["mtime"] if there else 0
        if self.dry:
            return
        put(self.machine.root, files, self.wanted["folders"])
        for path in files:
            for pattern, command in APPLIED_BY:
                if pattern.fullmatch(path):
                    self.machine.run([*command, str(self.machine.root / path)])
        if any(path.startswith(UNITS) for path in files):
            self.machine.systemctl("daemon-reload")

    def _remove_shared(self) -> None:
        """Remove shared files and releases of which the snapshot knows nothing.

        Last, when nothing runs under them any more.
        """
        extra = self._extra(None)
        links = [
            name
            for name in releases.SHARED_RELEASES
            if name in self._there["links"] and name not in self.wanted["links"]
        ]
        self.restored |= {*links, *(["units"] if extra else [])}
        if self.dry:
            return
        for path in extra:
            (self.machine.root / path).unlink(missing_ok=True)
        for name in links:
            releases.drop_link(self.machine.root, name)
        if any(path.startswith(UNITS) for path in extra):
            self.machine.systemctl("daemon-reload")

    # Any part

    def _switch(self, name: str, part: str) -> None:
        """Have the release `name` of a part be the one of the snapshot."""
        version = self.wanted["links"].get(name)
        if version is None or version == self._there["links"].get(name):
            return
        self.restored.add(part)
        if not self.dry:
            switch_release(self.machine.root, name, version)

    def _files(self, part: str) -> None:
        """Put a part's files back, and remove those that the snapshot does not have."""
        files, extra = self._differing(part), self._extra(part)
        if files or extra:
            self.restored.add(part)
        if self.dry:
            return
        put(self.machine.root, files, self.wanted["folders"])
        for path in extra:
            (self.machine.root / path).unlink(missing_ok=True)

    def _enable(self, part: str) -> None:
        wanted = [
            unit
            for unit in units_of(part)
            if (state := self.wanted["units"].get(unit))
            and state["enabled"]
            and self._shown.get(unit, {}).get("UnitFileState") != "enabled"
        ]
        if wanted:
            self.restored.add(part)
            if not self.dry:
                self.machine.systemctl("enable", *wanted)

    def _should_run(self, unit: str) -> bool:
        state = self.wanted["units"].get(unit)
        return state is not None and state["active"]

    def _text(self, path: str) -> str:
        """Return the text that a file of the snapshot has; empty without one."""
        file = self.wanted["files"].get(path)
        return file.get("text", "") if file else ""

    # Jaeger and apps

    def _jaeger(self, part: str) -> None:
        self._switch("jaeger", part)
        changed = self._differing(part)
        self._files(part)
        if not self.dry and JAEGER_UNIT in changed:
            self.machine.systemctl("daemon-reload")
        if not self.dry and GUARD in parts_of(self._there) and GUARD not in parts_of(self.wanted):
            # It has the ports that Jaeger is to have again.
            self.machine.systemctl("stop", f"{GUARD}.service")
        self._process(part, status_of_jaeger(self._text(JAEGER_UNIT)), "restart")
        self._enable(part)

    def _app(self, part: str) -> None:
        name = part.partition("@")[2]
        self._switch(name, part)
        drop_in, there = app_drop_in(name), self._there["files"]
        other_unit = differ(there.get(drop_in), self.wanted["files"].get(drop_in))
        self._files(part)
        if other_unit and not self.dry:
            self.machine.systemctl("daemon-reload")
        settings = read_environment(self._text(f"etc/flask/{name}/env"))
        self._enable(part)
        # Also where the unit is another one: requests would wait for a restart (see flask_renew).
        self._process(part, settings.get("CONFIG_ID", ""), "reload-or-restart")

    def _process(self, part: str, started_with: str, verb: str) -> None:
        """Have the process of a part run with what is there, unless it does already."""
        unit = f"{part}.service"
        if not self._should_run(unit):
            return
        shown = self._shown.get(unit, {})
        runs = shown.get("ActiveState") == "active"
        release = self._release_of(shown.get("MainPID", "0"), part)
        version = self.wanted["links"].get(part.partition("@")[2] or part)
        if runs and started_with in shown.get("StatusText", "") and release in {None, version}:
            return
        self.restored.add(part)
        if self.dry:
            return
        began = time.time()
        sockets = [each for each in units_of(part) if each.endswith(".socket")]
        try:
            if sockets and self._shown.get(sockets[0], {}).get("ActiveState") != "active":
                self.machine.systemctl("start", *sockets)
            try:
                self.machine.systemctl(verb, unit)
            except CommandFailed:
                if verb == "restart":
                    raise
                self.machine.systemctl("restart", unit)
        except CommandFailed as failed:
            raise CommandFailed(self._with_journal(str(failed), [unit], began)) from failed

    def _with_journal(self, text: str, units: Sequence[str], since: float) -> str:
        lines = journal(units, since, run=self.machine.run)
        return "\n".join((text, *lines)).strip()

    def _release_of(self, pid: str, part: str) -> str | None:
        """Return the release in whose folder a process of an app works, None if it is not told."""
        name = part.partition("@")[2]
        try:
            folder = str((self.machine.root / "proc" / pid / "cwd").readlink())
        except OSError:
            return None
        release = release_in(folder)
        return release[1] if release and release[0] == name else None

    # Envoys

    def _files_of(self, proxy: str) -> dict[str, File]:
        """Return the files that a proxy has in the snapshot, by path below its folder."""
        folder = f"etc/envoy/{proxy}/"
        return {
            path.removeprefix(folder): file
            for path, file in self.wanted["files"].items()
            if path.startswith(folder)
        }

    def _proxy(self, part: str) -> None:
        """Bring an Envoy its files in safe order and see them accepted."""
        name = part.partition("@")[2]
        folder, files = f"etc/envoy/{name}/", self._files_of(name)
        texts = {
            path: file["text"]
            for path, file in files.items()
            if "text" in file and is_for_envoy(path)
        }
        if not is_whole(texts):
            return self._files(part)
        proxy = self.machine.proxy(name, files[bootstrap_of(texts)]["group"])
        others = {
            f"{folder}{path}": file
            for path, file in files.items()
            if path not in texts and differ(self._there["files"].get(f"{folder}{path}"), file)
        }
        up = self._should_run(f"{part}.service") or proxy.service.is_running()
        if others or not _is_settled(proxy, texts, up=up):
            self.restored.add(part)
            if not self.dry:
                put(self.machine.root, others, self.wanted["folders"])
                if up:
                    if not proxy.service.is_running():
                        self._started.add(name)
                    bring(proxy, texts)
                else:
                    self._files(part)
        return self._enable(part)

    def _renew(self, names: Sequence[str]) -> None:
        """Have the proxies whose processes are of another binary, bootstrap or unit renewed."""
        stale = []
        for name in names:
            with self._part(f"envoy@{name}"):
                if f"envoy@{name}" not in self.errors and self._is_stale(name):
                    stale.append(name)
        if not stale:
            return
        self.restored |= {f"envoy@{name}" for name in stale}
        if self.dry:
            return
        began = time.time()
        units = [f"envoy@{name}.service" for name in stale]
        # A snapshot from before units could be reloaded has no other way.
        can_reload = "ExecReload=" in self._text(ENVOY_UNIT)
        command = [*self.machine.renew, *stale] if can_reload else ["systemctl", "restart", *units]
        done = self.machine.run(command)
        if done.code != 0:
            text = self._with_journal(done.err.strip(), units, began)
            self.errors |= {f"envoy@{name}": text for name in stale}
            return
        # A process of another release watched these until now.
        for unit in stale:
            for path in self._extra(f"envoy@{unit}"):
                (self.machine.root / path).unlink(missing_ok=True)

    def _is_stale(self, name: str) -> bool:
        files = self._files_of(name)
        bootstrap = bootstrap_of(files)
        if bootstrap not in files:
            return False
        file = files[bootstrap]
        proxy = self.machine.proxy(name, file["group"])
        if not proxy.service.is_running():
            return False
        if self.dry and f"envoy@{name}" in self.restored:
            return False  # told already
        binary = self.machine.root / "opt/envoy/current/bin/envoy"
        if self.dry and "envoy" in self.restored:
            binary = self.machine.root / "opt/envoy" / self.wanted["links"]["envoy"] / "bin/envoy"
        if proxy.needs_restart({bootstrap: file["text"]}, str(binary)):
            return True
        if name in self._started:
            return False
        replaced = self._replaced.get(ENVOY_UNIT)
        started = started_at(self._shown.get(f"envoy@{name}.service", {}))
        return replaced is not None and started is not None and started >= replaced


def _is_settled(proxy: Proxy, texts: dict[str, str], *, up: bool) -> bool:
    """Tell whether an Envoy has these files and, if it should be `up`, runs and accepted them."""
    if proxy.store.read() != texts or proxy.store.wrong_rights():
        return False
    return not up or (proxy.service.is_running() and proxy.accepts(texts))
