"""What runs on every VM: the question asked over ssh, and the table made of the answers."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmesh.base.progress import duration
from vmesh.base.words import plural

if TYPE_CHECKING:
    from vmesh.compile.host_spec import HostSpec

PROPERTIES = (
    "Id",
    "LoadState",
    "ActiveState",
    "SubState",
    "Result",
    "MainPID",
    "ExecMainStatus",
    "ActiveEnterTimestampMonotonic",
    "NRestarts",
)


@dataclass(frozen=True)
class Unit:
    """A systemd unit that the inventory plans for a VM."""

    host: str
    name: str
    unit: str
    ports: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    host: str
    name: str
    command: str
    state: str
    ports: str
    running: bool


def planned(host: str, spec: HostSpec, published: Mapping[int, int]) -> list[Unit]:
    """Return the units that should run on `host`; `published` maps VM ports to the lab's."""
    units = []
    for proxy in spec.proxies:
        ports = tuple(_port(p.address, p.port, published) for p in proxy.ports)
        units.append(Unit(host, f"envoy@{proxy.name}", proxy.unit, ports))
    for service in spec.flask_services:
        units.append(Unit(host, f"flask@{service.name}", service.unit, (f"unix:{service.socket}",)))
    if spec.jaeger is not None:
        listen = tuple(_port(p.address, p.port, published) for p in spec.jaeger.ports)
        units.append(Unit(host, "jaeger", spec.jaeger.unit, listen))
    return units


def _port(address: str, port: int, published: Mapping[int, int]) -> str:
    outside = published.get(port)
    return f"127.0.0.1:{outside}->{port}" if outside is not None else f"{address}:{port}"


def question(units: Sequence[str]) -> str:
    """Return the shell script that answers everything about `units` in one ssh call."""
    names = " ".join(shlex.quote(unit) for unit in units)
    return (
        f"systemctl show --property={','.join(PROPERTIES)} -- {names}; echo; echo ---; "
        "cut -d' ' -f1 /proc/uptime; "
        f"for pid in $(systemctl show --property=MainPID --value -- {names}); do "
        '[ "$pid" = 0 ] || { printf "%s " "$pid"; '
        "tr '\\0' ' ' </proc/$pid/cmdline; echo; }; done"
    )


def answer_rows(units: Sequence[Unit], answer: str) -> list[Row]:
    """Return the rows of one VM from what `question`'s script printed there."""
    shown, _, rest = answer.partition("\n---\n")
    lines = rest.splitlines()
    uptime = float(lines[0]) if lines and re.fullmatch(r"[\d.]+", lines[0]) else 0.0
    commands = dict(line.split(" ", 1) for line in lines[1:] if " " in line)
    blocks = {}
    for block in shown.split("\n\n"):
        properties = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if "Id" in properties:
            blocks[properties["Id"]] = properties
    return [_row(unit, blocks.get(unit.unit, {}), uptime, commands) for unit in units]


def _row(unit: Unit, shown: Mapping[str, str], uptime: float, commands: Mapping[str, str]) -> Row:
    active = shown.get("ActiveState", "unknown")
    running = active in {"active", "reloading"}
    if shown.get("LoadState") == "not-found":
        state = "not installed"
    elif running:
        since = uptime - int(shown.get("ActiveEnterTimestampMonotonic") or 0) / 1_000_000
        state = f"Up {duration(max(0.0, since))}"
        restarts = int(shown.get("NRestarts") or 0)
        if restarts:
            state += f" ({restarts} {plural('restart', restarts)})"
    elif active == "activating":
        state = f"starting ({shown.get('SubState', '')})"
    elif active == "failed":
        state = f"failed ({shown.get('Result', '')}, exit {shown.get('ExecMainStatus', '?')})"
    else:
        state = active
    command = commands.get(shown.get("MainPID", ""), "").strip()
    return Row(unit.host, unit.name, command, state, ", ".join(unit.ports), running)


def unreachable_rows(units: Sequence[Unit], reason: str) -> list[Row]:
    """Return the rows of a VM that did not answer: one, whatever was planned on it."""
    if not units:
        return []
    names = ", ".join(unit.name for unit in units)
    return [Row(units[0].host, names, f"({reason})", "unreachable", "", False)]


def ssh_reason(stderr: str) -> str:
    """Return why ssh failed, from its last sensible line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Warning:", "debug", "@@@"))]
    return (told or lines or ["no answer"])[-1]
