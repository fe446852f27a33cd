# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""A new Envoy takes the sockets of the old one, by Envoy's hot restart.

See https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/operations/hot_restart.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from .envoy_process import (
    Failure,
    Settings,
    Unrelated,
    epoch_of,
    good_bootstrap,
    keep_good,
    output_of,
    say,
    start_beside,
)
from .envoy_stop import last_spans_seconds
from .processes import Process, arguments_of, connections_of, in_background, option
from .systemd import notify
from .unix_http import FAULTS

# Clients have left the old process by then, but for requests that take longer and for streams.
SETTLED_SECONDS = 20
PAUSE_SECONDS = 0.05


def see_related(settings: Settings, main: int) -> None:
    """Raise Unrelated unless the binary that is on disk can hand over with the running process."""
    _ = settings.base_id
    program = Path(f"/proc/{main}/exe")
    if program.exists() and program.samefile(settings.binary):
        return
    new = output_of(settings.binary, "--hot-restart-version")[-1]
    running = _running_version(settings, program)
    if new != running:
        raise Unrelated(
            f"the hot-restart version of {settings.binary.resolve()} is {new}, that of the running"
            f" process {running}"
        )


def _running_version(settings: Settings, program: Path) -> str:
    """Return the hot-restart version of the running process; raises Failure."""
    with contextlib.suppress(*FAULTS):
        status, text = settings.admin.get("/hot_restart_version")
        if status == 200:
            return text.strip()
    return output_of(program, "--hot-restart-version")[-1]


def hot_restart(settings: Settings, old: Process) -> None:
    """Let a new process have the sockets of `old`; raises Failure.

    The new one may have made the old one give up its admin interface before it fails: then one
    like the old takes over, which has one.
    """
    arguments = arguments_of(old.pid)
    epoch = int(option(arguments, "--restart-epoch", "0")) + 1
    _end_older(settings)
    _clear_initializing(settings)
    identity = ["--base-id", str(settings.base_id), "--restart-epoch", str(epoch)]
    try:
        new = start_beside(settings, settings.command(*identity), epoch)
    except Failure as failure:
        _clear_initializing(settings)
        reason = f"{failure}; {_go_on(settings, old, arguments, epoch)}"
        raise Failure(reason, failure.evidence) from failure
    keep_good(settings)
    _hand_over(settings, old, new, epoch)


def _go_on(settings: Settings, old: Process, arguments: Sequence[str], epoch: int) -> str:
    """Give the old process an heir if it has lost its admin interface; return what is now.

    arguments: command line of the old process; epoch: of the heir
    """
    if old.has_ended():
        return f"the old process {old.pid} has ended too"
    if epoch_of(settings.admin) == epoch - 1:
        return f"the old process {old.pid} goes on serving"
    command = [f"/proc/{old.pid}/exe", "--base-id", str(settings.base_id)]
    command += ["--restart-epoch", str(epoch), *_kept_options(arguments, good_bootstrap(settings))]
    try:
        heir = start_beside(settings, command, epoch)
    except Failure as failure:
        _clear_initializing(settings)
        return (
            f"the old process {old.pid} goes on serving, but without its admin interface, as none"
            f" like it could take over either ({failure})"
        )
    _hand_over(settings, old, heir, epoch)
    return (
        f"process {heir.pid}, with the binary and the bootstrap of before, has taken over from the"
        f" old process {old.pid}"
    )


def _kept_options(arguments: Sequence[str], bootstrap: Path | None) -> list[str]:
    """Return the options of a command line but for those of hot restarts.

    bootstrap: the file of the bootstrap to start with, where it is another one
    """
    kept, words = list[str](), iter(arguments[1:])
    for word in words:
        if word in {"--base-id", "--restart-epoch", "--base-id-path"}:
            next(words, None)
        elif word == "--config-path" and bootstrap is not None:
            kept += [word, str(bootstrap)]
            next(words, None)
        elif word != "--use-dynamic-base-id":
            kept.append(word)
    return kept


def _hand_over(settings: Settings, old: Process, new: Process, epoch: int) -> None:
    """Make `new` the unit's main process, and stand by while the old one drains."""
    notify(f"MAINPID={new.pid}")
    if helper := _older(settings)[1]:
        helper.kill()
    base_id, seconds = settings.base_id, settings.shutdown_seconds + 30
    helper_pid = in_background(lambda: _stand_by(base_id, old, new, epoch - 1, seconds))
    settings.path("older").write_text(f"{old.pid} {helper_pid}\n")
    say(f"{settings.name}: process {new.pid} has taken over from {old.pid}")


