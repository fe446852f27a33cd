"""`./mesh jaeger`: Jaeger's web pages on this machine, through ssh."""

from __future__ import annotations

import argparse
import contextlib
import socket
import subprocess
import time
import webbrowser
from collections.abc import Iterator

from vmesh.base.exits import OK, USAGE, CliError
from vmesh.lab.preflight import can_listen
from vmesh.lab.spec import LOOPBACK
from vmesh.remote import connect
from vmesh.remote.mesh import Mesh, read

# ssh itself gives up a connection after 15 seconds: see connect.ssh_command.
PATIENCE = 20.0


def run(arguments: argparse.Namespace) -> int:
    """Forward a port of 127.0.0.1 to Jaeger's web pages until Ctrl-C."""
    mesh = read(*arguments.inventory)
    place = mesh.jaeger_pages()
    if place is None:
        raise CliError("This mesh has no Jaeger of its own: it sends its spans to a collector.")
    host = place[0]
    if arguments.port is not None and not can_listen(arguments.port):
        raise CliError(f"port {arguments.port} of {LOOPBACK} is in use: choose another", USAGE)
    try:
        with _forwarded(mesh, place, arguments.port) as (local, tunnel):
            url = f"http://{LOOPBACK}:{local}"
            print(f"Jaeger on {host}: {url}  (Ctrl-C ends)", flush=True)
            if arguments.browser:
                webbrowser.open(url)
            tunnel.wait()
            raise CliError(f"the connection to {host} has ended")
    except KeyboardInterrupt:
        return OK


@contextlib.contextmanager
def asked_at(mesh: Mesh) -> Iterator[str | None]:
    """Yield the URL at which this machine can ask Jaeger, through ssh if need be.

    None when the mesh has no Jaeger of its own. Raises CliError when ssh cannot reach it.
    """
    place = mesh.jaeger_pages() if mesh.jaeger_is_local() else None
    if place is None:
        yield mesh.jaeger_url()
        return
    with _forwarded(mesh, place) as (local, _):
        yield f"http://{LOOPBACK}:{local}/"


@contextlib.contextmanager
def _forwarded(
    mesh: Mesh, place: tuple[str, str, int], wanted: int | None = None
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Have ssh forward a port of 127.0.0.1 to Jaeger's pages; yields the port, and ssh.

    place: the host of the pages, and their address and port there
    wanted: a port; without it the pages' own where that is free, else any
    """
    host, address, port = place
    local = wanted or (port if can_listen(port) else _free_port())
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
        yield local, tunnel
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
