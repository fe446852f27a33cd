"""A mesh that is changed while it is asked: the inventory with a layer over it, and its VMs."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import change_layers as layers
from bench.change_layers import Layer
from bench.change_report import Event
from bench.live.remote import run_as_root
from bench.live.site import run_site
from bench.live.waiting import until
from bench.live.web import Reply, request
from vmesh.base import paths
from vmesh.base.progress import logs_of, new_log
from vmesh.remote import playbook
from vmesh.remote.mesh import Mesh, read

HELLO = "/streams/hello"
# A request may take a route's whole timeout until it fails.
TIME_LIMIT_SECONDS = 30.0
SSH = ("-o", "ControlMaster=auto", "-o", "ControlPersist=60", "-o", "ServerAliveInterval=10")


@dataclass(frozen=True)
class Rates:
    """Requests a second: to streams on kept and on new connections, and to streams-back."""

    # What two emulated processors have to spare while a change is made.
    kept: float = 1.0
    new: float = 0.5
    back: float = 0.5

    @property
    def streams(self) -> float:
        return self.kept + self.new


@dataclass(frozen=True)
class Change:
    """What one command did to the mesh.

    told: host -> the last that was said of its failure; changed: host -> its changed tasks;
    unreachable: hosts of which a task could not reach what it had to, even if that was passed over
    """

    code: int
    seconds: float
    log: Path
    events: tuple[Event, ...] = ()
    told: Mapping[str, str] = field(default_factory=dict)
    changed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    output: str = ""
    errors: str = ""
    unreachable: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """Say how it ended, and where all of it can be read."""
        told = "; ".join(f"{host}: {text.splitlines()[0]}" for host, text in self.told.items())
        said = told or (self.output + self.errors)[-500:].strip()
        return f"ended with {self.code}: {said} (log: {self.log})"


class World:
    """The mesh of inventory/example-change, or of one laid over it, wherever it runs.

    base: that inventory; folder: for what is made here; streams: WebSockets, and slow downloads,
    held during each change; start: laid over from the beginning; say: told what is done; name: of
    the inventory that this makes, for one with records of its own
    """

    def __init__(  # noqa: PLR0913 - options, by name
        self,
        base: Path,
        folder: Path,
        *,
        rates: Rates | None = None,
        streams: int = 2,
        start: Layer | None = None,
        say: Callable[[str], None] = print,
        name: str = "",
    ) -> None:
        self.rates, self.streams, self.say = rates or Rates(), streams, say
        self.folder = folder
        self.place = layers.lay(base.resolve(), folder, name)
        self.base: Mesh = read(self.place)
        self.given: Mapping[str, Any] = self.base.inventory.mesh
        self.hosts = list(self.base.inventory.hosts)
        self.layer = start or Layer()
        self.url = self.base.edge_url("/").rstrip("/")
        self.jaeger_url = str(self.base.jaeger_url()).rstrip("/")
        self._sockets = tempfile.TemporaryDirectory(prefix="vmesh-ssh-")
        self._epoch: dict[str, int] = {}
        self._numbers = 0
        # What streams was, and called itself, before its last release.
        self.before_release: tuple[Mapping[str, Any], str] | None = None
        self.run_seconds = 75.0  # of the last run of site.yml
        self.write(self.layer)

    # --- changing it

    @property
    def now(self) -> Mapping[str, Any]:
        """The mesh as it is described at this moment."""
        return layers.over(self.given, self.layer)

    def write(self, layer: Layer) -> None:
        """Lay `layer` over the inventory, and nothing else."""
        (self.place / layers.LAYER).write_text(layers.text(layer, self.hosts))

    def apply(self, layer: Layer | None = None, *arguments: str) -> Change:
        """Lay one more layer over the inventory, for good, and run site.yml."""
        self.layer |= layer or Layer()
        self.write(self.layer)
        return self.site(*arguments)

    def attempt(self, layer: Layer, *arguments: str) -> Change:
        """Run site.yml with one more layer, and take the layer off again."""
        self.write(self.layer | layer)
        try:
            return self.site(*arguments)
        finally:
            self.write(self.layer)

    def site(self, *arguments: str) -> Change:
        """Run site.yml on the inventory as it is."""
        began = time.monotonic()
        result = run_site([self.place], *arguments)
        self.run_seconds = seconds = time.monotonic() - began
        outcome = result.outcome
        told = dict(outcome.unreachable) | {each.host: each.message for each in outcome.failures}
        self.say(f"  site.yml: {seconds:.0f} s, exit code {outcome.code}, log {result.log}")
        return Change(outcome.code, seconds, result.log, _events(result.log), told, result.changed)

    def mesh(self, command: str, *arguments: str, timeout: float = 900.0) -> Change:
        """Run one of our commands on the inventory."""
        log = new_log(f"bench-{command}")
        began = time.time()
        done = subprocess.run(
            [str(paths.PROJECT / "mesh"), command, "-i", str(self.place), *arguments],
            cwd=paths.PROJECT,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
        seconds = time.time() - began
        log.write_text(done.stdout + done.stderr)
        # What it ran of Ansible, it has logged under its own name.
        own = [p for p in logs_of(command, ".events") if p.stat().st_mtime >= began]
        events = _events(max(own)) if own else ()
        told = {e["host"]: e["message"] for e in events if e["event"] == "failed"}
        changed: dict[str, tuple[str, ...]] = {}
        for event in events:
            if event["event"] == "changed":
                changed[event["host"]] = (*changed.get(event["host"], ()), event["task"])
        self.say(f"  mesh {command}: {seconds:.0f} s, exit code {done.returncode}, log {log}")
        return Change(
            done.returncode, seconds, log, events, told, changed, done.stdout, done.stderr
        )

    @contextmanager
    def begun(self) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], tuple[Event, ...]]]]:
        """Begin a run of site.yml in a process group of its own, to be killed by the caller.

        Yields the process, and a function that returns what it has told of itself so far.
        """
        log = new_log("bench-killed")
        env = playbook.environment(environment(), log.with_suffix(".events"), fast=True)
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["ansible-playbook", "site.yml", "-i", str(self.place)],
                cwd=paths.PROJECT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                yield process, lambda: _events(log)
            finally:
                if process.poll() is None:
                    process.kill()
                process.wait()
                _kill_all_with("VMESH_EVENTS", env["VMESH_EVENTS"])

    # --- its VMs

    def ssh(self, host: str, command: str, *, timeout: float = 120.0) -> str:
        """Run a shell command as root on a VM; return what it prints.

        Raises AssertionError when it fails or takes too long.
        """
        socket = f"ControlPath={self._sockets.name}/{host}-{self._epoch.get(host, 0)}"
        return run_as_root(
            host,
            self.base.variables(host),
            command,
            options=[*SSH, "-o", socket],
            timeout=timeout,
        )

    def forget(self, host: str) -> None:
        """Let go of the kept ssh connection, as before a reboot."""
        self._epoch[host] = self._epoch.get(host, 0) + 1

    def main_process(self, host: str, unit: str) -> int:
        """Return the main process of a unit; 0 without one."""
        return int(self.ssh(host, f"systemctl show --property=MainPID --value {unit}"))

    def pending(self) -> list[str]:
        """Return the hosts that have a half-done change."""
        return [
            host
            for host in self.hosts
            if self.ssh(host, "find /var/lib/vmesh -name 'pending*' 2>/dev/null || true").strip()
        ]

    # --- asking it

    def get(self, path: str, timeout: float = TIME_LIMIT_SECONDS) -> Reply:
        """Ask the edge on a connection of its own."""
        return request(self.url, path, timeout=timeout)

    def hello(self, path: str = HELLO) -> dict[str, Any]:
        """Return who answers; raises AssertionError for anything but a good answer."""
        reply = self.get(path)
        assert reply.status == http.client.OK, f"{path}: {reply.status}: {reply.body[:200]}"
        return dict(json.loads(reply.body))

    def instances(self, count: int = 24) -> dict[str, dict[str, Any]]:
        """Return instance -> what it last said of itself, of the instances of streams."""
        return {told["instance"]: told for told in (self.hello() for _ in range(count))}

    def both(self, seconds: float = 120.0) -> dict[str, dict[str, Any]]:
        """Wait until both instances of streams answer; return what they say."""
        found: dict[str, dict[str, Any]] = {}

        def all_of_them() -> bool:
            told = self.hello()
            found[told["instance"]] = told
            return len(found) >= 2

        until("answers of both instances of streams", all_of_them, seconds, pause=0.1)
        return found

    def stored(self, since: float, count: int) -> dict[str, int]:
        """Return trace id -> how many of its spans Jaeger has, of traces since a moment.

        since: seconds since the epoch; count: at most so many traces
        """
        start, end = int((since - 60) * 1e6), int((time.time() + 60) * 1e6)
        reply = request(
            self.jaeger_url,
            f"/api/traces?service={layers.EDGE}&start={start}&end={end}&limit={count}",
            timeout=120.0,
        )
        assert reply.status == http.client.OK, f"Jaeger answers {reply.status}"
        return {
            str(trace["traceID"]).zfill(32): len(trace["spans"])
            for trace in json.loads(reply.body)["data"] or []
        }

    def number(self) -> int:
        """Return another number each time."""
        self._numbers += 1
        return self._numbers


def environment() -> dict[str, str]:
    """Return this process's environment without a scenario's own settings for Ansible."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("ANSIBLE_", "MOLECULE_"))}


def _kill_all_with(variable: str, value: str) -> None:
    """Kill the processes that have a variable: Mitogen's helpers are in sessions of their own."""
    wanted = f"{variable}={value}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)


def _events(log: Path) -> tuple[Event, ...]:
    """Return the events that belong to a log, or are in a file of events."""
    path = log.with_suffix(".events")
    if not path.exists():
        return ()
    # A killed run may have left half a line.
    whole = path.read_text().rpartition("\n")[0]
    return tuple(map(json.loads, whole.splitlines()))
