"""Pebble, a certificate authority for tests of ACME: https://github.com/letsencrypt/pebble."""

from __future__ import annotations

from pathlib import Path

from vmesh.artifacts import golang
from vmesh.artifacts.archives import Member, write_archive
from vmesh.artifacts.cache import Artifact, Slot
from vmesh.artifacts.golang import Program
from vmesh.artifacts.pins import Pins
from vmesh.base.progress import Progress

_BUILD_BYTES = 500_000_000


def slot(pins: Pins, arch: str) -> Slot:
    """Return Pebble's place in the cache."""
    return Slot("programs", "pebble", pins.pebble.version, arch)


def build(pins: Pins, arch: str, scratch: Path, entry: Path, progress: Progress) -> Artifact:
    """Build Pebble from the modules that artifacts/pebble/go.sum pins."""
    module, version = pins.pebble.module, pins.pebble.version
    program = Program(
        title=f"Pebble {version}",
        package=f"{module}/cmd/pebble",
        modules=(module,),
        scratch_bytes=_BUILD_BYTES,
        takes="half a minute",
        pinned="pebble",
        go_minimum=pins.pebble.go_minimum,
    )
    built = golang.build(program, pins, arch, scratch, progress)
    source = built.source(module, pins.pebble.module_version)
    archive = entry / f"pebble-{version}-{arch}.tar.gz"
    contents = write_archive(
        archive,
        [
            Member("bin/pebble", built.binary, executable=True),
            Member("LICENSE", source / "LICENSE"),
        ],
    )
    origin = f"built from {module} {pins.pebble.module_version} with Go {built.go_version}"
    return Artifact("pebble", version, arch, archive, "", contents, origin=origin)
