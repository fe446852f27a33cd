#!/usr/bin/python
# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""Keep what vmesh has put on a host as numbered states, and bring the host back to one."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: host_snapshot
short_description: Keep the states of a host and bring it back to one
description:
  - A state is all that vmesh has put on a host. That is every file of C(/etc/envoy),
    C(/etc/flask), C(/etc/jaeger) and C(/etc/vmesh), our unit files and helper scripts, where
    C(/opt/<name>/current) leads, and which units are enabled and active. That an endpoint is
    draining is no part of it.
  - States are kept below C(/var/lib/vmesh), for root alone, as secrets are in them. None of their
    content leaves the host.
  - C(begin) keeps the state of before a run, unless that of an interrupted run is still there,
    which is the last whole one.
  - C(commit) ends a run. Where the host differs from its newest state, it keeps the new one under
    the run's number and writes a line of history. It keeps the last three states, and removes the
    releases below C(/opt) to which neither C(current), nor a kept state, nor a process leads, and
    what interrupted runs left there.
  - C(restore) brings the host to the state of before the run, or to a numbered one. What is as it
    should be is left alone. It goes on where a part fails, and fails in the end, with each part and
    its reason. A numbered state that cannot be reached whole is given up for the state of before,
    else it is committed as the state of this run.
  - C(remove) takes parts away that left the inventory. An Envoy that runs drains its listeners, and
    is stopped as soon as it has no more requests or streams, or after O(drain_seconds). That goes
    on in the background, as the unit C(vmesh-leave-envoy-<name>); the same way go parts of which a
    restored state knows nothing. Traces and logs stay. What is left is the state of this run.
options:
  operation:
    description: What to do.
    type: str
    choices: [begin, commit, restore, remove]
    required: true
  run:
    description: Number of the run.
    type: int
    required: true
  who:
    description: Who runs it.
    type: str
    default: ""
  note:
    description: What was asked for.
    type: str
    default: ""
  to:
    description: >-
      For C(restore), C(pending) for the state of before the run, or a number, which means the
      newest state that is not newer.
    type: str
    default: pending
  cause:
    description: For C(restore), why.
    type: str
    default: ""
  parts:
    description: >-
      Parts of the host, C(envoy@<name>), C(flask@<name>), C(env@<name>) (what an app of others is
      offered) or C(jaeger). For C(restore) to a number, all that is brought back; empty for
      everything, Envoy's release and the units too. For C(remove), what goes.
    type: list
    elements: str
    default: []
  drain_seconds:
    description: How long an Envoy that goes may finish its requests and streams.
    type: int
    default: 600
  timeout:
    description: Seconds to wait for an Envoy to accept each step.
    type: float
    default: 60
author:
  - vmesh maintainers
"""

EXAMPLES = r"""
- name: Keep the state of before
  vmesh.mesh.host_snapshot:
    operation: begin
    run: 7
    who: root@controller
    note: apply

- name: Bring it back
  vmesh.mesh.host_snapshot:
    operation: restore
    run: 7
    cause: "{{ ansible_failed_result.msg }}"
"""

RETURN = r"""
newest:
  description: Number of the newest state; 0 without one.
  returned: begin
  type: int
interrupted:
  description: Number of the run that was interrupted, whose state of before is kept.
  returned: begin, where there was one
  type: int
number:
  description: Number of the state in which the host is now.
  returned: commit, restore
  type: int
from:
  description: Number of the state of before.
  returned: commit, restore
  type: int
parts:
  description: What differs between the two; C(envoy) for its release, C(units) for shared files.
  returned: commit
  type: list
  elements: str
removed:
  description: Releases (C(name/version)) that were cleaned up, or the parts that were removed.
  returned: commit, remove
  type: list
  elements: str
restored:
  description: What was brought back.
  returned: restore
  type: list
  elements: str
errors:
  description: Why a part could not be brought back, by its name.
  returned: restore
  type: dict
