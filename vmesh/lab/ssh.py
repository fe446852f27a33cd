"""Reaching a lab VM by ssh through its forwarded port."""

from __future__ import annotations

import contextlib
import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from vmesh.lab.seed import host_alias
from vmesh.lab.spec import LOOPBACK, USER, VmSpec


class Unreachable(Exception):  # noqa: N818 - it says what the VM is
    """The VM did not answer in time, or its QEMU ended."""


@dataclass(frozen=True)
class Access:
    """The files that open the lab's VMs."""

    key: Path
    known_hosts: Path

    def options(self, name: str) -> list[str]:
        """Return ssh's options for the VM `name`; nothing of the user's own setup takes part."""
        return [
            "-F",
            "none",
            "-o",
            f"IdentityFile={_quoted(self.key)}",
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            f"UserKnownHostsFile={_quoted(self.known_hosts)}",
            "-o",
            "GlobalKnownHostsFile=/dev/null",
            "-o",
            f"HostKeyAlias={host_alias(name)}",
            "-o",
            "StrictHostKeyChecking=yes",
        ]

    def command(self, vm: VmSpec, *remote: str) -> list[str]:
        """Return the command that runs `remote` on the VM (or opens a shell)."""
        return [
            "ssh", *self.options(vm.name), "-o", "BatchMode=yes", "-o", "ConnectTimeout=30",
            "-p", str(vm.ssh_port), f"{USER}@{LOOPBACK}", *remote,
        ]  # fmt: skip


def _quoted(path: Path) -> str:
    """Write a path for ssh's options, where spaces separate and % stands for something else."""
    return '"' + str(path).replace("%", "%%") + '"'


def answers(port: int, timeout: float) -> bool:
    """Tell whether an ssh server greets behind 127.0.0.1:`port`.

    Connecting proves nothing: QEMU accepts before the guest does.
    """
    with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), timeout) as peer:
        peer.settimeout(timeout)
        return peer.recv(4) == b"SSH-"
    return False


def wait_until_answers(
    port: int, seconds: float, keep_waiting: Callable[[], None], *, pause: float = 0.3
) -> None:
    """Wait for ssh behind `port`. `keep_waiting` may raise to end the wait early.

    Raises Unreachable after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not answers(port, timeout=5.0):
        keep_waiting()
        if time.monotonic() > deadline:
            raise Unreachable(f"no ssh on port {port} within {seconds:.0f} s")
        time.sleep(pause)


def run_on(access: Access, vm: VmSpec, *remote: str, timeout: float, given: bytes = b"") -> str:
    """Run a command on the VM, with `given` as its input; return what it prints.

    Raises Unreachable when it fails or takes too long.
    """
    try:
        done = subprocess.run(
            access.command(vm, *remote),
            check=True,
            timeout=timeout,
            input=given,
            capture_output=True,
        )
    except subprocess.TimeoutExpired as error:
        raise Unreachable(f"`{' '.join(remote)}` took more than {timeout:.0f} s") from error
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip() or f"exit code {error.returncode}"
        raise Unreachable(f"`{' '.join(remote)}`: {reason}") from error
    return done.stdout.decode(errors="replace")


# Answers with the VM's time as often as it is asked, then moves it. In one Python
# process: starting `date` would cost an emulated CPU a tenth of a second by itself.
_CLOCK_SETTER = """
import sys, time
for line in sys.stdin:
    if line == "?\\n":
        print(time.time(), flush=True)
    else:
        time.clock_settime(time.CLOCK_REALTIME, time.time() + float(line))
"""
_CLOCK_SAMPLES = 6


def clock_lag(samples: Iterable[tuple[float, float, float]]) -> float:
    """Return by how much a VM's clock is behind.

    `samples` are (asked, the VM's answer, answered), the first and the last by
    this machine's clock. The quickest exchange knows best.
    """
    asked, theirs, answered = min(samples, key=lambda sample: sample[2] - sample[0])
    return (asked + answered) / 2 - theirs


def set_clock(access: Access, vm: VmSpec, *, timeout: float = 60.0, attempts: int = 3) -> None:
    """Give the VM this machine's time, to a few milliseconds. Raises Unreachable."""
    for attempt in range(1, attempts + 1):
        try:
            _set_clock_once(access, vm, timeout)
        except Unreachable:
            # A VM that only just came up may still drop a connection.
            if attempt == attempts:
                raise
            time.sleep(2)
        else:
            return


def _set_clock_once(access: Access, vm: VmSpec, timeout: float) -> None:
    remote = f"sudo -n python3 -c {shlex.quote(_CLOCK_SETTER)}"
    with subprocess.Popen(
        access.command(vm, remote),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        # A readline() has no time limit of its own.
        watchdog = threading.Timer(timeout, process.kill)
        watchdog.start()
        try:
            lag = clock_lag([_ask_time(process) for _ in range(_CLOCK_SAMPLES)])
            _, errors = process.communicate(f"{lag:.6f}\n")
        except (OSError, ValueError) as error:
            process.kill()
            _, errors = process.communicate()
            raise Unreachable(f"the clock cannot be set: {errors.strip() or error}") from error
        finally:
            watchdog.cancel()
    if process.returncode != 0:
        raise Unreachable(f"the clock cannot be set: {errors.strip()}")


def _ask_time(process: subprocess.Popen[str]) -> tuple[float, float, float]:
    assert process.stdin is not None and process.stdout is not None
    asked = time.time()
    process.stdin.write("?\n")
    process.stdin.flush()
    theirs = float(process.stdout.readline())
    return asked, theirs, time.time()
