# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""Parts that leave a host: an Envoy finishes its requests and is stopped then, others at once.

`main` is the program `leave` of the host kit. It waits, in a unit of its own, until an Envoy has
nothing more to do, and stops it.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from .envoy_admin import Admin
from .envoy_unit import leaver
from .file_writing import remove_if_empty
from .host_parts import ACME_STATE, UNITS, app_drop_in, helpers_of, units_of
from .machine import Machine
from .releases import drop_link
from .systemd import notify, show
from .unix_http import FAULTS

# An Envoy is idle when it had nothing to do at so many looks, one each half second.
QUIET_LOOKS, PAUSE = 6, 0.5


def leave(machine: Machine, parts: Sequence[str], drain_seconds: int) -> list[str]:
    """Take parts away; returns those that still finish their requests.

    drain_seconds: how long an Envoy may finish its requests and streams
    Raises CommandFailed, OSError.
    """
    units = [unit for part in parts for unit in (*units_of(part), *helpers_of(part))]
    shown = show(units, ("LoadState", "ActiveState"), machine.run)
    there = [unit for unit in units if shown.get(unit, {}).get("LoadState") == "loaded"]
    if there:
        machine.systemctl("disable", *there)
    draining: dict[str, list[str]] = {}
    for part in sorted(parts):
        name, active = part.partition("@")[2], shown.get(f"{part}.service", {}).get("ActiveState")
        if part.startswith("envoy@") and active in {"active", "reloading"}:
            app = [unit for unit in units_of(f"flask@{name}") if unit in there]
            if _stop_when_idle(machine, name, [f"{part}.service", *app], drain_seconds):
                draining[part] = [f"{part}.service", *app]
    later = {unit for found in draining.values() for unit in found}
    stop(machine, [unit for unit in there if unit not in later])
    for part in parts:
        _forget(machine.root, part)
    if "jaeger" in parts:
        machine.systemctl("daemon-reload")
    return sorted(draining)


def stop(machine: Machine, units: Sequence[str]) -> None:
    """Stop units at once, and forget their failures; raises CommandFailed."""
    if units:
        machine.systemctl("stop", *units)
        machine.run(["systemctl", "reset-failed", *units])


def drain(admin: Admin) -> bool:
    """Have an Envoy close its listeners gently; tell whether it does."""
    try:
        # Clients are told to close their connections, and new ones are still taken meanwhile:
        # https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/operations/draining
        admin.post("/drain_listeners?graceful")
    except FAULTS:
        return False
    return True


def _stop_when_idle(machine: Machine, proxy: str, units: Sequence[str], seconds: int) -> bool:
    """Have an Envoy drain, and `units` (its own first) stopped when it has nothing more to do.

    Returns whether that has begun; else they are to be stopped at once.
    """
    admin, marker = machine.admin_socket(proxy), machine.leaving / units[0]
    try:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
    except OSError:
        return False
    command = ["systemd-run", "--quiet", "--collect", "--service-type=notify"]
    command += [f"--unit={leaver(units[0])}"]
    command += [f"--description=Stops {units[0]} when it has nothing more to do", "--"]
    command += [*machine.kit, "leave", admin, str(seconds), str(marker), *units]
    if drain(Admin(admin)) and machine.run(command).code == 0:
        return True
    marker.unlink(missing_ok=True)
    return False


def _forget(root: Path, part: str) -> None:
    """Remove the configuration of a part and the link to its release; raises OSError."""
    kind, _, name = part.partition("@")
    if kind == "env":
        (root / "etc/vmesh" / f"{name}.env").unlink(missing_ok=True)
        return
    folders = [root / "etc" / kind / name]
    if kind == "envoy":
        folders.append(root / ACME_STATE / name)
    for folder in folders:
        if folder.is_dir():
            shutil.rmtree(folder)
    if kind == "jaeger":
        (root / UNITS / "jaeger.service").unlink(missing_ok=True)
    if kind == "flask":
        drop_in = root / app_drop_in(name)
        drop_in.unlink(missing_ok=True)
        remove_if_empty(drop_in.parent)
    if kind in {"flask", "jaeger"}:
        drop_link(root, name or kind)


def wait_until_idle(admins: Sequence[Admin], seconds: float) -> None:
    """Wait until Envoys have nothing more to do or do not answer, at most for so many seconds."""
    deadline = time.monotonic() + seconds
    quiet = {admin.path: 0 for admin in admins}
    while quiet and time.monotonic() < deadline:
        for admin in admins:
            if admin.path not in quiet:
                continue
            try:
                quiet[admin.path] = 0 if admin.under_way() else quiet[admin.path] + 1
            except (*FAULTS, ValueError):
                del quiet[admin.path]
                continue
            if quiet[admin.path] >= QUIET_LOOKS:
                del quiet[admin.path]
        if quiet:
            time.sleep(PAUSE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Wait until an Envoy has nothing more to do, then stop units; returns an exit status."""
    parser = argparse.ArgumentParser(
        prog="leave", description="Stops units once an Envoy has nothing more to do."
    )
    parser.add_argument("admin", help="the unix socket of the Envoy's admin interface")
    parser.add_argument("seconds", type=float, help="how long to wait at most")
    parser.add_argument("marker", type=Path, help="a file to remove in the end")
    parser.add_argument("units", nargs="+", help="units to stop")
    options = parser.parse_args(arguments)
    # From here on the program needs no more of its own files, which may be removed meanwhile.
    notify("READY=1")
    wait_until_idle([Admin(options.admin, seconds=10)], options.seconds)
    subprocess.run(["systemctl", "stop", *options.units], check=False)
    options.marker.unlink(missing_ok=True)
    return 0
