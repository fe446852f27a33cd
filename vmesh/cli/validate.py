"""`./mesh validate`: everything that is wrong with an inventory."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from vmesh.artifacts.sources import check_sources
from vmesh.base.exits import FAILED, OK
from vmesh.base.problems import ERROR, Problem, Problems, errors
from vmesh.base.progress import Plain
from vmesh.cli import named, problem_list, supplies
from vmesh.compile.host_spec import MeshSpec
from vmesh.remote.mesh import read
from vmesh.render.renderer import write_files
from vmesh.render.validate import validate_all


def run(arguments: argparse.Namespace) -> int:
    """Look at the inventory, at what it names, and with Envoy at what is made of it.

    Prints all problems and warnings; only a problem makes it fail.
    """
    try:
        spec = read(*arguments.inventory).spec
        found = [*spec.warnings, *_beyond(spec, ask_envoy=not arguments.no_envoy)]
    except Problems as problems:
        found = list(problems.items)
    failed = any(problem.severity == ERROR for problem in found)
    if arguments.json:
        print(json.dumps([asdict(problem) for problem in found], indent=2, default=str))
        return FAILED if failed else OK
    if found:
        print(problem_list(found), file=sys.stderr)
    if not failed:
        print(f"{named(arguments.inventory)}: no problem found")
    return FAILED if failed else OK


def _beyond(spec: MeshSpec, *, ask_envoy: bool) -> Iterator[Problem]:
    """Yield what compile cannot see: files that are not there, what Envoy refuses."""
    sources = check_sources(spec)
    yield from sources
    # Certificates and keys are part of what Envoy would be shown, and one must know which Envoy.
    files = {"ca_file", "directory_ca_file", "certificate", "jwks_file", "jwks_ca_file"}
    unknown = {*files, "mesh_envoy_version"}
    wrong = {each.variable.rpartition(".")[2] for each in errors(sources)}
    if not ask_envoy or wrong & unknown:
        return
    envoy = supplies.provide_envoy(Plain(), spec.mesh.envoy_version)
    with tempfile.TemporaryDirectory(prefix="vmesh-") as folder:
        yield from validate_all(envoy, write_files(spec, Path(folder)))
