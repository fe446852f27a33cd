#!/usr/bin/python3
# Written by the role envoy.
"""Start, replace and renew the Envoy proxies of this host.

    envoy-control renew PROXY...   as root: bring proxies to the binary, the bootstrap and the
                                   unit that are on disk; start what is not running
    envoy-control start PROXY      ExecStart of envoy@PROXY: become Envoy, tell when it is ready
    envoy-control take-over PROXY  ExecReload of envoy@PROXY: let a new process take over, by a
                                   hot restart or, where that cannot be, beside the old one

Every message begins with `envoy-control: `. Exit status: 0 done, 1 failed, 2 wrong arguments.
What the proxies run with is in the environment that their unit sets; see Settings.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

DONE, FAILED, USAGE = 0, 1, 2
# Clients have left the old process by then, but for requests that take longer and for streams.
SETTLED_SECONDS = 20
# Envoy sends its spans at least every 5 s, and what it has not sent is lost with it.
LAST_SPANS_SECONDS = 10
# The old process ends its last streams a little after it should have drained.
SHUTDOWN_MARGIN_SECONDS = 10
# How long a binary may take to tell its version or to check a bootstrap.
CHECK_SECONDS = 60
EVIDENCE_LINES = 10
PAUSE_SECONDS = 0.05


class Failure(Exception):  # noqa: N818 - what people read, not a fault of this program
    """A reason in one sentence, with `evidence` lines."""

    def __init__(self, reason: str, evidence: Sequence[str] = ()) -> None:
        super().__init__(reason)
        self.evidence = list(evidence)[-EVIDENCE_LINES:]


class Unrelated(Exception):  # noqa: N818 - not a fault, another way is taken
    """Why two processes cannot hand over to each other."""


@dataclass(frozen=True)
class Settings:
    """What one proxy runs with, from the environment that its unit sets."""

    name: str
    binary: Path
    bootstrap: Path
    runtime: Path
    concurrency: int
    log_level: str
    timeout: float
    drain_time: int

    @classmethod
    def of(cls, name: str, environment: Mapping[str, str]) -> Settings:
        get = environment.get
        return cls(
            name,
            Path(get("ENVOY_BINARY", "/opt/envoy/current/bin/envoy")),
            Path(get("ENVOY_CONFIG_ROOT", "/etc/envoy"), name, "bootstrap.yaml"),
            Path(get("ENVOY_RUNTIME_ROOT", "/run/envoy"), name),
            int(get("ENVOY_CONCURRENCY", "0")),
            get("ENVOY_LOG_LEVEL", "warning"),
            float(get("ENVOY_TIMEOUT", "60")),
            int(get("ENVOY_DRAIN_TIME_SECONDS", "600")),
        )

    def path(self, name: str) -> Path:
        """Return a file of the proxy's runtime directory."""
        return self.runtime / name

    @property
    def admin(self) -> Admin:
        return Admin(self.path("admin.sock"))

    @property
    def base_id(self) -> int:
        """Return by what the processes of this proxy find each other; raises Unrelated."""
        try:
            return int(self.path("base-id").read_text())
        except (OSError, ValueError) as error:
            raise Unrelated(f"{self.path('base-id')} cannot be used ({error})") from error

    @property
    def shared_memory(self) -> Path:
        return Path(f"/dev/shm/envoy_shared_memory_{self.base_id * 10}")

    @property
    def shutdown_seconds(self) -> int:
        """Return after how long an old process has to end."""
        return self.drain_time + SHUTDOWN_MARGIN_SECONDS

    def command(self, *identity: str) -> list[str]:
        """Return the command line of a process; `identity` are its options for hot restarts."""
        command = [str(self.binary), "--config-path", str(self.bootstrap), *identity]
        if self.concurrency > 0:
            command += ["--concurrency", str(self.concurrency)]
        command += ["--drain-time-s", str(self.drain_time)]
        command += ["--parent-shutdown-time-s", str(self.shutdown_seconds)]
        # Each connection goes over at its next answer, so that a second restart soon after
        # the first finds few of them where they would be cut.
        command += ["--drain-strategy", "immediate", "--log-level", self.log_level]
        return [*command, "--file-flush-interval-msec", "1000"]


def say(*lines: str) -> None:
    for line in lines:
        print(f"envoy-control: {line}", file=sys.stderr, flush=True)


# --- Envoy's admin interface -------------------------------------------------------------------