"""

import contextlib  # noqa: E402
import grp  # noqa: E402
import http.client  # noqa: E402
import os  # noqa: E402
import pwd  # noqa: E402
import re  # noqa: E402
import shutil  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence  # noqa: E402
from dataclasses import dataclass, field  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402

from ..module_utils.environment_file import read_environment  # noqa: E402
from ..module_utils.mesh_envoy import (  # noqa: E402
    BOOTSTRAP,
    CLUSTERS,
    LEAVING,
    LISTENERS,
    WATCHED,
    Admin,
    Proxy,
    Refused,
    Store,
    Systemd,
    bring,
    differences,
    leaver,
    reason,
    writing_in,
)
from ..module_utils.mesh_host import (  # noqa: E402
    INCOMING,
    UNITS,
    Books,
    Line,
    Run,
    State,
    Unreadable,
    capture,
    changed_parts,
    content_of,
    differ,
    empty,
    now,
    part_of,
    part_of_link,
    part_of_unit,
    parts_of,
    releases_in_use,
    run,
    same,
    show_units,
    units_of,
    what_changed,
)

# Has proxies serve with the binary and bootstrap that are there now; the role envoy installs it.
RENEW = ("envoy-control", "renew")
APPLIED, RESTORED, ROLLED_BACK = "applied", "restored", "rolled back"
# Stops units once the Envoy behind an admin socket has had nothing to do for a few looks.
LEAVE = r"""
import http.client, re, socket, subprocess, sys, time
from pathlib import Path
admin, seconds, marker, *units = sys.argv[1:]
def active():
    connection = http.client.HTTPConnection("localhost", timeout=10)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.settimeout(10)
    connection.sock.connect(admin)
    connection.request("GET", "/stats?filter=downstream_%28rq%7Ccx%29_active%24")
    text = connection.getresponse().read().decode()
    connection.close()
    found = re.findall(r"^(?:http\.(?!admin\.).*rq|tcp\..*cx)_active: (\d+)$", text, re.MULTILINE)
    return sum(map(int, found))
deadline, quiet = time.monotonic() + float(seconds), 0
while quiet < 6 and time.monotonic() < deadline:
    try:
        quiet = 0 if active() else quiet + 1
    except (OSError, http.client.HTTPException):
        break
    time.sleep(0.5)
