# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""The first Envoy of a proxy starts, and later ones take over from it.

A new process takes the sockets of the old one by a hot restart. Where that cannot be, it begins
beside the old one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import NoReturn

from .envoy_admin import Admin
from .envoy_hot_restart import hot_restart, see_related
from .envoy_process import (
    Failure,
    Settings,
    Unrelated,
    admin_at,
    first_of_its_kind,
    keep_good,
    keep_tried,
    output_of,
    say,
    start_beside,
)
from .envoy_stop import last_spans_seconds
from .processes import Process, connections_of, in_background, wait_for
from .systemd import notify
from .unix_http import FAULTS

LOOK_SECONDS = 0.5


def start(settings: Settings) -> NoReturn:
    """Become the first Envoy of the proxy; a process beside it tells when it is ready.

    Raises Failure when the binary cannot be started.
    """
    # Each start takes another base id; the memory of the process before is nobody's.
    with contextlib.suppress(Unrelated, OSError):
        settings.shared_memory.unlink()
    for stale in ("base-id", "older", *(each.name for each in settings.runtime.glob("*.sock"))):
        settings.path(stale).unlink(missing_ok=True)
    main = os.getpid()
    with contextlib.suppress(OSError):
        keep_tried(settings)
    in_background(lambda: _tell_when_ready(settings, main))
    command = settings.command(*first_of_its_kind(settings.path("base-id")))
    try:
        os.execv(command[0], command)
    except OSError as error:
        raise Failure(f"{command[0]} cannot be started: {error.strerror}") from error


def _tell_when_ready(settings: Settings, pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        process = Process(pid)
        if wait_for(settings.admin.is_ready, process, settings.timeout):
            keep_good(settings)
            notify("READY=1")
        elif not process.has_ended():
            say(f"{settings.name} was not ready after {settings.timeout:.0f} s")
            os.kill(pid, signal.SIGTERM)


def take_over(settings: Settings, main: int) -> None:
    """Let a new process take over from `main` and tell systemd; raises Failure.

    When the new process does not get ready, the old one goes on.
    """
    old = Process(main)
    _recover_admin(settings, old)
    check = ("--mode", "validate", "--config-path", str(settings.bootstrap))
    output_of(settings.binary, *check, "--log-level", "error")
    try:
        keep_tried(settings)
    except OSError as error:
        raise Failure(f"{settings.bootstrap} cannot be copied: {error}") from error
    try:
        see_related(settings, main)
    except Unrelated as unrelated:
        say(
            f"{settings.name}: no hot restart is possible: {unrelated}; the new process begins"
            " beside the old one"
        )
        replace(settings, old)
    else:
        hot_restart(settings, old)


def replace(settings: Settings, old: Process) -> None:
    """Let a new process listen beside `old`, which ends when its clients have left; raises Failure.

    The kernel shares new connections out among the sockets that processes of one user have on a
    port (Envoy sets SO_REUSEPORT), and hands what waits at one that is closed to the others
    (net.ipv4.tcp_migrate_req). Only the admin interface is a file: the old one's steps aside.
    """
    admin, aside = settings.path("admin.sock"), _aside(settings, old)
    base_id, coming = settings.path("base-id"), settings.path("base-id.coming")
    memory = None
    with contextlib.suppress(Unrelated):
        memory = settings.shared_memory
    with contextlib.suppress(FileNotFoundError):
        admin.rename(aside)
    try:
        new = start_beside(settings, settings.command(*first_of_its_kind(coming)), 0)
    except Failure as failure:
        _recover_admin(settings, old)
        reason = f"{failure}; the old process {old.pid} goes on serving"
        raise Failure(reason, failure.evidence) from failure
    coming.replace(base_id)
    keep_good(settings)
    # Whoever stands by for a hot restart of before goes on; the next one has nothing to do with it.
    settings.path("older").unlink(missing_ok=True)
    notify(f"MAINPID={new.pid}")
    in_background(lambda: _see_out(old, admin_at(aside), memory, settings.shutdown_seconds))
    say(f"{settings.name}: process {new.pid} has taken over from {old.pid}")


def _aside(settings: Settings, old: Process) -> Path:
    """Return where the admin interface of a process is while another has its place."""
    return settings.path(f"admin-{old.pid}.sock")


def _recover_admin(settings: Settings, old: Process) -> None:
    """Put the admin interface of a process back that nobody has followed."""
    with contextlib.suppress(FileNotFoundError):
        _aside(settings, old).replace(settings.path("admin.sock"))


def _see_out(old: Process, admin: Admin, memory: Path | None, seconds: float) -> None:
    """Take no more connections for an old process, and end it when its clients have left.

    They leave with their next answer; what still runs after so many seconds is cut.

    memory: what it shared for hot restarts
    """
    for url in ("/drain_listeners?graceful", "/drain_listeners"):
        with contextlib.suppress(*FAULTS):
            admin.post(url)
    deadline = time.monotonic() + seconds
    while not old.has_ended(LOOK_SECONDS) and time.monotonic() < deadline:
        if not connections_of(old.pid):
            old.has_ended(last_spans_seconds(admin))
            break
    old.end()
    Path(admin.path).unlink(missing_ok=True)
    if memory:
        memory.unlink(missing_ok=True)
