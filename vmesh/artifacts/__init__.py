"""What gets installed on the VMs: made or fetched once, kept in the cache, pushed from there."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vmesh.artifacts import bundles, cache, envoy, jaeger, pins, programs
from vmesh.artifacts.cache import Artifact, Slot
from vmesh.artifacts.errors import ArtifactError
from vmesh.artifacts.jaeger import JaegerRelease
from vmesh.artifacts.pins import ARCHITECTURES, Pins
from vmesh.base import paths
from vmesh.base.progress import Progress

__all__ = [
    "ARCHITECTURES",
    "NAMES",
    "PROGRAMS",
    "SYSTEM_PACKAGES",
    "Artifact",
    "ArtifactError",
    "JaegerRelease",
    "adopt_jaeger",
    "build_bundle",
    "build_program",
    "cached",
    "controller_arch",
    "ensure",
    "envoy_binary",
    "envoy_versions",
    "require",
]

NAMES = ("envoy", "jaeger")
PROGRAMS = tuple(programs.PROGRAMS)
# What the controller needs from its distribution: Go trusts the system's certificates.
SYSTEM_PACKAGES = ("ca-certificates",)


def ensure(  # noqa: PLR0913 - all but the first by keyword
    names: Sequence[str] | None = None,
    *,
    arch: str = "x86_64",
    offline: bool = False,
    progress: Progress,
    jaeger_release: JaegerRelease | None = None,
    envoy_version: str | None = None,
) -> dict[str, Artifact]:
    """Return the artifacts `names` (default: all), made or fetched where the cache lacks them.

    offline: rather fail than use the network
    jaeger_release: the archive that the inventory names, instead of building Jaeger
    envoy_version: one of the pinned versions, by default the pinned default
    Raises ArtifactError with what is missing, why, and the remedy.
    """
    committed = pins.load()
    result = {}
    for name in NAMES if names is None else names:
        slot = _slot(committed, name, arch, jaeger_release, envoy_version)
        make = _maker(committed, slot, progress, jaeger_release)
        if offline and cache.read(slot) is None:
            raise ArtifactError(
                f"{slot} is not in the cache, and the network is not to be used",
                f"{slot.remedy} once, with a network",
            )
        result[name] = cache.get_or_make(slot, progress, make)
    return result


def cached(
    name: str,
    arch: str = "x86_64",
    jaeger_release: JaegerRelease | None = None,
    envoy_version: str | None = None,
) -> Artifact | None:
    """Return an artifact if the cache has it, else None.

    Raises ArtifactError when it is damaged, after deleting it, or not pinned.
    """
    return cache.read(_slot(pins.load(), name, arch, jaeger_release, envoy_version))


def require(
    wanted: Mapping[str, Sequence[str]],
    jaeger_release: JaegerRelease | None = None,
    envoy_version: str | None = None,
) -> dict[str, dict[str, Artifact]]:
    """Return artifacts that must be in the cache: wanted[name] is a list of architectures.

    Raises ArtifactError, naming all that are missing at once.
    """
    found: dict[str, dict[str, Artifact]] = {}
    missing = []
    for name, architectures in wanted.items():
        found[name] = {}
        for arch in architectures:
            release = jaeger_release if name == "jaeger" else None
            if artifact := cached(name, arch, release, envoy_version):
                found[name][arch] = artifact
            else:
                missing.append(_slot(pins.load(), name, arch, release, envoy_version))
    if missing:
        remedies = dict.fromkeys(slot.remedy for slot in missing)
        raise ArtifactError(
            f"Not in the cache {paths.cache_dir()}: {', '.join(str(slot) for slot in missing)}",
            ". ".join(remedies),
        )
    return found


def adopt_jaeger(release: JaegerRelease, *, arch: str = "x86_64", progress: Progress) -> Artifact:
    """Put the archive the user named where the built Jaeger would be, and return it.

    For users who name it on the command line, not in their inventory. Raises
    ArtifactError when it is not the pinned version or cannot be used; what the cache
    had is kept then.
    """
    committed = pins.load()
    named = ensure(["jaeger"], arch=arch, progress=progress, jaeger_release=release)["jaeger"]
    if named.version.partition("-")[0] != committed.jaeger.version:
        raise ArtifactError(
            f"{release.source} is Jaeger {named.version.partition('-')[0]}, and vmesh is made for"
            f" {committed.jaeger.version}",
            "Name an archive of that version, or this one in the inventory's `jaeger_release`",
        )
    return cache.copy(named, jaeger.slot(committed, arch), progress)


def envoy_binary(arch: str | None = None, version: str | None = None) -> Path:
    """Return an Envoy to run on this machine (`arch` None) or to look at.

    version: one of the pinned versions, by default the pinned default
    Raises ArtifactError when the cache has none.
    """
    return envoy.binary(pins.load(), arch or controller_arch(), version)


def envoy_versions() -> tuple[str, ...]:
    """Return the versions of Envoy that are pinned, the default one first."""
    known = pins.load().envoy
    return (known.default, *(version for version in known.versions if version != known.default))


def build_bundle(source: Path, name: str, python: str, arch: str, progress: Progress) -> Artifact:
    """Return the bundle of a Flask service, made first when it is missing. See bundles.build."""
    return bundles.build(source, name, python, arch, progress)


def build_program(name: str, arch: str, progress: Progress) -> Artifact:
    """Return a program that no mesh needs, made first when it is missing.

    name: one of PROGRAMS
    Raises ArtifactError with why it cannot be had, and the remedy.
    """
    if name not in PROGRAMS:
        raise ArtifactError(f"There is no program {name}", f"Use one of {', '.join(PROGRAMS)}")
    committed = pins.load()
    slot = programs.slot(name, committed, _known(arch))

    def make(scratch: Path, entry: Path) -> Artifact:
        return programs.build(name, committed, arch, scratch, entry, progress)

    return cache.get_or_make(slot, progress, make)


def controller_arch() -> str:
    """Return this machine's architecture in the words used here."""
    machine = platform.machine()
    return {"arm64": "aarch64", "amd64": "x86_64"}.get(machine, machine)


def _slot(
    committed: Pins,
    name: str,
    arch: str,
    release: JaegerRelease | None,
    envoy_version: str | None = None,
) -> Slot:
    _known(arch)
    if name == "envoy":
        return envoy.slot(committed, arch, envoy_version)
    if name == "jaeger":
        return jaeger.slot(committed, arch, release)
    raise ArtifactError(f"There is no artifact {name}", f"Use one of {', '.join(NAMES)}")


def _known(arch: str) -> str:
    """Return an architecture that there are artifacts for; raises ArtifactError for any other."""
    if arch not in ARCHITECTURES:
        raise ArtifactError(f"{arch} is not supported", f"Use one of {', '.join(ARCHITECTURES)}")
    return arch


def _maker(
    committed: Pins, slot: Slot, progress: Progress, release: JaegerRelease | None
) -> Callable[[Path, Path], Artifact]:
    def make(scratch: Path, entry: Path) -> Artifact:
        if slot.name == "envoy":
            wanted = committed.envoy.release(slot.version)
            return envoy.make(wanted, slot.arch, scratch, entry, progress)
        if release:
            return jaeger.repack(release, slot.arch, scratch, entry, progress)
        return jaeger.build(committed, slot.arch, scratch, entry, progress)

    return make
