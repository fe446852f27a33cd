"""`./mesh bench`: measure on VMs of its own what is promised, so that anybody can."""

from __future__ import annotations

import argparse

from vmesh.cli import FAILED, OK


def run(arguments: argparse.Namespace) -> int:
    """Measure, and tell whether all went as it must."""
    from bench import change  # noqa: PLC0415 - what it imports is not for --help

    return OK if change.run(arguments) else FAILED
