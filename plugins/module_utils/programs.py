# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""The programs of the host kit: the first word of the command line is a program's name.

A program that goes on for minutes imports all that it needs when it starts, because its release
of the kit may be removed meanwhile.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

# The module of each program, which has `main(arguments) -> exit status`.
PROGRAMS = {
    "envoy-control": "envoy_control",
    "flask-control": "flask_takeover",
    "leave": "leave",
    "vmesh-acme": "vmesh_acme",
    "vmesh-certs": "vmesh_certs",
}


def main(arguments: Sequence[str]) -> int:
    """Run the program that the command line names; return its exit status."""
    name = "".join(arguments[:1])
    if name in PROGRAMS:
        # Only this one: a start of Envoy waits for each import.
        module = importlib.import_module(f".{PROGRAMS[name]}", __package__)
        return int(module.main(arguments[1:]))
    asked = name in {"-h", "--help"}
    usage = f"usage: vmesh-host.pyz {{{','.join(PROGRAMS)}}} ARGUMENT..."
    print(usage, file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2
