"""`./mesh bench`: measure on VMs of its own what is promised, so that anybody can."""

from __future__ import annotations

import argparse

from vmesh.base.exits import FAILED, OK, USAGE, CliError
from vmesh.cli import named


def run(arguments: argparse.Namespace) -> int:
    """Measure, and tell whether all went as it must."""
    if len(arguments.inventory) > 1:
        raise CliError(
            "bench lays its changes over one inventory, not over several"
            f" ({named(arguments.inventory)}). Name one with -i.",
            USAGE,
        )
    (arguments.inventory,) = arguments.inventory
    from bench import change  # noqa: PLC0415 - what it imports is not for --help

    return OK if change.run(arguments) else FAILED
