"""python -m vmesh.lab up|down|status|pause|resume -i INVENTORY [--purge]"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vmesh.base import paths
from vmesh.base.problems import Problems
from vmesh.base.progress import CommandFailed, Plain
from vmesh.lab import Lab, LabError
from vmesh.model import inventory


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m vmesh.lab",
        description="The lab's VMs, without the mesh in them. Each VM's result is a line on"
        " standard output: its name and changed or unchanged.",
    )
    parser.add_argument("command", choices=("up", "down", "status", "pause", "resume"))
    parser.add_argument(
        "-i",
        "--inventory",
        type=Path,
        action="append",
        help="the inventory whose group lab is meant; may be repeated (default: inventory/lab)",
    )
    parser.add_argument("--purge", action="store_true", help="with down: remove the disks too")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code: 2 for what the user can mend."""
    options = _parser().parse_args(arguments)
    progress = Plain()
    sources = options.inventory or [paths.PROJECT / "inventory" / "lab"]
    try:
        lab = Lab.from_inventory(inventory.load(*sources))
        if options.command == "status":
            for name, state in lab.status().items():
                print(f"{name}\t{state.status}\t127.0.0.1:{state.ssh_port}\t{state.mesh_address}")
            return 0
        if options.command == "down":
            result = lab.down(progress, purge=options.purge)
        elif options.command == "up":
            result = lab.up(progress)
        else:
            result = {"pause": lab.pause, "resume": lab.resume}[options.command](progress)
    except Problems as problems:
        print(problems, file=sys.stderr)
        return 2
    except (LabError, CommandFailed) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        return 130
    for name, changed in result.items():
        print(f"{name} {'changed' if changed else 'unchanged'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
