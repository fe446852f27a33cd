"""`./mesh fetch`: the artifacts into the cache, so that later runs need no network."""

from __future__ import annotations

import argparse

from vmesh import artifacts
from vmesh.cli import OK, USAGE, CliError, packages, supplies
from vmesh.progress import Steps, new_log


def run(arguments: argparse.Namespace) -> int:
    """Make or fetch Envoy and Jaeger, or take Jaeger from the archive the user names."""
    if bool(arguments.jaeger_archive) != bool(arguments.jaeger_sha256):
        raise CliError("--jaeger-archive and --jaeger-sha256 belong together", USAGE)
    steps = Steps(1, new_log("fetch"))
    with steps.phase("artifacts", f"seeing to Envoy and Jaeger for {arguments.arch}"):
        packages.install(supplies.packages_for_making(), steps, no_install=arguments.no_install)
        if arguments.jaeger_archive:
            release = supplies.named_archive(arguments.jaeger_archive, arguments.jaeger_sha256)
            artifacts.adopt_jaeger(release, arch=arguments.arch, progress=steps)
        found = artifacts.ensure(
            None, arch=arguments.arch, progress=steps, envoy_version=arguments.envoy_version
        )
    for artifact in found.values():
        print(f"{artifact.name} {artifact.version} {artifact.arch}  {artifact.path}")
    return OK