def _older(settings: Settings) -> tuple[Process | None, Process | None]:
    """Return the process that the last hot restart left to drain, and the one that stands by."""
    try:
        old, helper = map(int, settings.path("older").read_text().split())
    except (OSError, ValueError):
        return None, None
    return _process_of(settings, old), _process_of(settings, helper)


def _process_of(settings: Settings, pid: int) -> Process | None:
    """Return a process unless it has ended or the number is another's by now."""
    with contextlib.suppress(ProcessLookupError):
        process = Process(pid)
        if any(settings.name in word.split("/") for word in arguments_of(pid)):
            return process
    return None


def _end_older(settings: Settings) -> None:
    """Wait until nobody is cut by the end of a process that still drains.

    A third process makes Envoy end the first. Clients leave that with their next answer, so
    this waits until it holds none any more, or it has drained for SETTLED_SECONDS.
    """
    older = _older(settings)[0]
    if older is None:
        return
    settled = settings.path("older").stat().st_mtime + SETTLED_SECONDS
    while not older.has_ended(PAUSE_SECONDS) and (count := connections_of(older.pid)):
        if time.time() > settled:
            say(
                f"{settings.name}: process {older.pid}, which drains since the restart before,"
                f" ends now with its {count} connections"
            )
            return
    # Those of the requests that were the last ones.
    older.has_ended(last_spans_seconds(settings.admin))


def _clear_initializing(settings: Settings) -> None:
    """Take back that a process is starting, which one that died at its start cannot do itself.

    Every later process would end with "previous envoy process is still initializing". In
    version 11 the memory is its size and version, two locks and, in the last 8 bytes, flags
    (SharedMemory in Envoy's source/server/hot_restart_impl.h).
    """
    try:
        with settings.shared_memory.open("r+b") as memory:
            content = memory.read()
            if content[:16] == _u64(len(content)) + _u64(11):
                memory.seek(-8, os.SEEK_END)
                memory.write(_u64(0))
    except OSError as error:
        say(f"{settings.name}: {error}")


def _u64(number: int) -> bytes:
    return number.to_bytes(8, "little")


# Messages between Envoys (hot_restart.proto), after their length as 8 bytes: a request for
# statistics, one to end, and the answer to the first with nothing in it.
_STATS_REQUEST, _TERMINATE_REQUEST = bytes.fromhex("0a021a00"), bytes.fromhex("0a022a00")
_STATS_REPLY = bytes.fromhex("000000000000000412021a00")


def domain_socket(side: str, base_id: int, epoch: int) -> bytes:
    """Return the name of the socket of the process `epoch` as `parent` or `child`.

    Envoy counts in 32 bits with a sign, writes the number in 64 bits without one, and pads the
    name to the full length (HotRestartingBase::createDomainSocketAddress).
    """
    number = base_id * 10 + epoch % 3
    if number >= 1 << 31:
        number += (1 << 64) - (1 << 32)
    return f"\0envoy_domain_socket_{side}_{number}".encode().ljust(108, b"\0")


def _stand_by(base_id: int, old: Process, new: Process, epoch: int, seconds: float) -> None:
    """Answer in the place of an old process that is killed while it drains.

    The new one asks it for statistics and tells it to end; an Envoy that gets no connection
    to its parent for 10 s aborts. Ends with the new process, when nothing is asked any more, or
    after so many seconds.

    epoch: of the old process
    """
    deadline = time.monotonic() + seconds
    ended = select.select([old.handle, new.handle], [], [], seconds)[0]
    if ended != [old.handle]:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as parent:
        parent.bind(domain_socket("parent", base_id, epoch))
        # What the old process was asked last may have gone with it, and the new one waits for
        # the answer without an end.
        with contextlib.suppress(OSError):
            parent.sendto(_STATS_REPLY, domain_socket("child", base_id, epoch + 1))
        while (left := deadline - time.monotonic()) > 0:
            ready = select.select([parent.fileno(), new.handle], [], [], left)[0]
            if parent.fileno() not in ready:
                return
            message, sender = parent.recvfrom(65536)
            if message[8:] == _STATS_REQUEST:
                parent.sendto(_STATS_REPLY, sender)
            elif message[8:] == _TERMINATE_REQUEST:
                return