subprocess.run(["systemctl", "stop", *units])
Path(marker).unlink(missing_ok=True)
"""


class Failed(Exception):  # noqa: N818 - says what happened
    """A part could not be brought to what it should be; the text says why."""


FAULTS = (Failed, Refused, Unreadable, OSError, http.client.HTTPException)


@dataclass(frozen=True)
class Machine:
    """The host: the root of its files, how commands are run, and its Envoys.

    proxy: name and group of its files in, the proxy out; raises KeyError without such a group
    renew: command that renews the processes of the proxies whose names it is given
    """

    root: Path
    run: Run
    proxy: Callable[[str, str], Proxy]
    renew: Sequence[str] = RENEW
    leaving: Path = LEAVING

    def systemctl(self, *arguments: str) -> None:
        """Run systemctl; raises Failed with what it says."""
        done = self.run(["systemctl", *arguments])
        if done.code != 0:
            raise Failed(done.err.strip() or f"systemctl {' '.join(arguments)} failed")

    def journal(self, units: Sequence[str], since: float) -> str:
        """Return the last lines of units, since a time in seconds since the epoch."""
        names = [f"--unit={unit}" for unit in units]
        done = self.run(
            ["journalctl", "--no-pager", "--output=cat", "-n20", f"--since=@{int(since)}", *names]
        )
        return done.out.strip()


@dataclass(frozen=True)
class Asked:
    """What a run is."""

    run: int
    who: str = ""
    note: str = ""


# begin and commit


def begin(machine: Machine, asked: Asked) -> dict[str, Any]:
    """Keep the state of before the run; raises OSError, Unreadable."""
    books = Books(machine.root)
    books.make()
    books.mend()
    result: dict[str, Any] = {"newest": books.newest()}
    interrupted = books.interrupted()
    if interrupted is not None:
        hold(books, asked.who)
        return {**result, "interrupted": interrupted}
    books.keep_pending(capture(machine.root, machine.run), asked.run, asked.who)
    return result


def hold(books: Books, who: str) -> None:
    """Note who changes the host now, whose state of before is kept; empty for nobody.

    Raises OSError, Unreadable.
    """
    pending = books.pending()
    if pending is not None:
        state = {key: pending[key] for key in empty()}
        books.keep_pending(state, int(pending.get("run", 0)), who)


def commit(
    machine: Machine, asked: Asked, result: str = APPLIED, more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """End the run with the state that is there now; raises OSError where that cannot be kept."""
    books = Books(machine.root)
    books.make()
    books.mend()
    after, numbers = capture(machine.root, machine.run), books.numbers()
    if not numbers:
        numbers = keep_found(books)
    newest = numbers[-1] if numbers else 0
    # A run may come to a host more than once; what it changed counts from before its first time.
    earlier = [number for number in numbers if number != asked.run]
    number = earlier[-1] if earlier else 0
    written, parts = newest, list[str]()
    if not same(books.read_or_empty(newest), after):
        before = books.read_or_empty(number)
        written, parts = asked.run, changed_parts(before, after)
        line: Line = {
            "run": asked.run,
            "when": now(),
            "who": asked.who,
            "note": asked.note,
            "from": number,
            "to": asked.run,
            "what": what_changed(before, after),
            "result": result,
            **(more or {}),
        }
        books.keep(asked.run, after, line)
    books.drop_pending()
    # The state is kept: what is left to do can wait for the next run.
    books.mend()
    return {
        "number": written,
        "from": number,
        "parts": parts,
        "removed": clean(machine, books, written),
    }


def keep_found(books: Books) -> list[int]:
    """Keep as number 0 what was on a host before vmesh kept states, so that it can come back.

    Returns the numbers that are kept then.
    """
    with contextlib.suppress(Unreadable):
        pending = books.pending()
        if pending is not None and not same(pending, empty()):
            books.keep(0, {key: pending[key] for key in empty()}, {})
    return books.numbers()


def clean(machine: Machine, books: Books, written: int) -> list[str]:
    """Forget old states, and remove the releases that nothing needs; returns those."""
    return clean_releases(machine, books, books.prune(written))


def clean_releases(machine: Machine, books: Books, names: Iterable[str]) -> list[str]:
    """Remove the releases of `names` that nothing needs, and what interrupted runs left of any.

    Returns what was removed; what cannot be removed stays.
    """
    names, removed = sorted(set(names)), []
    wanted = books.releases() | releases_in_use(machine.root, names)
    for name in names:
        folder = machine.root / "opt" / name
        remains(folder)
        link = folder / "current"
        current = str(link.readlink()) if link.is_symlink() else ""
        for path in sorted(folder.glob("*")):
            needed = path.name == current or (name, path.name) in wanted
            if path.is_dir() and not path.is_symlink() and not needed:
                shutil.rmtree(path, ignore_errors=True)
                removed.append(f"{name}/{path.name}")
        with contextlib.suppress(OSError):
            folder.rmdir()  # which only goes when nothing is in it
    return removed


def remains(folder: Path) -> None:
    """Remove what an interrupted run left of a release that it was bringing."""
    for path in folder.glob(".staging-*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(".archive-*"):
        with contextlib.suppress(OSError):
            path.unlink()


# Files


def put(root: Path, files: Mapping[str, Mapping[str, Any]], folders: Mapping[str, Any]) -> None:
    """Put files of a state in place: all are written before the first is moved.

    Raises OSError and Failed, with all as it was.
    """
    written: dict[Path, Path] = {}
    try:
        for path, file in files.items():
            target = root / path
            make_folders(root, target.parent, folders)
            handle, name = tempfile.mkstemp(dir=target.parent, prefix=INCOMING)
            written[Path(name)] = target
            with writing_in(target.parent), os.fdopen(handle, "wb") as stream:
                stream.write(content_of(file))
                stream.flush()
                os.fsync(stream.fileno())
            give(Path(name), file)
            os.utime(name, (file["mtime"], file["mtime"]))
        for beside, target in list(written.items()):
            beside.replace(target)
            del written[beside]
    finally:
        for beside in written:
            beside.unlink(missing_ok=True)


def tidy(root: Path) -> None:
    """Remove what an interrupted run left of parts: files laid beside others, and empty folders."""
    for name in ("envoy", "jaeger", *names_of_apps(root)):
        remains(root / "opt" / name)
    for path in root.glob("etc/flask/*/*.next"):
        path.unlink(missing_ok=True)
    for folder in (*root.glob("etc/flask/*"), *root.glob("etc/envoy/*")):
        if folder.is_dir() and not any(path.is_file() for path in folder.rglob("*")):
            shutil.rmtree(folder, ignore_errors=True)


def names_of_apps(root: Path) -> set[str]:
    """Return the names of the apps that are there, also of those that are not yet whole."""
    return {path.name for path in root.glob("etc/flask/*") if path.is_dir()}


def make_folders(root: Path, folder: Path, folders: Mapping[str, Any]) -> None:
    """Make a folder and those above it, with the rights that the state has for them."""
    missing = [each for each in (folder, *folder.parents) if each != root and not each.exists()]
    for each in reversed(missing):
        each.mkdir(mode=0o755, exist_ok=True)
    for each in (folder, *folder.parents):
        rights = folders.get(str(each.relative_to(root))) if each.is_relative_to(root) else None
        if rights:
            give(each, rights)


def give(path: Path, rights: Mapping[str, Any]) -> None:
    """Give a file or folder its owner, group and mode; raises Failed, OSError."""
    owner, group = user_id(rights["owner"]), group_id(rights["group"])
    status = path.stat()
    if (status.st_uid, status.st_gid) != (owner, group):
        os.chown(path, owner, group)
    path.chmod(int(rights["mode"], 8))


def user_id(name: str) -> int:
    try:
        return int(name) if name.isdigit() else pwd.getpwnam(name).pw_uid
    except KeyError as error:
        raise Failed(f"the user {name} does not exist") from error


def group_id(name: str) -> int:
    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError as error:
        raise Failed(f"the group {name} does not exist") from error


def lead(link: Path, version: str) -> None:
    """Have the link `current` of a release lead to `version`; raises Failed, OSError."""
    if not (link.parent / version).is_dir():
        raise Failed(
            f"the release {link.parent.name} {version} is not on this host any more;"
            " apply an inventory that has it"
        )
    beside = link.with_name(f"{INCOMING}current")
    beside.unlink(missing_ok=True)
    beside.symlink_to(version)
    beside.replace(link)


# Parts that go


def leave(machine: Machine, parts: Sequence[str], drain_seconds: int) -> list[str]:
    """Take parts away; returns those that still finish their requests. Raises Failed, OSError."""
    units = [unit for part in parts for unit in units_of(part)]
    shown = show_units(machine.run, units)
    there = [unit for unit in units if shown.get(unit, {}).get("LoadState") == "loaded"]
    if there:
        machine.systemctl("disable", *there)
    draining: dict[str, list[str]] = {}
    for part in sorted(parts):
        name, active = part.partition("@")[2], shown.get(f"{part}.service", {}).get("ActiveState")
        if part.startswith("envoy@") and active in {"active", "reloading"}:
            app = [unit for unit in units_of(f"flask@{name}") if unit in there]
            if drain(machine, part, [f"{part}.service", *app], drain_seconds):
                draining[part] = [f"{part}.service", *app]
    later = {unit for found in draining.values() for unit in found}
    at_once = [unit for unit in there if unit not in later]
    if at_once:
        machine.systemctl("stop", *at_once)
        machine.run(["systemctl", "reset-failed", *at_once])
    for part in parts:
        forget(machine.root, part)
    if "jaeger" in parts:
        machine.systemctl("daemon-reload")
    return sorted(draining)


def drain(machine: Machine, part: str, units: Sequence[str], seconds: int) -> bool:
    """Have an Envoy close its listeners gently and `units` stopped when it has nothing more to do.

    Returns whether somebody sees to it; else they are to be stopped at once.
    """
    name, unit = part.partition("@")[2], units[0]
    admin = str(machine.root / "run/envoy" / name / "admin.sock")
    marker = machine.leaving / unit
    try:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
        Admin(admin).post("/drain_listeners?graceful")
    except (OSError, http.client.HTTPException):
        marker.unlink(missing_ok=True)
        return False
    command = ["systemd-run", "--quiet", "--collect", f"--unit={leaver(unit)}"]
    command += [f"--description=Stops {unit} when it has nothing more to do", "--"]
    command += ["/usr/bin/python3", "-c", LEAVE, admin, str(seconds), str(marker), *units]
    if machine.run(command).code != 0:
        marker.unlink(missing_ok=True)
        return False
    return True


def forget(root: Path, part: str) -> None:
    """Remove the configuration of a part and the link to its release; raises OSError."""
    kind, _, name = part.partition("@")
    if kind == "env":
        (root / "etc/vmesh" / f"{name}.env").unlink(missing_ok=True)
        return
    folder = root / "etc" / kind / name
    if folder.is_dir():
        shutil.rmtree(folder)
    if kind == "jaeger":
        (root / UNITS / "jaeger.service").unlink(missing_ok=True)
    if kind in {"flask", "jaeger"}:
        (root / "opt" / (name or kind) / "current").unlink(missing_ok=True)


PART = re.compile(r"jaeger|(envoy|flask|env)@[a-z0-9][a-z0-9-]*")


def remove(
    machine: Machine,
    asked: Asked,
    parts: Sequence[str],
    drain_seconds: int,
    *,
    dry: bool = False,
) -> dict[str, Any]:
    """Take parts away that are there, and keep what is left as the state of the run.

    Raises Failed, OSError.
    """
    there = set(parts_of(capture(machine.root, machine.run)))
    gone = sorted(set(parts) & there)
    if dry or not gone:
        return {"removed": gone, "leaving": []}
    leaving = leave(machine, gone, drain_seconds)
    return {**commit(machine, asked), "removed": gone, "leaving": leaving}


# Restoring


def merged(now_there: State, kept: State, parts: Sequence[str]) -> State:
    """Return the state that is there with `parts` of a kept one in their places."""
    chosen = set(parts)
    key_parts: dict[str, Callable[[str], str | None]] = {
        "files": part_of,
        "links": part_of_link,
        "units": part_of_unit,
    }
    found: State = {"folders": {**now_there["folders"], **kept["folders"]}}
    for key, of in key_parts.items():
        staying = {name: each for name, each in now_there[key].items() if of(name) not in chosen}
        coming = {name: each for name, each in kept[key].items() if of(name) in chosen}
        found[key] = {**staying, **coming}
    return found


@dataclass
class Restore:
    """Brings a host to a state. What it does and what fails is in `restored` and `errors`."""

    machine: Machine
    wanted: State
    drain_seconds: int = 600
    dry: bool = False
    restored: set[str] = field(default_factory=set)
    errors: dict[str, str] = field(default_factory=dict)
    there: State = field(init=False)
    shown: dict[str, dict[str, str]] = field(init=False)
    # When the shared files that were not as they should be had been written.
    replaced: dict[str, int] = field(default_factory=dict)
    started: set[str] = field(default_factory=set)

    def run(self) -> None:
        """Do it, in the order in which nothing refers to what is not there yet."""
        self.there = capture(self.machine.root, self.machine.run)
        units = sorted({*self.wanted["units"], *self.there["units"]})
        self.shown = show_units(self.machine.run, units)
        parts = parts_of(self.wanted)
        with self._part("units"):
            self._shared()
        with self._part("envoy"):
            self._link("envoy", "envoy")
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
        extra = [part for part in parts_of(self.there) if part not in parts]
        if extra:
            self.restored |= set(extra)
            with self._part(", ".join(extra)):
                if not self.dry:
                    leave(self.machine, extra, self.drain_seconds)
        with self._part("units"):
            self._shared_extra()

    @contextlib.contextmanager
    def _part(self, part: str) -> Iterator[None]:
        """Note what fails of a part, and go on."""
        try:
            yield
        except KeyError as missing:
            self.errors[part] = f"the group {missing.args[0]} does not exist"
        except FAULTS as fault:
            self.errors[part] = reason(fault)

    def _differing(self, part: str | None) -> dict[str, dict[str, Any]]:
        return {
            path: file
            for path, file in self.wanted["files"].items()
            if part_of(path) == part and differ(self.there["files"].get(path), file)
        }

    def _extra(self, part: str | None) -> list[str]:
        return [
            path
            for path in self.there["files"]
            if part_of(path) == part and path not in self.wanted["files"]
        ]

    def _shared(self) -> None:
        """Put unit files, helper scripts and the like back, and have them take effect."""
        files = self._differing(None)
        if not files:
            return
        self.restored.add("units")
        for path in files:
            self.replaced[path] = int(self.there["files"].get(path, {}).get("mtime", 0))
        if self.dry:
            return
        put(self.machine.root, files, self.wanted["folders"])
        for path in files:
            if path.startswith("etc/systemd/") and path.endswith("-users.conf"):
                self.machine.run(["systemd-sysusers", str(self.machine.root / path)])
            if path.startswith("etc/sysctl.d/"):
                self.machine.run(["/usr/lib/systemd/systemd-sysctl", str(self.machine.root / path)])
        if any(path.startswith(UNITS) for path in files):
            self.machine.systemctl("daemon-reload")

    def _shared_extra(self) -> None:
        """Remove shared files of which the state knows nothing, and Envoy's link where it has none.

        Last, when nothing runs under them any more.
        """
        extra = self._extra(None)
        if extra:
            self.restored.add("units")
        link = self.machine.root / "opt/envoy/current"
        no_link = "envoy" not in self.wanted["links"] and link.is_symlink()
        if no_link:
            self.restored.add("envoy")
        if self.dry:
            return
        for path in extra:
            (self.machine.root / path).unlink(missing_ok=True)
        if no_link:
            link.unlink()
        if any(path.startswith(UNITS) for path in extra):
            self.machine.systemctl("daemon-reload")

    def _link(self, name: str, part: str) -> None:
        version = self.wanted["links"].get(name)
        if version is None or version == self.there["links"].get(name):
            return
        self.restored.add(part)
        if not self.dry:
            lead(self.machine.root / "opt" / name / "current", version)

    def _files(self, part: str) -> None:
        """Put a part's files back, and remove those that the state does not have."""
        files, extra = self._differing(part), self._extra(part)
        if files or extra:
            self.restored.add(part)
        if self.dry:
            return
        put(self.machine.root, files, self.wanted["folders"])
        for path in extra:
            (self.machine.root / path).unlink(missing_ok=True)

    def _jaeger(self, part: str) -> None:
        self._link("jaeger", part)
        changed = self._differing(part)
        self._files(part)
        if not self.dry and f"{UNITS}jaeger.service" in changed:
            self.machine.systemctl("daemon-reload")
        unit = self.wanted["files"].get(f"{UNITS}jaeger.service", {}).get("text", "")
        started = re.search(r"--status=(Configuration \w+)", unit)
        self._process(part, started.group(1) if started else "", "restart")
        self._enable(part)

    def _app(self, part: str) -> None:
        name = part.partition("@")[2]
        self._link(name, part)
        self._files(part)
        text = self.wanted["files"].get(f"etc/flask/{name}/env", {}).get("text", "")
        # Its own unit can have a new process take over without a pause; not from another unit.
        gentle = f"{UNITS}flask@.service" not in self.replaced
        self._enable(part)
        self._process(
            part,
            read_environment(text).get("CONFIG_ID", ""),
            "reload-or-restart" if gentle else "restart",
        )

    def _process(self, part: str, started_with: str, verb: str) -> None:
        """Have the process of a part run with what is there, unless it does already."""
        unit, status = f"{part}.service", self.shown.get(f"{part}.service", {})
        if not self.wanted["units"].get(unit, {}).get("active"):
            return
        runs = status.get("ActiveState") == "active"
        release = self._release_of(status.get("MainPID", "0"), part)
        version = self.wanted["links"].get(part.partition("@")[2] or part)
        if runs and started_with in status.get("StatusText", "") and release in {None, version}:
            return
        self.restored.add(part)
        if self.dry:
            return
        began = time.time()
        sockets = [each for each in units_of(part) if each.endswith(".socket")]
        try:
            if sockets and self.shown.get(sockets[0], {}).get("ActiveState") != "active":
                self.machine.systemctl("start", *sockets)
            try:
                self.machine.systemctl(verb, unit)
            except Failed:
                if verb == "restart":
                    raise
                self.machine.systemctl("restart", unit)
        except Failed as failed:
            raise Failed(f"{failed}\n{self.machine.journal([unit], began)}".strip()) from failed

    def _release_of(self, pid: str, part: str) -> str | None:
        """Return the release in whose folder a process of an app works, None if it is not told."""
        name = part.partition("@")[2]
        try:
            folder = str((self.machine.root / "proc" / pid / "cwd").readlink())
        except OSError:
            return None
        found = re.search(rf"/opt/{re.escape(name)}/([^/]+)", folder) if name else None
        return found.group(1) if found else None

    def _enable(self, part: str) -> None:
        wanted = [
            unit
            for unit in units_of(part)
            if self.wanted["units"].get(unit, {}).get("enabled")
            and self.shown.get(unit, {}).get("UnitFileState") != "enabled"
        ]
        if wanted:
            self.restored.add(part)
            if not self.dry:
                self.machine.systemctl("enable", *wanted)

    def _proxy(self, part: str) -> None:
        """Bring an Envoy its files in safe order and see them accepted."""
        name, folder = part.partition("@")[2], f"etc/envoy/{part.partition('@')[2]}/"
        files = {
            path.removeprefix(folder): file
            for path, file in self.wanted["files"].items()
            if path.startswith(folder)
        }
        texts = {path: file["text"] for path, file in files.items() if is_for_envoy(path, file)}
        if not texts.keys() >= {BOOTSTRAP, CLUSTERS, LISTENERS}:
            return self._files(part)
        proxy = self.machine.proxy(name, files[BOOTSTRAP]["group"])
        others = {
            f"{folder}{path}": file
            for path, file in files.items()
            if path not in texts and differ(self.there["files"].get(f"{folder}{path}"), file)
        }
        settled = not differences(proxy.store.read(), texts) and not proxy.store.wrong_rights()
        unit = self.wanted["units"].get(f"{part}.service", {})
        wanted_up = unit.get("active", False) or proxy.service.is_running()
        if wanted_up:
            settled = settled and proxy.service.is_running() and proxy.accepts(texts)
        if not settled or others:
            self.restored.add(part)
            if not self.dry:
                put(self.machine.root, others, self.wanted["folders"])
                if wanted_up:
                    if not proxy.service.is_running():
                        self.started.add(name)
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
        unit = self.wanted["files"].get(f"{UNITS}envoy@.service", {}).get("text", "")
        # A state from before units could be reloaded has no other way.
        command = self.machine.renew if "ExecReload=" in unit else ("systemctl", "restart")
        names = stale if "ExecReload=" in unit else units
        done = self.machine.run([*command, *names])
        if done.code != 0:
            text = f"{done.err.strip()}\n{self.machine.journal(units, began)}".strip()
            self.errors |= {f"envoy@{name}": text for name in stale}

    def _is_stale(self, name: str) -> bool:
        folder = f"etc/envoy/{name}/"
        file = self.wanted["files"].get(f"{folder}{BOOTSTRAP}")
        if file is None:
            return False
        proxy = self.machine.proxy(name, file["group"])
        if not proxy.service.is_running():
            return False
        if self.dry and f"envoy@{name}" in self.restored:
            return False  # told already
        binary = self.machine.root / "opt/envoy/current/bin/envoy"
        if self.dry and "envoy" in self.restored:
            binary = self.machine.root / "opt/envoy" / self.wanted["links"]["envoy"] / "bin/envoy"
        if proxy.needs_restart({BOOTSTRAP: file["text"]}, str(binary)):
            return True
        if name in self.started:
            return False
        replaced = self.replaced.get(f"{UNITS}envoy@.service")
        started = self.shown.get(f"envoy@{name}.service", {}).get("ExecMainStartTimestamp", "")
        time_of_start = started.removeprefix("@")
        return replaced is not None and time_of_start.isdigit() and int(time_of_start) >= replaced


