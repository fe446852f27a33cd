# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""What vmesh has put on a host, and the numbered states of it that are kept there.

What the modules host_snapshot and host_info share. Ansible ships it with them as
ansible.module_utils.mesh_host; Python's standard library is all it needs.

A state is plain data:

  files: path below the root -> {text or base64, owner, group, mode, mtime}
  folders: path -> {owner, group, mode}
  links: name -> version to which /opt/<name>/current leads
  units: unit -> {enabled, active}
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import grp
import hashlib
import json
import os
import pwd
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .mesh_envoy import all_serving, writing_in

State = dict[str, Any]
Line = dict[str, Any]

FORMAT = 1
PLACE = "var/lib/vmesh"
KEPT = 3
INCOMING = ".incoming-"

# Folders whose files are all ours, one level down for those that have a folder for each part.
OURS = ("etc/envoy/*/**/*", "etc/flask/*/**/*", "etc/jaeger/**/*", "etc/vmesh/*.env")
OUR_FOLDERS = ("etc/envoy", "etc/flask", "etc/jaeger", "etc/vmesh")
# Files of ours among others': those in which a role says that it has written them.
SHARED = (
    "etc/systemd/system/envoy@*.service",
    "etc/systemd/system/envoy@*.service.d/*.conf",
    "etc/systemd/system/flask@*.service",
    "etc/systemd/system/flask@*.service.d/*.conf",
    "etc/systemd/system/flask@*.socket",
    "etc/systemd/system/jaeger.service",
    "etc/systemd/envoy-*.conf",
    "etc/systemd/flask-*.conf",
    "etc/sysctl.d/*envoy*.conf",
    "etc/tmpfiles.d/flask*.conf",
    "etc/tmpfiles.d/envoy*.conf",
    "usr/local/bin/envoy-*",
    "usr/local/bin/flask-*",
    "usr/local/sbin/envoy-*",
    "usr/local/sbin/flask-*",
)
WRITTEN_BY_A_ROLE = re.compile(rb"\brole (envoy|flask_service|external_app|jaeger)\b")
UNITS = "etc/systemd/system/"
PROPERTIES = (
    "Id",
    "LoadState",
    "ActiveState",
    "UnitFileState",
    "MainPID",
    "StatusText",
    "ExecMainStartTimestamp",
)
UP = ("active", "activating", "reloading", "refreshing")


@dataclass(frozen=True)
class Done:
    """What became of a command."""

    code: int
    out: str = ""
    err: str = ""


Run = Callable[[Sequence[str]], Done]


def run(arguments: Sequence[str]) -> Done:
    """Run a command to its end."""
    try:
        done = subprocess.run(
            list(arguments), check=False, capture_output=True, text=True, errors="replace"
        )
    except FileNotFoundError:
        return Done(127, "", f"{arguments[0]} is not on this host")
    return Done(done.returncode, done.stdout, done.stderr)


def part_of(path: str) -> str | None:
    """Return the part to which a file belongs; None for what parts share."""
    steps = path.split("/")
    if steps[:2] == ["etc", "envoy"]:
        return f"envoy@{steps[2]}"
    if steps[:2] == ["etc", "flask"]:
        return f"flask@{steps[2]}"
    if steps[:2] == ["etc", "vmesh"]:
        return f"env@{steps[2].removesuffix('.env')}"
    if steps[:2] == ["etc", "jaeger"] or path == f"{UNITS}jaeger.service":
        return "jaeger"
    return None


def part_of_link(name: str) -> str | None:
    """Return the part whose release /opt/<name> is; None for Envoy's, which proxies share."""
    return None if name == "envoy" else "jaeger" if name == "jaeger" else f"flask@{name}"


def units_of(part: str) -> list[str]:
    """Return the units of a part."""
    kind, _, name = part.partition("@")
    return {
        "envoy": [f"envoy@{name}.service"],
        "flask": [f"flask@{name}.service", f"flask@{name}.socket"],
        "jaeger": ["jaeger.service"],
    }.get(kind, [])


def part_of_unit(unit: str) -> str:
    """Return the part to which a unit belongs."""
    return unit.rpartition(".")[0]


def parts_of(state: State) -> list[str]:
    """Return the parts that a state has on its host."""
    found = {part_of(path) for path in state["files"]}
    found |= {part_of_unit(unit) for unit in state["units"]}
    return sorted(part for part in found if part is not None)


