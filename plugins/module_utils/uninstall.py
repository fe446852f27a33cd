# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""Everything that vmesh has put on a host is removed, and the host is as it was before.

Jaeger's traces and user stay unless they are asked for. Kernel parameters keep their values until
the next boot, because nobody knows which they had before.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import releases
from .envoy_admin import Admin
from .host_parts import FOLDERS, our_files, parts_on, shared_files, units_of
from .leave import drain, stop, wait_until_idle
from .machine import Machine
from .snapshot_store import SnapshotStore
from .systemd import UP, show

TRACES = "var/lib/jaeger"
RUNTIME = ("run/envoy", "run/flask", "run/flask-app", "run/vmesh")
KEPT_SNAPSHOTS = "var/lib/vmesh"
# How the roles describe the users that they make.
USERS = ("Envoy proxy ", "Flask service ")
JAEGER_USER = "jaeger"


def uninstall(
    machine: Machine, *, traces: bool, drain_seconds: float, dry: bool = False
) -> dict[str, Any]:
    """Remove everything of vmesh; with `dry`, only tell what there is.

    traces: whether Jaeger's traces go too
    drain_seconds: how long Envoys may finish their requests and streams
    Returns `removed` (parts, releases, users, folders) and `kept` (folders). Raises CommandFailed,
    OSError.
    """
    root, parts = machine.root, parts_on(machine.root)
    names = _releases(root)
    folders = [name for name in (*FOLDERS, *RUNTIME, KEPT_SNAPSHOTS) if (root / name).exists()]
    shared = [str(path.relative_to(root)) for path in shared_files(root)]
    there = (root / TRACES).exists()
    users = list(_users(machine, jaeger="jaeger" in names and (traces or not there)))
    folders += [TRACES] if traces and there else []
    result = {
        "removed": [
            *parts,
            *(f"/opt/{name}" for name in names),
            *(f"user {name}" for name in users),
            *(f"/{name}" for name in (*folders, *shared)),
        ],
        "kept": [f"/{TRACES}"] if there and not traces else [],
    }
    if dry or not result["removed"]:
        return result
    _stop(machine, parts, drain_seconds)
    for path in our_files(root):
        path.unlink()
    for name in (*folders, *(f"opt/{each}" for each in names)):
        shutil.rmtree(root / name, ignore_errors=True)
    machine.systemctl("daemon-reload")
    for name in users:
        machine.run(["userdel", name])
        machine.run(["groupdel", name])  # where userdel has left it
    return result


def _stop(machine: Machine, parts: list[str], drain_seconds: float) -> None:
    """Drain the Envoys, then stop and disable all units."""
    units = [unit for part in parts for unit in units_of(part)]
    shown = show(units, ("LoadState", "ActiveState"), machine.run)
    there = [unit for unit in units if shown.get(unit, {}).get("LoadState") == "loaded"]
    active = [unit for unit in there if shown[unit].get("ActiveState") in UP]
    admins = [
        Admin(machine.admin_socket(unit.removeprefix("envoy@").removesuffix(".service")))
        for unit in active
        if unit.startswith("envoy@")
    ]
    wait_until_idle([admin for admin in admins if drain(admin)], drain_seconds)
    if there:
        machine.systemctl("disable", *there)
    stop(machine, there)
    # Units that wait for parts which left the mesh before.
    machine.run(["systemctl", "stop", "vmesh-leave-*"])


def _releases(root: Path) -> list[str]:
    """Return the names below /opt that vmesh has put there, also those of services that left."""
    store, found = SnapshotStore(root), set(releases.current_versions(root))
    for number in store.numbers():
        found |= store.read_or_empty(number)["links"].keys()
    known = {*found, *releases.SHARED_RELEASES, "jaeger"}
    return sorted(name for name in known if (root / "opt" / name).is_dir())


def _users(machine: Machine, *, jaeger: bool) -> Iterator[str]:
    """Yield the users that the roles have made, by their descriptions in passwd(5)."""
    for line in machine.run(["getent", "passwd"]).out.splitlines():
        name, description = line.split(":")[0], line.split(":")[4]
        if description.startswith(USERS) or (jaeger and name == JAEGER_USER):
            yield name
