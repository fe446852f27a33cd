# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""A snapshot: all that vmesh has put on a host, as data that can be compared and put back."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

from .envoy_documents import all_serving
from .host_files import File, Rights, content_of, differ, read_file, read_folders
from .host_parts import FOLDERS, our_files, part_of, part_of_unit, units_of
from .releases import current_versions, part_of_release
from .systemd import UP, Run, show


class UnitState(TypedDict):
    """Whether a unit starts at boot, and whether it runs or is about to."""

    enabled: bool
    active: bool


class Snapshot(TypedDict):
    """What is on a host.

    files, folders: by path below the root
    links: name -> version to which /opt/<name>/current leads
    units: by the unit's name
    """

    files: dict[str, File]
    folders: dict[str, Rights]
    links: dict[str, str]
    units: dict[str, UnitState]


def empty() -> Snapshot:
    """Return the snapshot of a host on which nothing of vmesh is."""
    return {"files": {}, "folders": {}, "links": {}, "units": {}}


def capture(root: Path, run: Run) -> Snapshot:
    """Return a snapshot of the host below `root`; raises OSError.

    That an endpoint is draining is no part of it: that lasts for moments of a run only.
    """
    files: dict[str, File] = {}
    folders: dict[str, Rights] = {}
    for path in our_files(root):
        name = str(path.relative_to(root))
        files[name] = read_file(path)
        folders.update(read_folders(root, path.parent, FOLDERS))
        if name.startswith("etc/envoy/") and "/endpoints/" in name and "text" in files[name]:
            files[name]["text"] = all_serving(files[name]["text"])
    links = current_versions(root)
    parts = {part_of(path) for path in files} | {part_of_release(name) for name in links}
    names = sorted(unit for part in parts if part for unit in units_of(part))
    units: dict[str, UnitState] = {
        unit: {
            "enabled": shown.get("UnitFileState") == "enabled",
            "active": shown.get("ActiveState") in UP,
        }
        for unit, shown in show(names, ("LoadState", "ActiveState", "UnitFileState"), run).items()
        if shown.get("LoadState") == "loaded"
    }
    return {"files": files, "folders": folders, "links": links, "units": units}


def parts_of(snapshot: Snapshot) -> list[str]:
    """Return the parts of which a snapshot has a file or a unit."""
    found = {part_of(path) for path in snapshot["files"]}
    found |= {part_of_unit(unit) for unit in snapshot["units"]}
    return sorted(part for part in found if part is not None)


def merged(present: Snapshot, kept: Snapshot, parts: Sequence[str]) -> Snapshot:
    """Return the snapshot `present` with `parts` as `kept` has them."""
    chosen = set(parts)
    found: dict[str, Any] = {"folders": {**present["folders"], **kept["folders"]}}
    old, new = cast("dict[str, dict[str, Any]]", present), cast("dict[str, dict[str, Any]]", kept)
    for key, of in (("files", part_of), ("links", part_of_release), ("units", part_of_unit)):
        staying = {name: each for name, each in old[key].items() if of(name) not in chosen}
        coming = {name: each for name, each in new[key].items() if of(name) in chosen}
        found[key] = {**staying, **coming}
    return cast("Snapshot", found)


def same(old: Snapshot, new: Snapshot) -> bool:
    """Tell whether two snapshots are the same, whatever happened to run at the moment."""
    folders = old["folders"].keys() | new["folders"].keys()
    return (
        not changed_files(old, new)
        and old["links"] == new["links"]
        and _enabled(old) == _enabled(new)
        and not any(differ(old["folders"].get(f), new["folders"].get(f)) for f in folders)
    )


def _enabled(snapshot: Snapshot) -> dict[str, bool]:
    return {unit: state["enabled"] for unit, state in snapshot["units"].items()}


def changed_files(old: Snapshot, new: Snapshot) -> list[str]:
    """Return the paths of the files that differ between two snapshots."""
    return sorted(
        path
        for path in old["files"].keys() | new["files"].keys()
        if differ(old["files"].get(path), new["files"].get(path))
    )


def changed_parts(old: Snapshot, new: Snapshot) -> list[str]:
    """Return the parts that differ between two snapshots.

    `units` stands for the files that parts share, the name of a shared release for that.
    """
    found = {part_of(path) or "units" for path in changed_files(old, new)}
    for name in old["links"].keys() | new["links"].keys():
        if old["links"].get(name) != new["links"].get(name):
            found.add(part_of_release(name) or name)
    was, now = _enabled(old), _enabled(new)
    found |= {
        part_of_unit(unit) for unit in was.keys() | now.keys() if was.get(unit) != now.get(unit)
    }
    return sorted(found)


def what_changed(old: Snapshot, new: Snapshot) -> dict[str, Any]:
    """Return from what to what a host went, by kind. For root's eyes only.

    envoy, vmesh, jaeger: versions; apps: name -> versions; config: proxy -> short hashes of its
    files; settings: names of the apps whose settings differ; files: paths of other files.
    """
    found: dict[str, Any] = {"apps": {}, "config": {}, "settings": [], "files": []}
    for name in sorted(old["links"].keys() | new["links"].keys()):
        pair = [old["links"].get(name), new["links"].get(name)]
        if pair[0] != pair[1]:
            is_app = (part_of_release(name) or "").startswith("flask@")
            (found["apps"] if is_app else found)[name] = pair
    for path in changed_files(old, new):
        kind, _, name = (part_of(path) or "").partition("@")
        if kind == "envoy":
            found["config"][name] = [_short_hash(snapshot, name) for snapshot in (old, new)]
        elif kind == "flask":
            found["settings"] = sorted({*found["settings"], name})
        else:
            found["files"].append(f"/{path}")
    return {key: value for key, value in found.items() if value}


def _short_hash(snapshot: Snapshot, proxy: str) -> str | None:
    total, found = hashlib.sha256(), False
    for path, file in sorted(snapshot["files"].items()):
        if path.startswith(f"etc/envoy/{proxy}/"):
            total.update(f"{path}\0".encode() + content_of(file) + b"\0")
            found = True
    return total.hexdigest()[:8] if found else None
