# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""Everything that vmesh has put on a host is removed, and the host is as it was before.

Files and folders that others have put beside those of vmesh stay. So do Jaeger's traces and their
user, unless they are asked for. Kernel parameters keep their values until the next boot, because
nobody knows which they had before.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import firewall, identity_install, releases
from .envoy_admin import Admin
from .envoy_files import BOOTSTRAP, EARLIER_FORMAT, WATCHED, in_format
from .file_writing import remove_if_empty
from .host_parts import ACME_STATE, FOLDERS, IDENTITY, UNITS, parts_on, shared_files, units_of
from .leave import drain, stop, wait_until_idle
from .machine import Machine
from .snapshot_store import SnapshotStore, interrupted_run
from .systemd import UP, CommandFailed, show

TRACES = "var/lib/jaeger"
RUNTIME = ("run/envoy", "run/flask", "run/flask-app", "run/vmesh", "run/vmesh-acme")
KEPT_SNAPSHOTS = "var/lib/vmesh"
JAEGER_CONFIG = "etc/jaeger/jaeger.yaml"
# A folder with one of these is a proxy's.
OF_A_PROXY = (*WATCHED, IDENTITY, BOOTSTRAP, in_format(BOOTSTRAP, EARLIER_FORMAT))
# How the roles describe the users that they make.
USERS = ("Envoy proxy ", "Flask service ", "Identities of vmesh")
JAEGER_USER = "jaeger"
# Units of which a host has one for each part, also for parts whose configuration is gone.
TEMPLATES = (
    "envoy@.service",
    "flask@.service",
    "flask@.socket",
    "vmesh-acme@.timer",
    "vmesh-acme@.service",
)


@dataclass(frozen=True)
class Found:
    """What of vmesh is on a host; paths are relative to the root.

    releases: names below /opt; files: they lie among files of others; folders: they are vmesh's
    """

    parts: Sequence[str]
    releases: Sequence[str]
    users: Sequence[str]
    files: Sequence[str]
    folders: Sequence[str]

    def words(self) -> list[str]:
        """Return what there is, as it is told."""
        return [
            *self.parts,
            *(f"/opt/{name}" for name in self.releases),
            *(f"user {name}" for name in self.users),
            *(f"/{name}" for name in (*self.folders, *self.files)),
        ]


def uninstall(
    machine: Machine, *, traces: bool, drain_seconds: float, dry: bool = False
) -> dict[str, Any]:
    """Remove everything of vmesh; with `dry`, only tell what there is.

    traces: whether Jaeger's traces go too
    drain_seconds: how long Envoys may finish their requests and streams
    Returns `removed` (parts, releases, users, folders, files), `kept` (folders), and which run was
    `interrupted` (snapshot_store.interrupted_run). Raises CommandFailed, OSError; what is left then
    is removed by another try.
    """
    root, found = machine.root, find(machine, traces=traces)
    has_traces = "jaeger" in found.releases and (root / TRACES).exists()
    result = {
        "removed": found.words(),
        "kept": [f"/{TRACES}"] if has_traces and not traces else [],
        "interrupted": interrupted_run(root),
    }
    if dry or not result["removed"]:
        return result
    _stop(machine, found, drain_seconds)
    firewall.remove(firewall.Host(root, machine.run, None))
    _remove_users(machine, found.users)
    # The kept snapshots go last: they tell the next try what was here.
    for name in (*(f"opt/{each}" for each in found.releases), *found.folders):
        if name != KEPT_SNAPSHOTS and (root / name).exists():
            shutil.rmtree(root / name)
    for name in found.files:
        (root / name).unlink(missing_ok=True)
        if (folder := (root / name).parent).suffix == ".d" and f"/{UNITS}" in f"/{name}":
            remove_if_empty(folder)  # of additions to a unit
    for name in FOLDERS:
        remove_if_empty(root / name)
    machine.systemctl("daemon-reload")
    if (root / KEPT_SNAPSHOTS).exists():
        shutil.rmtree(root / KEPT_SNAPSHOTS)
    return result