def is_for_envoy(path: str, file: Mapping[str, Any]) -> bool:
    """Tell whether a file of a proxy's folder is one that Envoy itself reads and confirms."""
    folder, _, name = path.rpartition("/")
    return "text" in file and (path == BOOTSTRAP or (folder in WATCHED and name.endswith(".yaml")))


def restore(  # noqa: PLR0913 - what was asked for
    machine: Machine,
    asked: Asked,
    *,
    to: int | None,
    cause: str = "",
    parts: Sequence[str] = (),
    drain_seconds: int = 600,
    dry: bool = False,
) -> dict[str, Any]:
    """Bring the host to the state of before the run (`to` is None), or to a kept one.

    Returns what was restored and what failed. Raises OSError, Unreadable, and Failed where there
    is no such state.
    """
    books = Books(machine.root)
    newest = books.newest()
    if to is None:
        return _restore_pending(machine, books, asked, cause, drain_seconds, dry=dry)
    number = max((each for each in books.numbers() if each <= to), default=None)
    if number is None:
        kept = ", ".join(map(str, books.numbers())) or "none"
        raise Failed(f"no state as old as {to} is kept on this host (kept: {kept})")
    wanted = books.read(number)
    if not dry:
        begin(machine, asked)
    if parts:
        wanted = merged(capture(machine.root, machine.run), wanted, parts)
    work = Restore(machine, wanted, drain_seconds, dry)
    work.run()
    result: dict[str, Any] = {
        "restored": sorted(work.restored),
        "errors": work.errors,
        "from": newest,
        "number": newest,
        "state": number,
    }
    if dry:
        return result
    if work.errors:
        why = f"state {number} was not reached: {'; '.join(work.errors)}"
        back = _restore_pending(machine, books, asked, why, drain_seconds)
        return {**result, "back": back["errors"]}
    more = {"state": number, **({"cause": cause} if cause else {})}
    committed = commit(machine, asked, ROLLED_BACK, more)
    return {**result, **committed}


