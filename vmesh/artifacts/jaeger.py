"""Jaeger: an official archive that the user names, or built from its pinned source."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vmesh.artifacts import download, golang
from vmesh.artifacts.archives import Member, write_archive
from vmesh.artifacts.cache import Artifact, Slot
from vmesh.artifacts.errors import ArtifactError
from vmesh.artifacts.golang import Program
from vmesh.artifacts.pins import Pins
from vmesh.base import paths
from vmesh.base.progress import Progress

_SHA256 = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"\b(\d+\.\d+\.\d+)\b")
# The machine field of an ELF header.
_ELF_MACHINES = {62: "x86_64", 183: "aarch64"}
_BUILD_BYTES = 4_000_000_000


@dataclass(frozen=True)
class JaegerRelease:
    """An official release archive that the user names: a path or URL, and its SHA-256."""

    source: str
    sha256: str

    @classmethod
    def named(cls, source: str, sha256: str, base: Path) -> JaegerRelease:
        """Check what the user wrote; a relative path is taken from `base`.

        Raises ArtifactError when the hash is no SHA-256.
        """
        lower = str(sha256).strip().lower()
        if not _SHA256.fullmatch(lower):
            raise ArtifactError(
                f"The SHA-256 of the Jaeger archive, {json.dumps(sha256, default=str)}, is not"
                " one: it has 64 hexadecimal digits",
                "Take it from the release's checksum file",
            )
        is_url = download.is_url(source)
        return cls(source if is_url else str(base / Path(source).expanduser()), lower)

    @classmethod
    def from_variable(cls, value: object) -> JaegerRelease | None:
        """Read the inventory's `jaeger_release`: {path or url, sha256}; None when unset.

        A relative path is taken from the project's folder. Raises ArtifactError.
        """
        if not value:
            return None
        keys = set(value) if isinstance(value, Mapping) else set()
        if not isinstance(value, Mapping) or keys not in ({"path", "sha256"}, {"url", "sha256"}):
            raise ArtifactError(
                f"jaeger_release = {json.dumps(value, default=str)} is not understood",
                "Write `jaeger_release: {url: ..., sha256: ...}`, or with `path` for `url`",
            )
        return cls.named(str(value.get("url") or value["path"]), value["sha256"], paths.PROJECT)


def slot(pins: Pins, arch: str, release: JaegerRelease | None = None) -> Slot:
    """Return Jaeger's place in the cache."""
    if release is None:
        return Slot("artifacts", "jaeger", pins.jaeger.version, arch)
    return Slot("artifacts", "jaeger", f"named-{release.sha256[:16]}", arch, " -i INVENTORY")


def build(pins: Pins, arch: str, scratch: Path, entry: Path, progress: Progress) -> Artifact:
    """Build Jaeger from the modules that artifacts/jaeger/go.sum pins, with its web pages."""
    module, version = pins.jaeger.module, pins.jaeger.version
    program = Program(
        title=f"Jaeger {version}",
        package=f"{module}/cmd/jaeger",
        modules=(module, pins.jaeger.ui_module),
        linked=f"-X {module}/internal/version.latestVersion=v{version}",
        scratch_bytes=_BUILD_BYTES,
        takes="some minutes",
        instead=f"name an official archive (`{paths.COMMAND} fetch --help`)",
    )
    built = golang.build(program, pins, arch, scratch, progress)
    source = built.source(module, pins.jaeger.module_version)
    pages = built.source(pins.jaeger.ui_module, pins.jaeger.ui_module_version)
    progress.step(f"packing {program.title}")
    archive = entry / f"jaeger-{pins.jaeger.version}-{arch}.tar.gz"
    contents = write_archive(
        archive,
        [
            Member("bin/jaeger", built.binary, executable=True),
            Member("LICENSE", source / "LICENSE"),
            Member("NOTICE", source / "NOTICE"),
            Member("LICENSE.ui-module", pages / "LICENSE"),
            *web_pages(pages / "public"),
        ],
    )
    origin = f"built from {module} {pins.jaeger.module_version} with Go {built.go_version}"
    return Artifact("jaeger", pins.jaeger.version, arch, archive, "", contents, origin=origin)


def web_pages(public: Path) -> list[Member]:
    """Return the files of Jaeger's UI as members below `ui/`; the module keeps them gzipped."""
    return [
        Member(f"ui/{file.relative_to(public)}", gzip.decompress(file.read_bytes()))
        for file in sorted(public.rglob("*"))
        if file.is_file()
    ]


def repack(
    release: JaegerRelease, arch: str, scratch: Path, entry: Path, progress: Progress
) -> Artifact:
    """Make vmesh's release archive from the official one that the user named.

    Raises ArtifactError when it cannot be had, does not match its hash, or is not
    an archive of Jaeger 2 for `arch`. An official binary carries its web pages, so
    the result has no `ui`.
    """
    named = download.fetch_named(release.source, release.sha256, scratch, progress)
    binary = scratch / "jaeger-binary"
    progress.step(f"repacking {named.name}")
    try:
        with tarfile.open(named) as tar:
            member = _binary_member(tar, release)
            source = tar.extractfile(member)
            assert source is not None  # a regular file
            with source, binary.open("wb") as target:
                shutil.copyfileobj(source, target)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise _not_jaeger(release, f"it cannot be unpacked ({error})") from error
    if (machine := _elf_machine(binary)) != arch:
        raise _not_jaeger(release, f"its `jaeger` is for {machine}, wanted is {arch}")
    found = _VERSION.search(f"{member.name} {named.name}")
    if found is None or not found[1].startswith("2."):
        raise _not_jaeger(release, "neither its name nor its folder says that it is a version 2")
    # Another build of the same version must get a release folder of its own on the VMs.
    version = f"{found[1]}-{release.sha256[:8]}"
    archive = entry / f"jaeger-{version}-{arch}.tar.gz"
    contents = write_archive(
        archive,
        [
            Member("bin/jaeger", binary, executable=True),
            Member("LICENSE", paths.DATA / "LICENSE"),
        ],
    )
    return Artifact(
        "jaeger", version, arch, archive, "", contents, origin=f"named archive {release.source}"
    )


def _binary_member(tar: tarfile.TarFile, release: JaegerRelease) -> tarfile.TarInfo:
    members = [m for m in tar if m.isfile() and Path(m.name).name == "jaeger"]
    if len(members) != 1:
        raise _not_jaeger(release, f"it holds {len(members)} files named `jaeger`, not one")
    return members[0]


def _elf_machine(path: Path) -> str:
    with path.open("rb") as file:
        header = file.read(20)
    if header[:4] != b"\x7fELF" or len(header) < 20:
        return "no Linux machine"
    number = int.from_bytes(header[18:20], "little")
    return _ELF_MACHINES.get(number, f"ELF machine {number}")


def _not_jaeger(release: JaegerRelease, reason: str) -> ArtifactError:
    return ArtifactError(
        f"{release.source} is not an official archive of Jaeger 2: {reason}. Nothing was installed",
        "Name the archive of the project's release, jaeger-<version>-linux-<arch>.tar.gz",
    )
