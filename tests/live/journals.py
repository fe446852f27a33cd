"""Keeping what the VMs have to say about a failure: python -m tests.live.journals [INVENTORY]."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.live.target import inventory_path, results_dir
from vmesh.base import paths
from vmesh.cli.output import status
from vmesh.remote import connect
from vmesh.remote.mesh import Mesh, read

SECONDS = 120.0


def collect(inventory: Path) -> list[str]:
    """Write the journals of every planned unit to test-results/journals/<vm>/.

    Returns a line for each file written and for each VM that did not answer.
    """
    mesh = read(inventory)
    with ThreadPoolExecutor(max_workers=8) as pool:
        told = pool.map(lambda vm: _collect_one(mesh, vm), mesh.spec.hosts)
    return [line for lines in told for line in lines]


def questions(units: Iterable[str]) -> dict[str, str]:
    """Return file name -> the command whose output it gets."""
    asked = {
        f"{unit}.log": f"journalctl --boot --no-pager --output=short-precise -u {shlex.quote(unit)}"
        for unit in units
    }
    asked["vm.log"] = (
        "uptime; free -m; df -h /; systemctl list-units --failed --no-pager; "
        "systemctl status --no-pager --lines=0 'envoy@*' 'flask@*' 'jaeger*'; "
        "journalctl --boot --no-pager --priority=warning --lines=300"
    )
    return asked


def _collect_one(mesh: Mesh, vm: str) -> list[str]:
    folder = results_dir() / "journals" / vm
    folder.mkdir(parents=True, exist_ok=True)
    variables = mesh.variables(vm)
    units = [unit.unit for unit in status.planned(vm, mesh.spec.hosts[vm], {})]
    lines = []
    console = paths.state_dir() / "labs" / str(variables.get("lab_name")) / "vms" / vm
    if (console / "serial.log").exists():
        shutil.copyfile(console / "serial.log", folder / "console.log")
        lines.append(f"{vm}: {folder / 'console.log'}")
    for name, command in questions(units).items():
        try:
            answer = subprocess.run(
                connect.ssh_command(vm, variables, [f"sudo sh -c {shlex.quote(command)}"]),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return [*lines, f"{vm}: no answer within {SECONDS:.0f} s"]
        if answer.returncode == 255:
            return [*lines, f"{vm}: {status.ssh_reason(answer.stderr.decode(errors='replace'))}"]
        (folder / name).write_bytes(answer.stdout + answer.stderr)
        lines.append(f"{vm}: {folder / name}")
    return lines


if __name__ == "__main__":
    print("\n".join(collect(Path(sys.argv[1]) if len(sys.argv) > 1 else inventory_path())))
