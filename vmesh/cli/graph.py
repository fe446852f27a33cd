"""`./mesh graph`: the topology as a picture, SVG or Mermaid text."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from vmesh.base.exits import FAILED, OK, USAGE, CliError
from vmesh.base.progress import Steps, new_log
from vmesh.cli import packages
from vmesh.cli.output.graph import Picture, dot, mermaid, picture
from vmesh.compile.topology import topology
from vmesh.remote.mesh import read
from vmesh.rollout.description import shown
from vmesh.rollout.record_secrets import Secrets

GRAPHVIZ = (("dot", "graphviz"),)
FORMATS = {
    ".svg": "svg",
    ".md": "markdown",
    ".mmd": "mermaid",
    ".mermaid": "mermaid",
    ".dot": "dot",
}
SECONDS = 300  # for the largest meshes


def run(arguments: argparse.Namespace) -> int:
    """Draw the inventory to standard output or into a file."""
    output: Path | None = arguments.output
    wanted = arguments.format or chosen(output)
    mesh = read(*arguments.inventory)
    hidden = Secrets.of(mesh.inventory)
    hosts = {host: shown(spec, hidden) for host, spec in mesh.spec.hosts.items()}
    drawn = picture(topology(hosts))
    if wanted == "svg":
        packages.install(
            packages.missing(GRAPHVIZ), Steps(1, new_log("graph")), no_install=arguments.no_install
        )
        text = svg(drawn)
    elif wanted == "dot":
        text = dot(drawn)
    else:
        text = mermaid(drawn)
        if wanted == "markdown":
            text = f"```mermaid\n{text}```\n"
    if output is None:
        sys.stdout.write(text)
        return OK
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CliError(f"{output} cannot be written: {error.strerror}", USAGE) from error
    print(f"{output}: {len(drawn.nodes)} nodes, {len(drawn.arrows)} arrows", file=sys.stderr)
    return OK


def chosen(output: Path | None) -> str:
    """Return the format that a file's name asks for; Mermaid text without a file.

    Raises CliError when the name says nothing.
    """
    if output is None:
        return "mermaid"
    try:
        return FORMATS[output.suffix]
    except KeyError:
        raise CliError(
            f"{output}: its name does not tell the format. End it with one of"
            f" {', '.join(FORMATS)}, or add --format",
            USAGE,
        ) from None


def svg(drawn: Picture) -> str:
    """Return the picture as SVG. Raises CliError when Graphviz fails."""
    try:
        done = subprocess.run(
            ["dot", "-Tsvg"],
            input=dot(drawn),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CliError(f"Graphviz has not finished after {SECONDS} s", FAILED) from None
    if done.returncode != 0:
        raise CliError(f"Graphviz failed: {done.stderr.strip()}", FAILED)
    return done.stdout
