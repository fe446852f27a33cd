"""`./mesh render DIR`: every proxy's configuration, without a VM."""

from __future__ import annotations

import argparse
from pathlib import Path

from vmesh.base import paths
from vmesh.base.exits import OK, USAGE, CliError
from vmesh.remote.mesh import read
from vmesh.render.renderer import write_files
from vmesh.render.static_form import STATIC_SUFFIX


def run(arguments: argparse.Namespace) -> int:
    """Write <host>/<proxy>/ folders and, beside each, its static form."""
    check_target(arguments.dir)
    spec = read(*arguments.inventory).spec
    try:
        forms = write_files(spec, arguments.dir)
    except OSError as error:
        raise CliError(f"{arguments.dir} cannot be written: {error.strerror}", USAGE) from error
    print(f"{len(forms)} proxies written to {arguments.dir}")
    return OK


def check_target(folder: Path) -> None:
    """Refuse a folder that holds anything but an earlier rendering: that would be deleted.

    Raises CliError.
    """
    if folder.exists() and not folder.is_dir():
        raise CliError(f"{folder} is not a folder", USAGE)
    if folder == paths.PROJECT / "build" or not folder.is_dir():
        return
    for host in folder.iterdir():
        if not host.is_dir() or not any(host.glob(f"*{STATIC_SUFFIX}")):
            raise CliError(
                f"{folder} holds {host.name}, which no rendering made, and a rendering removes"
                " what it did not write. Name an empty or a new folder.",
                USAGE,
            )