class Admin:
    """The admin interface of whichever process has the socket now."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def ask(self, url: str, method: str = "GET") -> tuple[int, str]:
        """Return status and body; status 0 when nobody answers."""
        request = f"{method} {url} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(5)
                connection.connect(str(self.path))
                connection.sendall(request.encode())
                answer = b"".join(iter(lambda: connection.recv(65536), b""))
        except OSError:
            return 0, ""
        head, _, body = answer.partition(b"\r\n\r\n")
        if b"transfer-encoding: chunked" in head.lower():
            body = _unchunked(body)
        status = head.split(b" ", 2)[1:2]
        return int(status[0]) if status else 0, body.decode(errors="replace")

    def is_ready(self) -> bool:
        return self.ask("/ready")[0] == 200

    def server(self) -> tuple[int, str]:
        """Return epoch and bootstrap version of the process; (-1, "") when none answers."""
        status, body = self.ask("/server_info")
        if status != 200:
            return -1, ""
        info = json.loads(body)
        metadata = info.get("node", {}).get("metadata", {})
        epoch = int(info.get("command_line_options", {}).get("restart_epoch", 0))
        return epoch, str(metadata.get("bootstrap_version", ""))


def _unchunked(body: bytes) -> bytes:
    whole = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        whole, body = whole + rest[:length], rest[length + 2 :] if length else b""
    return whole


# --- processes ---------------------------------------------------------------------------------


def arguments_of(pid: int) -> list[str]:
    """Return the command line of a process; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    except OSError:
        return []


def option(arguments: Sequence[str], name: str, default: str = "") -> str:
    """Return the value after an option of a command line."""
    with contextlib.suppress(ValueError, IndexError):
        return arguments[arguments.index(name) + 1]
    return default


class Process:
    """A process that is not a child of this one; the number cannot come to mean another."""

    def __init__(self, pid: int) -> None:
        """Raises ProcessLookupError when there is none."""
        self.pid, self.handle = pid, os.pidfd_open(pid)

    def has_ended(self, within: float = 0) -> bool:
        """Tell whether it has ended, or does `within` so many seconds."""
        return bool(select.select([self.handle], [], [], within)[0])

    def end(self) -> None:
        """Ask it to end, and kill it when it does not."""
        if not self._ends(signal.SIGTERM, 10):
            self.kill()

    def kill(self) -> None:
        self._ends(signal.SIGKILL, 5)

    def _ends(self, by: signal.Signals, within: float) -> bool:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.handle, by)
        return self.has_ended(within)


def wait_for(holds: Callable[[], bool], process: Process, seconds: float) -> bool:
    """Wait until `holds`; tell whether it did before `process` ended and the time was over."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline or process.has_ended(PAUSE_SECONDS):
            return False
    return True


def _orphan(work: Callable[[int], None]) -> list[str]:
    """Do `work` in a process whose parent is PID 1, as systemd supervises no other.

    Returns its pid and what it writes to the pipe that `work` is given, until it is closed.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        intermediate = os.getpid()
        try:
            if grandchild := os.fork():
                os.write(writing, f"{grandchild}\n".encode())
                os._exit(0)
            # Envoy has the kernel end it with its parent, so that must be PID 1 by then.
            while os.getppid() == intermediate:
                time.sleep(0.001)
            work(writing)
        finally:
            os._exit(FAILED)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as stream:
        return stream.read().splitlines()


def spawn(command: list[str]) -> Process:
    """Start a program and return its process; raises Failure when it cannot be started."""

    def become(pipe: int) -> None:
        try:
            os.execv(command[0], command)
        except OSError as error:
            os.write(pipe, f"!{error.strerror}\n".encode())

    told = sorted(_orphan(become))
    if told[0].startswith("!"):
        raise Failure(f"{command[0]} cannot be started: {told[0][1:]}")
    try:
        return Process(int(told[0]))
    except ProcessLookupError as error:
        raise Failure(f"the new process {told[0]} ended at once") from error


def in_background(work: Callable[[], None]) -> int:
    """Go on with `work` in another process; return its pid."""

    def alone(pipe: int) -> None:
        os.close(pipe)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        work()

    return int(_orphan(alone)[0])


