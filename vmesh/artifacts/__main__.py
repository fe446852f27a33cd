"""`python -m vmesh.artifacts`: fill the cache, or show what it holds."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vmesh import artifacts
from vmesh.progress import Plain


def main(arguments: list[str] | None = None) -> int:
    """Make or fetch the artifacts named on the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m vmesh.artifacts", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="envoy, jaeger; default: both")
    parser.add_argument("--arch", choices=artifacts.ARCHITECTURES, default="x86_64")
    parser.add_argument("--offline", action="store_true", help="do not use the network")
    parser.add_argument("--jaeger-archive", metavar="PATH|URL", help="use this official archive")
    parser.add_argument("--jaeger-sha256", metavar="HEX", help="its SHA-256")
    options = parser.parse_args(arguments)
    if bool(options.jaeger_archive) != bool(options.jaeger_sha256):
        parser.error("--jaeger-archive and --jaeger-sha256 belong together")
    progress = Plain()
    try:
        if options.jaeger_archive:
            release = artifacts.JaegerRelease.named(
                options.jaeger_archive, options.jaeger_sha256, Path.cwd()
            )
            artifacts.adopt_jaeger(release, arch=options.arch, progress=progress)
        found = artifacts.ensure(
            options.names or None, arch=options.arch, offline=options.offline, progress=progress
        )
    except artifacts.ArtifactError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    for artifact in found.values():
        print(f"{artifact.name} {artifact.version} {artifact.arch}: {artifact.path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