def _restore_pending(  # noqa: PLR0913 - as restore
    machine: Machine,
    books: Books,
    asked: Asked,
    cause: str,
    drain_seconds: int,
    *,
    dry: bool = False,
) -> dict[str, Any]:
    pending, newest = books.pending(), books.newest()
    result: dict[str, Any] = {"restored": [], "errors": {}, "from": newest, "number": newest}
    if pending is None:
        return {**result, "begun": False}
    before, apps = capture(machine.root, machine.run), names_of_apps(machine.root)
    work = Restore(machine, pending, drain_seconds, dry)
    work.run()
    result |= {"restored": sorted(work.restored), "errors": work.errors}
    if dry:
        return result
    if work.restored or work.errors:
        line: Line = {
            "run": asked.run,
            "when": now(),
            "who": asked.who,
            "note": asked.note,
            "from": newest,
            "to": newest,
            "what": what_changed(before, pending),
            "result": RESTORED,
            "cause": cause,
        }
        if work.errors:
            line["errors"] = work.errors
        with contextlib.suppress(OSError):
            books.append(line)
    if work.errors:
        with contextlib.suppress(OSError):
            hold(books, "")
    else:
        books.drop_pending()
        # The next run has need of a new release again; what a new app had is gone with it.
        clean_releases(machine, books, apps - pending["links"].keys())
        tidy(machine.root)
    return result