def connections_of(pid: int) -> int:
    """Return how many connections of clients a process holds."""
    held = set()
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                held.add(str(link.readlink()))
    listening, established = set(), []
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                port, state, inode = fields[1].rpartition(":")[2], fields[3], fields[9]
                if state == "0A":
                    listening.add(port)
                elif f"socket:[{inode}]" in held:
                    established.append(port)
    return sum(port in listening for port in established)


# --- the service manager's side ----------------------------------------------------------------


def notify(message: str) -> None:
    """Tell systemd, and stay until it has read it, as it looks at the sender's process."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    reading, writing = os.pipe()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.connect(f"\0{address[1:]}" if address.startswith("@") else address)
        manager.send(message.encode())
        socket.send_fds(manager, [b"BARRIER=1"], [writing])
    os.close(writing)
    select.select([reading], [], [], 10)
    os.close(reading)


def start(settings: Settings) -> NoReturn:
    """Become the first Envoy of the proxy; a process beside it tells when it is ready."""
    # Each start takes another base id; the memory of the process before is nobody's.
    with contextlib.suppress(Unrelated, OSError):
        settings.shared_memory.unlink()
    for stale in ("base-id", "older", *(each.name for each in settings.runtime.glob("*.sock"))):
        settings.path(stale).unlink(missing_ok=True)
    main = os.getpid()
    with contextlib.suppress(OSError):
        shutil.copyfile(settings.bootstrap, settings.path("tried.yaml"))
    in_background(lambda: _tell_when_ready(settings, main))
    command = settings.command(*_first_of_its_kind(settings.path("base-id")))
    try:
        os.execv(command[0], command)
    except OSError as error:
        raise Failure(f"{command[0]} cannot be started: {error.strerror}") from error


def _first_of_its_kind(told: Path) -> tuple[str, ...]:
    """Return the options of a process that follows none; its base id is written to `told`."""
    return "--use-dynamic-base-id", "--base-id-path", str(told)


def _tell_when_ready(settings: Settings, pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        process = Process(pid)
        if wait_for(settings.admin.is_ready, process, settings.timeout):
            _keep_bootstrap(settings)
            notify("READY=1")
        elif not process.has_ended():
            say(f"{settings.name} was not ready after {settings.timeout:.0f} s")
            os.kill(pid, signal.SIGTERM)


def _keep_bootstrap(settings: Settings) -> None:
    with contextlib.suppress(OSError):
        settings.path("tried.yaml").rename(settings.path("good.yaml"))


# --- another process takes over ------------------------------------------------------------------


def take_over(settings: Settings, main: int) -> None:
    """Let a new process take over from `main` and tell systemd; raises Failure.

    When the new process does not get ready, the old one goes on.
    """
    old = Process(main)
    _recover_admin(settings, old)
    _output(
        settings.binary,
        "--mode",
        "validate",
        "--config-path",
        str(settings.bootstrap),
        "--log-level",
        "error",
    )
    shutil.copyfile(settings.bootstrap, settings.path("tried.yaml"))
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


def see_related(settings: Settings, main: int) -> None:
    """Raise Unrelated unless the binary that is on disk can hand over with the running process."""
    _ = settings.base_id
    program = Path(f"/proc/{main}/exe")
    if program.exists() and program.samefile(settings.binary):
        return
    new = _output(settings.binary, "--hot-restart-version")[-1]
    status, running = settings.admin.ask("/hot_restart_version")
    if status != 200:
        running = _output(program, "--hot-restart-version")[-1]
    if new != running.strip():
        raise Unrelated(
            f"the hot-restart version of {settings.binary.resolve()} is {new}, that of the running"
            f" process {running.strip()}"
        )


# --- by a hot restart


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
        new = _try(settings, settings.command(*identity), epoch)
    except Failure as failure:
        _clear_initializing(settings)
        reason = f"{failure}; {_go_on(settings, old, arguments, identity)}"
        raise Failure(reason, failure.evidence) from failure
    _keep_bootstrap(settings)
    _hand_over(settings, old, new, epoch)


def _output(program: Path, *arguments: str) -> list[str]:
    """Return the lines that a program says; raises Failure when it does not end well.

    Envoy tells its hot-restart version where it tells errors, after its warnings.
    """
    what = f"{program} {' '.join(arguments[:2])}"
    try:
        done = subprocess.run(
            [program, *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=CHECK_SECONDS,
            stdin=subprocess.DEVNULL,
            errors="replace",
        )
    except subprocess.TimeoutExpired as error:
        raise Failure(f"`{what}` did not end within {CHECK_SECONDS} s") from error
    except OSError as error:
        raise Failure(f"`{what}` cannot be run: {error.strerror}") from error
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    if done.returncode != 0:
        raise Failure(f"`{what}` ended with status {done.returncode}", said)
    return said or [""]


def _try(settings: Settings, command: list[str], epoch: int) -> Process:
    """Start a process of this epoch and return it once it is ready; raises Failure."""
    new = spawn(command)

    def is_ready() -> bool:
        return settings.admin.server()[0] == epoch and settings.admin.is_ready()

    try:
        if wait_for(is_ready, new, settings.timeout):
            return new
        if new.has_ended():
            raise Failure(f"the new process {new.pid} ended before it was ready")
        raise Failure(f"the new process {new.pid} was not ready after {settings.timeout:.0f} s")
    except BaseException:
        new.kill()
        raise


def _go_on(settings: Settings, old: Process, arguments: list[str], identity: list[str]) -> str:
    """Give the old process an heir if it has lost its admin interface; return what is now."""
    if old.has_ended():
        return f"the old process {old.pid} has ended too"
    if settings.admin.server()[0] == int(identity[-1]) - 1:
        return f"the old process {old.pid} goes on serving"
    good = settings.path("good.yaml")
    command = [f"/proc/{old.pid}/exe", *identity]
    kept = iter(arguments[1:])
    for each in kept:
        if each in {"--base-id", "--restart-epoch", "--base-id-path"}:
            next(kept, None)
        elif each == "--config-path" and good.is_file():
            command += [each, str(good)]
            next(kept, None)
        elif each != "--use-dynamic-base-id":
            command.append(each)
    epoch = int(identity[-1])
    try:
        heir = _try(settings, command, epoch)
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


def _hand_over(settings: Settings, old: Process, new: Process, epoch: int) -> None:
    """Make `new` the unit's main process, and stand by while the old one drains."""
    notify(f"MAINPID={new.pid}")
    if helper := _older(settings)[1]:
        helper.kill()
    base_id = settings.base_id
    helper_pid = in_background(lambda: _stand_by(settings, base_id, old, new, epoch - 1))
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


