"""HotROD, Jaeger's example application: in Jaeger's own module, so its pins are Jaeger's."""

from __future__ import annotations

from pathlib import Path

from vmesh.artifacts import golang
from vmesh.artifacts.archives import Member, write_archive
from vmesh.artifacts.cache import Artifact, Slot
from vmesh.artifacts.golang import Program
from vmesh.artifacts.pins import Pins
from vmesh.base.progress import Progress

_BUILD_BYTES = 1_000_000_000


def slot(pins: Pins, arch: str) -> Slot:
    """Return HotROD's place in the cache; its version is that of its Jaeger."""
    return Slot("programs", "hotrod", pins.jaeger.version, arch)


def build(pins: Pins, arch: str, scratch: Path, entry: Path, progress: Progress) -> Artifact:
    """Build HotROD from the modules that artifacts/jaeger/go.sum pins."""
    module, version = pins.jaeger.module, pins.jaeger.version
    program = Program(
        title=f"HotROD {version}",
        package=f"{module}/examples/hotrod",
        modules=(module,),
        scratch_bytes=_BUILD_BYTES,
        takes="about a minute",
    )
    built = golang.build(program, pins, arch, scratch, progress)
    source = built.source(module, pins.jaeger.module_version)
    archive = entry / f"hotrod-{version}-{arch}.tar.gz"
    contents = write_archive(
        archive,
        [
            Member("bin/hotrod", built.binary, executable=True),
            Member("LICENSE", source / "LICENSE"),
            Member("NOTICE", source / "NOTICE"),
        ],
    )
    origin = f"built from {module} {pins.jaeger.module_version} with Go {built.go_version}"
    return Artifact("hotrod", version, arch, archive, "", contents, origin=origin)
