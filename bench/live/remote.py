"""Running a command on a VM of the mesh, as root."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence

from vmesh.remote import connect
from vmesh.remote.connect import HostVars


def run_as_root(
    name: str,
    variables: HostVars,
    command: str,
    *,
    options: Sequence[str] = (),
    timeout: float = 120.0,
) -> str:
    """Run a shell command as root on the VM `name`; return its standard output.

    options: further ones of ssh, such as a connection that is kept

    Raises AssertionError when it fails or takes too long.
    """
    wrapped = f"sudo sh -c {shlex.quote(command)}"
    ssh, *others = connect.ssh_command(name, variables, [wrapped])
    try:
        done = subprocess.run(
            [ssh, *options, *others],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"{name}: `{command}` took more than {timeout:.0f} s") from error
    assert done.returncode == 0, f"{name}: `{command}`: {done.returncode}: {done.stderr}"
    return done.stdout