def _clear_initializing(settings: Settings) -> None:
    """Take back that a process is starting, which one that died at its start cannot do itself.

    Every later process would end with "previous envoy process is still initializing". In
    version 11 the memory is its size and version, two locks and, in the last 8 bytes, flags.
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


def _domain_socket(side: str, base_id: int, epoch: int) -> bytes:
    """Return the name of the socket of the process `epoch` as `parent` or `child`.

    Envoy counts in 32 bits with a sign, writes the number in 64 bits without one, and pads the
    name to the full length (HotRestartingBase::createDomainSocketAddress).
    """
    number = base_id * 10 + epoch % 3
    if number >= 1 << 31:
        number += (1 << 64) - (1 << 32)
    return f"\0envoy_domain_socket_{side}_{number}".encode().ljust(108, b"\0")


def _stand_by(settings: Settings, base_id: int, old: Process, new: Process, epoch: int) -> None:
    """Answer in the place of an old process that is killed while it drains.

    The new one asks it for statistics and tells it to end; an Envoy that gets no connection
    to its parent for 10 s aborts. Ends with the new process or when nothing is asked any more.
    """
    deadline = time.monotonic() + settings.shutdown_seconds + 30
    ended = select.select([old.handle, new.handle], [], [], deadline - time.monotonic())[0]
    if ended != [old.handle]:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as parent:
        parent.bind(_domain_socket("parent", base_id, epoch))
        # What the old process was asked last may have gone with it, and the new one waits for
        # the answer without an end.
        with contextlib.suppress(OSError):
            parent.sendto(_STATS_REPLY, _domain_socket("child", base_id, epoch + 1))
        while (left := deadline - time.monotonic()) > 0:
            ready = select.select([parent.fileno(), new.handle], [], [], left)[0]
            if parent.fileno() not in ready:
                return
            message, sender = parent.recvfrom(65536)
            if message[8:] == _STATS_REQUEST:
                parent.sendto(_STATS_REPLY, sender)
            elif message[8:] == _TERMINATE_REQUEST:
                return


# --- beside the old process


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
        new = _try(settings, settings.command(*_first_of_its_kind(coming)), 0)
    except Failure as failure:
        _recover_admin(settings, old)
        reason = f"{failure}; the old process {old.pid} goes on serving"
        raise Failure(reason, failure.evidence) from failure
    coming.replace(base_id)
    _keep_bootstrap(settings)
    # Whoever stands by for a hot restart of before goes on; the next one has nothing to do with it.
    settings.path("older").unlink(missing_ok=True)
    notify(f"MAINPID={new.pid}")
    in_background(lambda: _see_out(settings, old, Admin(aside), memory))
    say(f"{settings.name}: process {new.pid} has taken over from {old.pid}")


def _aside(settings: Settings, old: Process) -> Path:
    """Return where the admin interface of a process is while another has its place."""
    return settings.path(f"admin-{old.pid}.sock")


def _recover_admin(settings: Settings, old: Process) -> None:
    """Put the admin interface of a process back that nobody has followed."""
    with contextlib.suppress(FileNotFoundError):
        _aside(settings, old).replace(settings.path("admin.sock"))


def _see_out(settings: Settings, old: Process, admin: Admin, memory: Path | None) -> None:
    """Take no more connections for an old process, and end it when its clients have left.

    They leave with their next answer; what still runs when the drain time is over is cut.
    """
    admin.ask("/drain_listeners?graceful", "POST")
    admin.ask("/drain_listeners", "POST")
    deadline = time.monotonic() + settings.shutdown_seconds
    while not old.has_ended(PAUSE_SECONDS * 10) and time.monotonic() < deadline:
        if not connections_of(old.pid):
            old.has_ended(LAST_SPANS_SECONDS)
            break
    old.end()
    admin.path.unlink(missing_ok=True)
    if memory:
        memory.unlink(missing_ok=True)


# --- renewing, as root -------------------------------------------------------------------------


class Manager(Protocol):
    """What runs the proxies."""

    def settings(self, proxy: str) -> Settings: ...
    def state(self, proxy: str) -> str: ...
    def main_pid(self, proxy: str) -> int: ...
    def start(self, proxy: str) -> None: ...
    def restart(self, proxy: str) -> None: ...
    def reload(self, proxy: str) -> None: ...


class Systemd:
    """The units envoy@<proxy>. Each method raises Failure with systemd's or Envoy's reason."""

    def __init__(self) -> None:
        self.has_read_units = False

    def settings(self, proxy: str) -> Settings:
        """Return what the unit's file says now; systemd has read it once before."""
        if not self.has_read_units:
            # Always, as NeedDaemonReload= does not tell of a new drop-in.
            self._systemctl("daemon-reload")
            self.has_read_units = True
        shown = self._show(proxy, "LoadState", "Environment")
        if shown["LoadState"] != "loaded":
            raise Failure(f"there is no unit envoy@{proxy}.service")
        words = shlex.split(shown["Environment"])
        return Settings.of(proxy, dict(word.split("=", 1) for word in words))

    def state(self, proxy: str) -> str:
        """Return `active`, `starting` or `stopped`."""
        shown = self._show(proxy, "ActiveState", "SubState")
        if shown["ActiveState"] in {"active", "reloading"}:
            return "active"
        is_starting = shown["ActiveState"] == "activating" and shown["SubState"] != "auto-restart"
        return "starting" if is_starting else "stopped"

    def main_pid(self, proxy: str) -> int:
        return int(self._show(proxy, "MainPID")["MainPID"])

    def start(self, proxy: str) -> None:
        self._act("start", proxy)

    def restart(self, proxy: str) -> None:
        subprocess.run(
            ["systemctl", "reset-failed", f"envoy@{proxy}.service"],
            check=False,
            capture_output=True,
        )
        self._act("restart", proxy)

    def reload(self, proxy: str) -> None:
        began = time.time()
        done = self._systemctl("reload", f"envoy@{proxy}.service", check=False)
        if done.returncode == 0:
            return
        helper = self._show(proxy, "ExecReload").get("ExecReload", "")
        pid = re.search(r"\bpid=([1-9]\d*)", helper)
        told = [
            line.removeprefix("envoy-control: ")
            for line in (self._journal(proxy, began, int(pid[1])) if pid else [])
        ]
        reasons = [line for line in told if not line.startswith("  ")]
        if not reasons:
            raise Failure(f"envoy@{proxy}.service cannot be reloaded: {done.stderr.strip()}")
        evidence = [line.strip() for line in told if line.startswith("  ")]
        if new := re.search(r"the new process (\d+)", reasons[-1]):
            evidence += self._journal(proxy, began, int(new[1]))
        raise Failure(reasons[-1], evidence)

    def _act(self, verb: str, proxy: str) -> None:
        began = time.time()
        done = self._systemctl(verb, f"envoy@{proxy}.service", check=False)
        if done.returncode != 0:
            raise Failure(
                f"envoy@{proxy}.service does not start: {done.stderr.strip().splitlines()[0]}",
                self._journal(proxy, began),
            )

    def _show(self, proxy: str, *names: str) -> dict[str, str]:
        unit = f"envoy@{proxy}.service"
        shown = self._systemctl("show", f"--property={','.join(names)}", unit).stdout
        return dict(line.split("=", 1) for line in shown.splitlines())

    def _systemctl(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(["systemctl", *words], check=False, capture_output=True, text=True)
        if check and done.returncode != 0:
            raise Failure(f"`systemctl {' '.join(words)}` failed: {done.stderr.strip()}")
        return done

    def _journal(self, proxy: str, since: float, pid: int | None = None) -> list[str]:
        """Return what the unit (or only the process `pid`) has logged, access logs left out."""
        subprocess.run(["journalctl", "--sync"], check=False, capture_output=True)
        wanted = ["-u", f"envoy@{proxy}.service"] if pid is None else [f"_PID={pid}"]
        done = subprocess.run(
            ["journalctl", "--quiet", "-o", "cat", f"--since=@{int(since)}", "-n", "200", *wanted],
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
        )
        return [line for line in done.stdout.splitlines() if line and not line.startswith("{")]


def renew(proxy: str, manager: Manager) -> str:
    """Bring a proxy to what is on disk; return what was done. Raises Failure."""
    settings = manager.settings(proxy)
    if not settings.bootstrap.is_file():
        raise Failure(f"there is no such proxy here, as {settings.bootstrap} is not there")
    before = manager.main_pid(proxy)
    if manager.state(proxy) == "starting":
        # What it starts with may be older than what is on disk.
        with contextlib.suppress(Failure):
            manager.start(proxy)
    if manager.state(proxy) != "active":
        manager.restart(proxy)
        done = "started"
    else:
        manager.reload(proxy)
        done = "taken over"
    main = manager.main_pid(proxy)
    if lacking := wrong(settings, main):
        raise Failure(f"{done}, but {lacking}")
    return f"{proxy}: {done}, process {before or 'none'} -> {main}"


def wrong(settings: Settings, main: int) -> str:
    """Return in what a proxy differs from what is on disk; nothing when all is as it should be."""
    try:
        running = str(Path(f"/proc/{main}/exe").readlink())
    except OSError:
        return f"there is no main process {main}"
    if running != str(settings.binary.resolve()):
        return f"the main process {main} runs {running}, not {settings.binary.resolve()}"
    if not settings.admin.is_ready():
        return f"the main process {main} is not ready"
    wanted = re.search(r'\bbootstrap_version: "([^"]*)"', settings.bootstrap.read_text())
    version = settings.admin.server()[1]
    if wanted and wanted[1] != version:
        return f"the main process {main} has the bootstrap {version}, not {wanted[1]}"
    return ""


def _renew_all(proxies: Sequence[str], manager: Manager) -> None:
    for number, proxy in enumerate(proxies):
        try:
            print(renew(proxy, manager), flush=True)
        except Failure as failure:
            left = ", ".join(proxies[number + 1 :])
            more = f" (left as they were: {left})" if left else ""
            reason = f"{failure}".removeprefix(f"{proxy}: ")
            raise Failure(f"{proxy}: {reason}{more}", failure.evidence) from failure


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says; return the exit status."""
    verb, names = "".join(arguments[:1]), list(arguments[1:])
    if verb not in {"renew", "start", "take-over"} or not names:
        print(__doc__, file=sys.stderr)
        return USAGE
    if verb != "renew" and len(names) > 1:
        print(__doc__, file=sys.stderr)
        return USAGE
    # `systemctl stop` in the midst of a reload: what was begun is ended on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(FAILED))
    try:
        if verb == "renew":
            _renew_all(names, Systemd())
        elif verb == "start":
            start(Settings.of(names[0], os.environ))
        else:
            take_over(Settings.of(names[0], os.environ), int(os.environ["MAINPID"]))
    except Failure as failure:
        say(str(failure), *(f"  {line}" for line in failure.evidence))
        return FAILED
    return DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