# As a module


def on_host(timeout: float) -> Machine:
    """Return the host on which this runs."""

    def proxy(name: str, group: str) -> Proxy:
        return Proxy(
            Store(Path("/etc/envoy") / name, grp.getgrnam(group).gr_gid),
            Systemd(f"envoy@{name}.service"),
            Admin(f"/run/envoy/{name}/admin.sock"),
            timeout,
        )

    return Machine(Path("/"), run, proxy)


def answer(machine: Machine, options: Mapping[str, Any], *, dry: bool) -> dict[str, Any]:
    """Do what was asked for; return what the module tells. Raises what is in FAULTS."""
    asked = Asked(options["run"], options["who"], options["note"])
    if options["operation"] == "begin":
        if dry:
            return {"changed": False, "newest": Books(machine.root).newest()}
        return {"changed": False, **begin(machine, asked)}
    if options["operation"] == "commit":
        newest = Books(machine.root).newest()
        if dry:
            return {"changed": False, "number": newest, "from": newest, "parts": [], "removed": []}
        return {"changed": False, **commit(machine, asked)}
    if options["operation"] == "remove":
        found = remove(machine, asked, options["parts"], options["drain_seconds"], dry=dry)
        return {"changed": bool(found["removed"]), **found}
    found = restore(
        machine,
        asked,
        to=None if options["to"] == "pending" else int(options["to"]),
        cause=options["cause"],
        parts=options["parts"],
        drain_seconds=options["drain_seconds"],
        dry=dry,
    )
    return {"changed": bool(found["restored"]), **found}


