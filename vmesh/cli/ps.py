"""`./mesh ps`: what runs, on every VM."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

from vmesh.base import words
from vmesh.base.exits import FAILED, OK
from vmesh.cli.output import status
from vmesh.remote import connect
from vmesh.remote.mesh import Mesh, read

TIMEOUT = 60.0
HEADER = ("VM", "NAME", "COMMAND", "STATE", "PORTS")


def run(arguments: argparse.Namespace) -> int:
    """Print the table; exit code 1 when anything planned does not run."""
    rows = ask(read(*arguments.inventory))
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        show(rows)
    return OK if all(row.running for row in rows) else FAILED


def ask(mesh: Mesh) -> list[status.Row]:
    """Ask every VM at once, one ssh call each; return the rows in the inventory's order."""
    planned = {
        host: status.planned(host, spec, connect.published(mesh.variables(host)))
        for host, spec in mesh.spec.hosts.items()
    }
    with ThreadPoolExecutor(max_workers=32) as pool:
        answers = pool.map(lambda host: _ask_one(mesh, host, planned[host]), planned)
    return [row for rows in answers for row in rows]


def _ask_one(mesh: Mesh, host: str, units: Sequence[status.Unit]) -> list[status.Row]:
    script = status.question([unit.unit for unit in units])
    try:
        answer = subprocess.run(
            connect.ssh_command(host, mesh.variables(host), [script]),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return status.unreachable_rows(units, f"no answer in {TIMEOUT:.0f} s")
    except FileNotFoundError:
        return status.unreachable_rows(units, "no ssh on this machine (package openssh-client)")
    if answer.returncode == 255:
        return status.unreachable_rows(units, status.ssh_reason(answer.stderr))
    return status.answer_rows(units, answer.stdout)


def show(rows: Sequence[status.Row]) -> None:
    """Print the table: fitted to a terminal, of full width into a pipe."""
    if not sys.stdout.isatty():
        print("\n".join(plain_table(rows)))
        return
    from rich import box  # noqa: PLC0415 - only for a terminal
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(*HEADER, box=box.SIMPLE_HEAD, pad_edge=False)
    table.columns[2].no_wrap, table.columns[2].ratio = True, 1
    for row in rows:
        table.add_row(
            row.host,
            row.name,
            Text(row.command, overflow="ellipsis"),
            Text(row.state, style="green" if row.running else "bold red"),
            row.ports.replace(", ", "\n"),
        )
    Console().print(table)


def plain_table(rows: Sequence[status.Row]) -> list[str]:
    """Return the table's lines; commands are cut to 60 characters, `--json` has them whole."""
    cells = [(r.host, r.name, _cut(r.command), r.state, r.ports) for r in rows]
    return words.plain_table(HEADER, cells)


def _cut(text: str, width: int = 60) -> str:
    return text if len(text) <= width else text[: width - 4] + " ..."
