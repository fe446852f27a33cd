"""Go programs that no mesh needs: they are built when a play or a test asks for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vmesh.artifacts import golang
from vmesh.artifacts.archives import Member, write_archive
from vmesh.artifacts.cache import Artifact, Slot
from vmesh.artifacts.pins import Pins
from vmesh.base.progress import Progress


@dataclass(frozen=True)
class Described:
    """How a program is built and packed.

    module_version: of the module that has the program
    licenses: files of the module that go along
    """

    version: str
    module_version: str
    program: golang.Program
    licenses: tuple[str, ...]


def _hotrod(pins: Pins) -> Described:
    """Jaeger's example application: in Jaeger's own module, so its pins are Jaeger's."""
    module, version = pins.jaeger.module, pins.jaeger.version
    program = golang.Program(
        title=f"HotROD {version}",
        package=f"{module}/examples/hotrod",
        modules=(module,),
        scratch_bytes=1_000_000_000,
        takes="about a minute",
    )
    return Described(version, pins.jaeger.module_version, program, ("LICENSE", "NOTICE"))


def _pebble(pins: Pins) -> Described:
    """A certificate authority for tests of ACME: https://github.com/letsencrypt/pebble."""
    module, version = pins.pebble.module, pins.pebble.version
    program = golang.Program(
        title=f"Pebble {version}",
        package=f"{module}/cmd/pebble",
        modules=(module,),
        scratch_bytes=500_000_000,
        takes="half a minute",
        pinned="pebble",
        go_minimum=pins.pebble.go_minimum,
    )
    return Described(version, pins.pebble.module_version, program, ("LICENSE",))


PROGRAMS: Mapping[str, Callable[[Pins], Described]] = {"hotrod": _hotrod, "pebble": _pebble}


def slot(name: str, pins: Pins, arch: str) -> Slot:
    """Return the place of a program in the cache; `name` is one of PROGRAMS."""
    return Slot("programs", name, PROGRAMS[name](pins).version, arch)


def build(  # noqa: PLR0913, PLR0917 - what, and where
    name: str, pins: Pins, arch: str, scratch: Path, entry: Path, progress: Progress
) -> Artifact:
    """Build a program, one of PROGRAMS, from the modules that are pinned for it."""
    described = PROGRAMS[name](pins)
    version, (module,) = described.version, described.program.modules
    built = golang.build(described.program, pins, arch, scratch, progress)
    source = built.source(module, described.module_version)
    archive = entry / f"{name}-{version}-{arch}.tar.gz"
    contents = write_archive(
        archive,
        [
            Member(f"bin/{name}", built.binary, executable=True),
            *(Member(each, source / each) for each in described.licenses),
        ],
    )
    origin = f"built from {module} {described.module_version} with Go {built.go_version}"
    return Artifact(name, version, arch, archive, "", contents, origin=origin)