def not_restored(result: Mapping[str, Any]) -> str:
    """Return what to say of a restoration that did not succeed."""
    lines = [f"{part}: {text}" for part, text in result["errors"].items()]
    if "back" in result and not result["back"]:
        lines.append("All is as it was before.")
    elif "back" in result:
        lines += [f"Nor is {part} as it was before: {t}" for part, t in result["back"].items()]
    return "Not restored: " + "\n".join(lines)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "operation": {
                "type": "str",
                "choices": ["begin", "commit", "restore", "remove"],
                "required": True,
            },
            "run": {"type": "int", "required": True},
            "who": {"type": "str", "default": ""},
            "note": {"type": "str", "default": ""},
            "to": {"type": "str", "default": "pending"},
            "cause": {"type": "str", "default": ""},
            "parts": {"type": "list", "elements": "str", "default": []},
            "drain_seconds": {"type": "int", "default": 600},
            "timeout": {"type": "float", "default": 60},
        },
        supports_check_mode=True,
    )
    options = module.params
    if options["to"] != "pending" and not options["to"].isdigit():
        module.fail_json(msg=f"to: {options['to']} is neither `pending` nor the number of a state.")
    wrong = [part for part in options["parts"] if not PART.fullmatch(part)]
    if wrong:
        module.fail_json(
            msg=f"parts: {', '.join(wrong)}: a part is envoy@NAME, flask@NAME, env@NAME or jaeger."
        )
    try:
        result = answer(on_host(options["timeout"]), options, dry=module.check_mode)
    except FAULTS as fault:
        module.fail_json(
            msg=f"host_snapshot {options['operation']}: {reason(fault)}", restored=[], errors={}
        )
    if result.get("errors"):
        module.fail_json(msg=not_restored(result), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
