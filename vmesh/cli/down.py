"""`./mesh down`: stop the lab."""

from __future__ import annotations

import argparse

from vmesh.base.exits import OK, USAGE, CliError
from vmesh.base.progress import Steps, new_log
from vmesh.cli import named
from vmesh.model.inventory import LAB_GROUP, load
from vmesh.rollout import record


def run(arguments: argparse.Namespace) -> int:
    """Stop the lab's VMs, and with --purge remove their disks. Refuses without a lab."""
    # A wrong mesh must not keep anyone from stopping its VMs: nothing is compiled here.
    inventory = load(*arguments.inventory)
    if not inventory.lab:
        raise CliError(
            f"{named(arguments.inventory)} has no group `{LAB_GROUP}`: its VMs are not vmesh's to"
            " stop.",
            USAGE,
        )
    from vmesh.lab import Lab  # noqa: PLC0415 - only where there is a lab

    steps = Steps(1, new_log("down"))
    what = "stopping the VMs and removing their disks" if arguments.purge else "stopping the VMs"
    with steps.phase("down", what):
        Lab.from_inventory(inventory).down(steps, purge=arguments.purge)
        if arguments.purge:
            # What was applied went with the disks.
            record.forget(record.folder(*arguments.inventory), inventory.lab)
    return OK