def find(machine: Machine, *, traces: bool) -> Found:
    """Return what of vmesh is on the host; nothing where no role has ever written a file.

    traces: whether Jaeger's traces count, and their user where there are some
    """
    root = machine.root
    shared = [str(path.relative_to(root)) for path in shared_files(root)]
    rules = [each for each in firewall.FILES if (root / each).exists()]
    of_apps = [str(path.relative_to(root)) for path in sorted(root.glob("etc/vmesh/*.env"))]
    identities = [name for name in identity_install.FILES if (root / name).exists()]
    signer = [name for name in identity_install.FOLDERS if (root / name).exists()]
    accounts = _accounts(machine)
    users = [name for name, description in accounts.items() if description.startswith(USERS)]
    ours = (shared, of_apps, rules, users, identities, signer)
    if not (any(ours) or (root / KEPT_SNAPSHOTS).exists()):
        return Found([], [], [], [], [])
    names = _releases(root)
    has_jaeger, has_traces = "jaeger" in names, (root / TRACES).exists()
    configuration = [JAEGER_CONFIG] if has_jaeger and (root / JAEGER_CONFIG).exists() else []
    beside = (*RUNTIME, ACME_STATE)
    folders = [*_part_folders(root), *signer, *(each for each in beside if (root / each).exists())]
    if has_jaeger and has_traces and traces:
        folders.append(TRACES)
    if (root / KEPT_SNAPSHOTS).exists():
        folders.append(KEPT_SNAPSHOTS)
    if has_jaeger and (traces or not has_traces) and JAEGER_USER in accounts:
        users.append(JAEGER_USER)
    files = [*shared, *identities, *of_apps, *rules, *configuration]
    return Found(parts_on(root), names, users, files, folders)


def _part_folders(root: Path) -> Iterator[str]:
    """Yield the folders of proxies and Flask services, whole or half made."""
    for path in sorted(root.glob("etc/envoy/*")):
        if path.is_dir() and any((path / name).exists() for name in OF_A_PROXY):
            yield str(path.relative_to(root))
    for path in sorted(root.glob("etc/flask/*")):
        if path.is_dir():
            yield str(path.relative_to(root))


def _releases(root: Path) -> list[str]:
    """Return the names below /opt that vmesh has put there, also those of services that left."""
    kept = {name for name, _ in SnapshotStore(root).releases()}
    found = kept | releases.current_versions(root).keys()
    return sorted(name for name in found if (root / "opt" / name).is_dir())


def _accounts(machine: Machine) -> dict[str, str]:
    """Return the description of each user of the host by name, as passwd(5) has it."""
    fields = [line.split(":") for line in machine.run(["getent", "passwd"]).out.splitlines()]
    return {each[0]: each[4] for each in fields}


def _stop(machine: Machine, found: Found, drain_seconds: float) -> None:
    """Drain the Envoys, then stop and disable all units."""
    # These wait to stop parts that left the mesh before, which are stopped here.
    machine.run(["systemctl", "stop", "vmesh-leave-*"])
    of_parts = [unit for part in found.parts for unit in units_of(part)]
    timers = [identity_install.TIMER] if f"{UNITS}{identity_install.TIMER}" in found.files else []
    units = list(dict.fromkeys([*timers, *of_parts, *_instances(machine, found.files)]))
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


def _instances(machine: Machine, files: Sequence[str]) -> list[str]:
    """Return the units that systemd has loaded from vmesh's templates among `files`."""
    patterns = [name.replace("@", "@*") for name in TEMPLATES if f"{UNITS}{name}" in files]
    if not patterns:
        return []
    command = ["systemctl", "list-units", "--all", "--full", "--plain", "--no-legend", "--"]
    lines = machine.run([*command, *patterns]).out.splitlines()
    return [line.split()[0] for line in lines if line.strip()]


def _remove_users(machine: Machine, users: Sequence[str]) -> None:
    """Remove users and the groups of the same names; raises CommandFailed for those that stay."""
    failed = []
    for name in users:
        done = machine.run(["userdel", name])
        machine.run(["groupdel", name])  # where userdel has left it
        if done.code != 0:
            failed.append(f"user {name}: {done.err.strip() or 'userdel failed'}")
    if failed:
        raise CommandFailed("; ".join(failed))
