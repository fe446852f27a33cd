"""`./mesh logs NAME`: the journal of what the inventory calls NAME."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence

from vmesh.base.exits import FAILED, OK, USAGE, CliError
from vmesh.cli.options import PROGRAM
from vmesh.remote import connect
from vmesh.remote.mesh import read


def run(arguments: argparse.Namespace) -> int:
    """Print the journals of NAME's units, VM after VM; with -f one VM's, until Ctrl-C."""
    mesh = read(*arguments.inventory)
    targets = mesh.targets(arguments.name)
    if arguments.on:
        targets = [target for target in targets if target.host == arguments.on]
        if not targets:
            raise CliError(f"{arguments.name} is not on {arguments.on}", USAGE)
    if arguments.follow and len(targets) > 1:
        hosts = ", ".join(target.host for target in targets)
        raise CliError(f"{arguments.name} is on several VMs ({hosts}): choose with --on", USAGE)
    code = OK
    for target in targets:
        variables = mesh.variables(target.host)
        remote = journal_command(target.units, arguments.lines, follow=arguments.follow)
        if len(targets) > 1:
            print(f"--- {target.host}", flush=True)
        command = connect.ssh_command(target.host, variables, [remote])
        if arguments.follow:
            sys.stdout.flush()
            os.execvp(command[0], command)
        result = subprocess.run(command, stdin=subprocess.DEVNULL, check=False)
        if result.returncode != 0:
            print(f"{PROGRAM}: no journal from {target.host}", file=sys.stderr)
            code = FAILED
    return code


def journal_command(units: Sequence[str], lines: int, *, follow: bool) -> str:
    """Return the remote script that prints the journal of `units` (none: the whole VM's).

    Root may read any journal, so it is read as root where sudo asks no password.
    """
    words = ["journalctl", "--no-pager", "--output=short-iso", f"--lines={lines}"]
    words += [f"--unit={unit}" for unit in units]
    words += ["--follow"] if follow else []
    return f"sudo=; sudo -n true 2>/dev/null && sudo='sudo -n'; exec $sudo {shlex.join(words)}"
