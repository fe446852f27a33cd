"""`./mesh validate`: everything that is wrong with an inventory."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from vmesh.cli import FAILED, OK, problem_list, supplies
from vmesh.cli.mesh import read
from vmesh.problems import Problem, Problems
from vmesh.progress import Plain
from vmesh.render import write_plan
from vmesh.validate import validate_all


def run(arguments: argparse.Namespace) -> int:
    """Compile the inventory and show the result to the real Envoy; print all problems."""
    problems: Sequence[Problem] = ()
    try:
        mesh = read(arguments.inventory)
        if not arguments.no_envoy:
            envoy = supplies.provide_envoy(Plain())
            with tempfile.TemporaryDirectory(prefix="vmesh-") as folder:
                forms = write_plan(mesh.plan, Path(folder))
                problems = validate_all(envoy, forms)
    except Problems as found:
        problems = found.items
    if arguments.json:
        print(json.dumps([asdict(problem) for problem in problems], indent=2, default=str))
    elif problems:
        print(problem_list(problems), file=sys.stderr)
    else:
        print(f"{arguments.inventory}: no problem found")
    return FAILED if problems else OK
