"""Running ansible-playbook with its output in the log and its progress before the user."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vmesh.base import paths
from vmesh.base.progress import Steps
from vmesh.base.words import plural

CALLBACKS = Path(__file__).with_name("callbacks")


@dataclass(frozen=True)
class Failure:
    """A task that failed on a host, or a host that could not be reached."""

    host: str
    task: str
    message: str


@dataclass
class Outcome:
    """What became of a run, from its events."""

    code: int = 0
    play: str = ""
    task: str = ""
    tasks: int = 0
    answered: int = 0
    failures: list[Failure] = field(default_factory=list)
    unreachable: dict[str, str] = field(default_factory=dict)
    hosts: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def changed(self) -> int:
        return sum(host.get("changed", 0) for host in self.hosts.values())

    def take(self, event: Mapping[str, Any]) -> None:
        """Add one event of the callback `vmesh_events`."""
        kind = event["event"]
        if kind == "play":
            self.play, self.task = event["name"], ""
        elif kind == "task":
            self.task, self.answered = event["name"], 0
            self.tasks += 1
        elif kind == "stats":
            self.hosts = event["hosts"]
        else:
            self.answered += 1
            if kind == "failed":
                self.failures.append(Failure(event["host"], event["task"], event["message"]))
            elif kind == "unreachable":
                self.unreachable[event["host"]] = event["message"]

    def followed_by(self, other: Outcome) -> None:
        """Add what became of the run after this one: both together count as one."""
        self.code = self.code or other.code
        self.failures += other.failures
        self.unreachable |= other.unreachable
        for host, counts in other.hosts.items():
            mine = self.hosts.get(host, {})
            self.hosts[host] = {
                key: mine.get(key, 0) + counts.get(key, 0) for key in mine.keys() | counts.keys()
            }

    def now(self) -> str:
        """Say what runs at this moment."""
        hosts = f" · {self.answered} done" if self.answered else ""
        return f"{self.play} · task {self.tasks}: {self.task}{hosts}" if self.task else self.play


def environment(
    base: Mapping[str, str], events: Path, *, fast: bool, strategies: Path | None = None
) -> dict[str, str]:
    """Return the environment for Ansible: our settings file, our callback, the fast strategy.

    `fast` uses Mitogen from the folder `strategies` (default: the installed package's).
    Settings the user exported themselves win.
    """
    ours = {
        "ANSIBLE_CONFIG": str(paths.DATA / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if fast:
        ours["ANSIBLE_STRATEGY"] = "mitogen_linear"
        ours["ANSIBLE_STRATEGY_PLUGINS"] = str(strategies or mitogen_strategies())
    merged = {**ours, **base, "VMESH_EVENTS": str(events)}
    for variable, value, separator in (
        ("ANSIBLE_CALLBACKS_ENABLED", "vmesh_events", ","),
        ("ANSIBLE_CALLBACK_PLUGINS", str(CALLBACKS), ":"),
    ):
        merged[variable] = separator.join(filter(None, (value, base.get(variable))))
    if user := base.get("ANSIBLE_COLLECTIONS_PATH"):
        # It replaces the setting of our file, and the playbooks need our collection.
        merged["ANSIBLE_COLLECTIONS_PATH"] = f"{paths.DATA / 'collections'}:{user}"
    return merged


def mitogen_strategies() -> Path:
    """Return the folder of Mitogen's strategy plugins."""
    spec = importlib.util.find_spec("ansible_mitogen")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the library mitogen is not installed; use --plain")
    return Path(spec.origin).parent / "plugins" / "strategy"


class Tail:
    """Reads the complete lines that have been appended to a file since the last look."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self._path, self._offset = path, offset

    def lines(self) -> Iterator[str]:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        end = data.rfind(b"\n") + 1
        self._offset += end
        yield from data[:end].decode(errors="replace").splitlines()


def follow(
    command: Sequence[str],
    env: Mapping[str, str],
    log_path: Path,
    look: Callable[[], None],
    cwd: Path = paths.PROJECT,
) -> int:
    """Run `command` with its output appended to the log, calling `look` several times a second.

    Returns the exit code. When interrupted, the command is interrupted too and waited for, so
    that it can leave things in order.
    """
    with log_path.open("ab") as log:
        log.write(f"$ {' '.join(command)}\n".encode())
        log.flush()
        # A process group of its own: on Ctrl-C it is told once, by us, also when only we were.
        process = subprocess.Popen(
            list(command),
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        try:
            while process.poll() is None:
                look()
                time.sleep(0.2)
        except BaseException:
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            raise
    look()
    return process.returncode


def events(path: Path) -> Callable[[], list[dict[str, Any]]]:
    """Return a function that gives the events written to `path` since it was last called."""
    tail = Tail(path)
    return lambda: [json.loads(line) for line in tail.lines()]


def apply(
    inventory: Sequence[Path],
    steps: Steps,
    *,
    fast: bool,
    playbook: str = paths.playbook("site"),
    extra: Sequence[str] = (),
) -> Outcome:
    """Run the playbook against the sources `inventory`; return what became of it.

    extra: further options of ansible-playbook
    """
    sources = [word for source in inventory for word in ("-i", str(source))]
    outcome = Outcome()
    events_path = steps.log_path.with_suffix(".events")
    events_path.unlink(missing_ok=True)  # those of a run before this one, with the same log
    new_events = events(events_path)

    def look() -> None:
        for event in new_events():
            outcome.take(event)
            if event["event"] == "play":
                steps.step(outcome.now())
            elif event["event"] in {"failed", "unreachable"}:
                first = event["message"].splitlines()[0]
                steps.note(f"      {event['host']}: {event['event']}: {first}")
            else:
                steps.status(outcome.now())

    outcome.code = follow(
        ["ansible-playbook", *sources, *extra, playbook],
        environment(os.environ, events_path, fast=fast),
        steps.log_path,
        look,
    )
    return outcome


def extra_vars(folder: Path, **variables: Any) -> str:
    """Write variables to a file in `folder`; return the option that has Ansible read it.

    They are not on the command line, which every user of the machine may read. The file's name is
    none that the answer of a host can have (vmesh.remote.answers).
    """
    path = folder / "variables.json.in"
    path.write_text(json.dumps(variables))
    return f"--extra-vars=@{path}"


def summary(outcome: Outcome) -> list[str]:
    """Return the lines that tell how a run ended: what changed, or what failed and where.

    Which hosts have what is told by the failures themselves.
    """
    lines = []
    # A host that is put back to what it had fails in the end, and tells then what became of it.
    last = {failure.host: failure for failure in outcome.failures}
    for failure in last.values():
        lines.append(f"{failure.host}: failed: {failure.task}")
        lines += [f"    {line}" for line in failure.message.splitlines()[:30]]
    for host, message in outcome.unreachable.items():
        lines.append(f"{host}: unreachable: {message.splitlines()[0] if message else ''}")
    fine = [
        host
        for host, counts in outcome.hosts.items()
        if not counts.get("failures") and host not in outcome.unreachable
    ]
    if outcome.code == 0:
        count = len(fine)
        hosts = f"{count} {plural('host', count)}"
        if outcome.changed == 0:
            lines.append(f"changed 0: nothing to do on {hosts}")
        else:
            lines.append(f"changed {outcome.changed} on {hosts}")
    elif lines and fine:
        lines.append(f"without a failure: {', '.join(fine)}")
    return lines
