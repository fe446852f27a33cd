"""`./mesh jaeger`: Jaeger's web pages on this machine, through ssh."""

from __future__ import annotations

import argparse
import contextlib
import socket
import subprocess
import time
import webbrowser

from vmesh.base.exits import OK, USAGE, CliError
from vmesh.lab.preflight import can_listen
from vmesh.lab.spec import LOOPBACK
from vmesh.remote import connect
from vmesh.remote.mesh import read

# ssh itself gives up a connection after 15 seconds: see connect.ssh_command.
PATIENCE = 20.0


def run(arguments: argparse.Namespace) -> int:
    """Forward a port of 127.0.0.1 to Jaeger's web pages until Ctrl-C."""
    mesh = read(*arguments.inventory)
    place = mesh.jaeger_pages()
    if place is None:
        raise CliError("This mesh has no Jaeger of its own: it sends its spans to a collector.")
    host, address, port = place
    if arguments.port is not None and not can_listen(arguments.port):
        raise CliError(f"port {arguments.port} of {LOOPBACK} is in use: choose another", USAGE)
    local = arguments.port or (port if can_listen(port) else _free_port())
    forward = f"{LOOPBACK}:{local}:{address}:{port}"
    command = connect.ssh_command(
        host,
        mesh.variables(host),
        options=("-N", "-o", "ExitOnForwardFailure=yes", "-L", forward),
    )
    tunnel = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        if not _answers(local, tunnel):
            raise CliError(f"ssh to {host} could not forward port {port}: see its message above")
        url = f"http://{LOOPBACK}:{local}"
        print(f"Jaeger on {host}: {url}  (Ctrl-C ends)", flush=True)
        if arguments.browser:
            webbrowser.open(url)
        tunnel.wait()
        raise CliError(f"the connection to {host} has ended")
    except KeyboardInterrupt:
        return OK
    finally:
        tunnel.terminate()
        tunnel.wait()


def _answers(port: int, tunnel: subprocess.Popen[bytes]) -> bool:
    """Wait until ssh listens at `port`; False when it ends or takes too long."""
    ends = time.monotonic() + PATIENCE
    while tunnel.poll() is None and time.monotonic() < ends:
        with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), 1):
            return True
        time.sleep(0.1)
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