# What is there


def show_units(run: Run, units: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return what systemd tells of `units`, by their names."""
    if not units:
        return {}
    wanted = f"--property={','.join(PROPERTIES)}"
    text = run(["systemctl", "show", "--timestamp=unix", wanted, "--", *units]).out
    blocks = [
        dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        for block in text.split("\n\n")
    ]
    return {block["Id"]: block for block in blocks if "Id" in block}


def our_files(root: Path) -> Iterator[Path]:
    """Yield the files of vmesh on the host, without those that only lie beside others."""
    for pattern in OURS:
        for path in sorted(root.glob(pattern)):
            beside = path.name.startswith(".") or path.name.endswith(".next")
            if not beside and path.is_file() and not path.is_symlink():
                yield path
    for pattern in SHARED:
        for path in sorted(root.glob(pattern)):
            if path.is_file() and not path.is_symlink() and _is_ours(path):
                yield path


def _is_ours(path: Path) -> bool:
    with path.open("rb") as file:
        return WRITTEN_BY_A_ROLE.search(file.read(500)) is not None


def releases(root: Path) -> dict[str, str]:
    """Return where /opt/<name>/current leads, for what has a release of ours."""
    apps = [path.name for path in sorted((root / "etc/flask").glob("*")) if path.is_dir()]
    found = {}
    for name in ("envoy", "jaeger", *apps):
        link = root / "opt" / name / "current"
        if link.is_symlink():
            found[name] = str(link.readlink())
    return found


def capture(root: Path, run: Run) -> State:
    """Return the state of the host below `root`.

    That an endpoint is draining is no part of it: that lasts for moments of a run only.
    """
    files: dict[str, dict[str, Any]] = {}
    folders: dict[str, dict[str, str]] = {}
    for path in our_files(root):
        name = str(path.relative_to(root))
        files[name] = _file(path)
        folders.update(_folders(root, path.parent))
        if name.startswith("etc/envoy/") and "/endpoints/" in name and "text" in files[name]:
            files[name]["text"] = all_serving(files[name]["text"])
    links = releases(root)
    parts = {part_of(path) for path in files} | {part_of_link(name) for name in links}
    names = sorted(unit for part in parts if part for unit in units_of(part))
    shown = show_units(run, names)
    units = {
        unit: {
            "enabled": block.get("UnitFileState") == "enabled",
            "active": block.get("ActiveState") in UP,
        }
        for unit, block in shown.items()
        if block.get("LoadState") == "loaded"
    }
    return {"files": files, "folders": folders, "links": links, "units": units}


def _file(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    try:
        found: dict[str, Any] = {"text": content.decode()}
    except UnicodeDecodeError:
        found = {"base64": base64.b64encode(content).decode()}
    status = path.stat()
    return {**found, **_rights(status), "mtime": int(status.st_mtime)}


def _folders(root: Path, folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield `folder` and those above it that are ours."""
    while (name := str(folder.relative_to(root))).startswith(OUR_FOLDERS):
        yield name, _rights(folder.stat())
        folder = folder.parent


def _rights(status: os.stat_result) -> dict[str, str]:
    try:
        owner = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        owner = str(status.st_uid)
    try:
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        group = str(status.st_gid)
    return {"owner": owner, "group": group, "mode": f"{status.st_mode & 0o7777:04o}"}


def content_of(file: Mapping[str, Any]) -> bytes:
    """Return the content of a file of a state."""
    if "base64" in file:
        return base64.b64decode(file["base64"])
    return str(file["text"]).encode()


def differ(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> bool:
    """Tell whether two files or folders of states differ in content or rights."""
    if old is None or new is None:
        return old is not new
    keys = ("text", "base64", "owner", "group", "mode")
    return any(old.get(key) != new.get(key) for key in keys)


def empty() -> State:
    """Return the state of a host on which nothing of vmesh is."""
    return {"files": {}, "folders": {}, "links": {}, "units": {}}


def changed_files(old: State, new: State) -> list[str]:
    """Return the paths that differ between two states."""
    return sorted(
        path
        for path in old["files"].keys() | new["files"].keys()
        if differ(old["files"].get(path), new["files"].get(path))
    )


def same(old: State, new: State) -> bool:
    """Tell whether two states are the same, whatever happens to run at the moment."""
    enabled = [{u: each["enabled"] for u, each in s["units"].items()} for s in (old, new)]
    folders = old["folders"].keys() | new["folders"].keys()
    return (
        not changed_files(old, new)
        and old["links"] == new["links"]
        and enabled[0] == enabled[1]
        and not any(differ(old["folders"].get(f), new["folders"].get(f)) for f in folders)
    )


def changed_parts(old: State, new: State) -> list[str]:
    """Return the parts that differ between two states; `envoy` and `units` for what they share."""
    found = {part_of(path) or "units" for path in changed_files(old, new)}
    for name in old["links"].keys() | new["links"].keys():
        if old["links"].get(name) != new["links"].get(name):
            found.add(part_of_link(name) or "envoy")
    for unit in old["units"].keys() | new["units"].keys():
        was, now = old["units"].get(unit), new["units"].get(unit)
        if (was or {}).get("enabled") != (now or {}).get("enabled"):
            found.add(part_of_unit(unit))
    return sorted(found)


def what_changed(old: State, new: State) -> dict[str, Any]:
    """Return from what to what a host went, by kind, of what differs. For root's eyes only.

    envoy, jaeger: versions; apps: name -> versions; config: proxy -> short hashes of its files;
    settings: names of the apps whose settings differ; files: paths of other files.
    """
    found: dict[str, Any] = {"apps": {}, "config": {}, "settings": [], "files": []}
    for name in sorted(old["links"].keys() | new["links"].keys()):
        pair = [old["links"].get(name), new["links"].get(name)]
        if pair[0] != pair[1]:
            target = found if name in {"envoy", "jaeger"} else found["apps"]
            target[name] = pair
    for path in changed_files(old, new):
        kind, _, name = (part_of(path) or "").partition("@")
        if kind == "envoy":
            found["config"][name] = [_short_hash(state, name) for state in (old, new)]
        elif kind == "flask":
            found["settings"] = sorted({*found["settings"], name})
        else:
            found["files"].append(f"/{path}")
    return {key: value for key, value in found.items() if value}


def _short_hash(state: State, proxy: str) -> str | None:
    total, found = hashlib.sha256(), False
    for path, file in sorted(state["files"].items()):
        if path.startswith(f"etc/envoy/{proxy}/"):
            total.update(f"{path}\0".encode() + content_of(file) + b"\0")
            found = True
    return total.hexdigest()[:8] if found else None


# What is kept


class Unreadable(Exception):  # noqa: N818 - a state of a file
    """A file of the kept states is not what it should be; the text says what to do."""


class Books:
    """The kept states of a host and their history, below /var/lib/vmesh; for root alone."""

    def __init__(self, root: Path) -> None:
        self.place = root / PLACE
        self.states = self.place / "states"
        self.pending_path = self.place / "pending.json"
        self.history_path = self.place / "history.jsonl"

    def numbers(self) -> list[int]:
        """Return the numbers of the states that are kept, the oldest first."""
        return sorted(int(path.stem) for path in self.states.glob("*.json") if path.stem.isdigit())

    def newest(self) -> int:
        """Return the number of the newest state, 0 when there is none."""
        return max(self.numbers(), default=0)

    def read(self, number: int) -> State:
        """Return a kept state; raises Unreadable."""
        return self._read(self.states / f"{number}.json")

    def pending(self) -> State | None:
        """Return the state before the run that goes on or was interrupted, with its `run`.

        Raises Unreadable.
        """
        return self._read(self.pending_path) if self.pending_path.exists() else None

    def read_or_empty(self, number: int) -> State:
        """Return a kept state; that of a bare host where none can be read."""
        try:
            return self.read(number)
        except Unreadable:
            return empty()

    def interrupted(self) -> int | None:
        """Return the number of the run that began and did not end; raises Unreadable.

        One that was killed between keeping its new state and forgetting that of before has ended.
        """
        pending = self.pending()
        if pending is None or pending.get("after") != self._mark():
            return None
        return int(pending.get("run", 0))

    def _mark(self) -> str:
        """Return what stands for the newest state that was kept."""
        newest = self.newest()
        with contextlib.suppress(OSError):
            return f"{newest} {(self.states / f'{newest}.json').stat().st_mtime_ns}"
        return ""

    def _read(self, path: Path) -> State:
        try:
            state: State = json.loads(path.read_text())
            kept = {key: state[key] for key in ("format", *empty())}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Unreadable(
                f"{path} cannot be read as a state of this host ({type(error).__name__}). Remove"
                " it, and run site.yml, which brings the host to what the inventory says."
            ) from error
        if kept["format"] != FORMAT:
            raise Unreadable(
                f"{path} has format {kept['format']}, and this version of vmesh knows {FORMAT}."
                " Use the version that wrote it, or remove it and run site.yml."
            )
        return state

    def keep_pending(self, state: State, run: int, who: str = "") -> None:
        """Keep the state before a run; raises OSError.

        who: is changing the host; empty when nobody does any more
        """
        kept = {"format": FORMAT, "run": run, "who": who, "after": self._mark(), **state}
        self._write(self.pending_path, kept)

    def drop_pending(self) -> None:
        """Forget the state before the run: the run is over."""
        self.pending_path.unlink(missing_ok=True)

    def keep(self, number: int, state: State, record: Line) -> None:
        """Keep a state under its number, with its line of the history; raises OSError."""
        self._write(
            self.states / f"{number}.json",
            {"format": FORMAT, "run": number, "record": record, **state},
        )

    def _write(self, path: Path, content: Mapping[str, Any]) -> None:
        """Write a file whole or not at all, and see it on the disk."""
        self.make()
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=INCOMING)
        temporary = Path(name)
        try:
            with writing_in(path.parent), os.fdopen(handle, "w") as stream:
                json.dump(content, stream)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def make(self) -> None:
        """Make the folders, closed to all but root, and remove what a killed run left in them."""
        for folder in (self.place, self.states):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
            for path in folder.glob(f"{INCOMING}*"):
                path.unlink(missing_ok=True)

    def history(self) -> list[Line]:
        """Return the history, the oldest line first, without lines that are not whole."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for text in self.history_path.read_text(errors="replace").splitlines():
                with contextlib.suppress(ValueError):
                    found.append(json.loads(text))
        return found

    def append(self, line: Line) -> None:
        """Write a line of the history, and see it on the disk; raises OSError."""
        self.make()
        text = json.dumps(line) + "\n"
        with os.fdopen(
            os.open(self.history_path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+b"
        ) as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                # What a killed run wrote of a line stays a line of its own.
                file.seek(size - 1)
                text = text if file.read(1) == b"\n" else f"\n{text}"
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())

    def mend(self) -> None:
        """Write the newest state's line of the history where that has not been done.

        Where it cannot be, the next run does it.
        """
        numbers = self.numbers()
        with contextlib.suppress(Unreadable, OSError):
            record = self.read(numbers[-1]).get("record") if numbers else None
            if record and record not in self.history():
                self.append(record)

    def prune(self, written: int) -> set[str]:
        """Remove all but the last states, never the one just `written`.

        Returns the names of which any of them, the removed ones too, had a release.
        """
        names: set[str] = set()
        numbers = self.numbers()
        for number in numbers:
            with contextlib.suppress(Unreadable):
                names |= self.read(number)["links"].keys()
            if number not in {*numbers[-KEPT:], written}:
                (self.states / f"{number}.json").unlink(missing_ok=True)
        return names

    def releases(self) -> set[tuple[str, str]]:
        """Return (name, version) of each release to which a kept state refers."""
        found: set[tuple[str, str]] = set()
        states = []
        for number in self.numbers():
            with contextlib.suppress(Unreadable):
                states.append(self.read(number))
        with contextlib.suppress(Unreadable):
            pending = self.pending()
            states += [pending] if pending else []
        for state in states:
            found |= set(state["links"].items())
        return found


def now() -> str:
    """Return the time, in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def releases_in_use(root: Path, names: Iterable[str]) -> set[tuple[str, str]]:
    """Return (name, version) of the releases below /opt from which any process runs."""
    known, found = set(names), set()
    for process in root.glob("proc/[0-9]*"):
        for link in ("cwd", "exe"):
            with contextlib.suppress(OSError):
                match = re.search(r"/opt/([^/]+)/([^/ ]+)", str((process / link).readlink()))
                if match and match.group(1) in known:
                    found.add((match.group(1), match.group(2)))
    return found
