"""`./mesh ssh NAME`: a shell on a VM."""

from __future__ import annotations

import argparse
import os
import sys

from vmesh.cli.options import PROGRAM
from vmesh.remote import connect
from vmesh.remote.mesh import read


def run(arguments: argparse.Namespace) -> int:
    """Become the ssh that opens a shell on NAME's VM, or runs the given command there."""
    mesh = read(*arguments.inventory)
    targets = mesh.targets(arguments.name)
    host = targets[0].host
    if len(targets) > 1:
        others = ", ".join(target.host for target in targets[1:])
        print(
            f"{PROGRAM}: {arguments.name} is on several VMs; this is {host} (also: {others})",
            file=sys.stderr,
        )
    remote = arguments.remote[1:] if arguments.remote[:1] == ["--"] else arguments.remote
    command = connect.ssh_command(host, mesh.variables(host), remote, batch=False)
    os.execvp(command[0], command)
