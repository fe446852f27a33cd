"""Bundles: what is in them, what changes them, and that they are made once."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.artifacts.conftest import Recorded, make_wheel
from vmesh import artifacts
from vmesh.artifacts import ArtifactError, bundles

THIS = f"{sys.version_info.major}.{sys.version_info.minor}"
OTHER = "3.12" if THIS != "3.12" else "3.13"
GUNICORN = {"gunicorn/__init__.py": b"value = 1\n", "gunicorn/broken.py": b"this is no Python\n"}


def lock(wheel: Path) -> str:
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    project, version = wheel.name.split("-")[:2]
    return f"{project}=={version} --hash=sha256:{digest}\n"


@pytest.fixture
def service(tmp_path: Path, index: Path) -> Path:
    """A service whose only library is a stand-in for gunicorn."""
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "app.py").write_text("app = None\n")
    (folder / "requirements.txt").write_text(
        lock(make_wheel(index, "gunicorn", "1.0", "any", GUNICORN))
    )
    return folder


def names(path: Path) -> list[str]:
    with tarfile.open(path) as tar:
        return [member.name for member in tar if member.isfile()]


def test_a_bundle_holds_the_app_its_libraries_and_meshtrace(
    service: Path, progress: Recorded
) -> None:
    for unwanted in (".env", "tests/test_app.py", "sub/.hidden", "sub/__pycache__/x.pyc", "y.pyc"):
        (service / unwanted).parent.mkdir(parents=True, exist_ok=True)
        (service / unwanted).write_text("unwanted")
    (service / "sub" / "tests").mkdir()
    (service / "sub" / "tests" / "kept.py").write_text("")
    bundle = artifacts.build_bundle(service, "shop", OTHER, "x86_64", progress)
    assert bundle.contents == ("app", "lib")
    assert not bundle.compiled
    found = names(bundle.path)
    assert [name for name in found if name.startswith("app/")] == [
        "app/app.py",
        "app/requirements.txt",
        "app/sub/tests/kept.py",
    ]
    assert "lib/gunicorn/__init__.py" in found
    assert "lib/meshtrace/gunicorn_conf.py" in found
    assert not [name for name in found if name.startswith("lib/bin/") or name.endswith(".pyc")]


def test_byte_code_is_in_it_when_this_python_is_the_hosts(
    service: Path, progress: Recorded, tmp_path: Path
) -> None:
    bundle = artifacts.build_bundle(service, "shop", THIS, "x86_64", progress)
    assert bundle.compiled
    with tarfile.open(bundle.path) as tar:
        tar.extractall(tmp_path / "vm", filter="data")
    library = tmp_path / "vm" / "lib" / "gunicorn" / "__init__.py"
    app = tmp_path / "vm" / "app" / "app.py"
    # An edit of the app on a VM counts although there is byte code.
    app.write_text("app = 'edited'\n")
    library.write_text("value = 2\n")
    values = []
    for name, path in (("bundled_library", library), ("bundled_app", app)):
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        values.append(vars(module).get("value", vars(module).get("app")))
    assert values == [1, "edited"]


def test_the_same_input_gives_the_same_bytes(
    service: Path, progress: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = artifacts.build_bundle(service, "shop", THIS, "x86_64", progress)
    elsewhere = tmp_path / "another clone" / "shop"
    shutil.copytree(service, elsewhere)
    os.utime(elsewhere / "app.py", (1, 1))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another cache"))
    second = artifacts.build_bundle(elsewhere, "shop", THIS, "x86_64", progress)
    assert second.path != first.path
    assert (second.version, second.sha256) == (first.version, first.sha256)


def test_it_is_built_once(
    service: Path, progress: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = artifacts.build_bundle(service, "shop", OTHER, "x86_64", progress)
    monkeypatch.setenv("UV_FIND_LINKS", "/nowhere")
    said = len(progress.steps)
    assert artifacts.build_bundle(service, "shop", OTHER, "x86_64", progress) == first
    assert progress.steps[said:] == []


def edit_app(service: Path) -> None:
    (service / "app.py").write_text("app = 1\n")


def edit_lock(service: Path) -> None:
    with (service / "requirements.txt").open("a") as file:
        file.write("# newer\n")


def add_file(service: Path) -> None:
    (service / "page.html").write_text("page")


def make_executable(service: Path) -> None:
    (service / "app.py").chmod(0o755)


def rename(service: Path) -> None:
    (service / "app.py").rename(service / "main.py")


@pytest.mark.parametrize("edit", [edit_app, edit_lock, add_file, make_executable, rename])
def test_a_change_of_content_is_a_new_version(service: Path, edit: Callable[[Path], None]) -> None:
    before = bundles.version(service, "3.11", "x86_64")
    edit(service)
    assert bundles.version(service, "3.11", "x86_64") != before


def test_python_architecture_and_meshtrace_are_part_of_the_version(
    service: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "meshtrace"
    shared.mkdir()
    (shared / "__init__.py").write_text("")
    versions = [bundles.version(service, "3.11", arch) for arch in artifacts.ARCHITECTURES]
    versions.append(bundles.version(service, "3.13", "x86_64"))
    monkeypatch.setattr(bundles, "SHARED", shared)
    versions.append(bundles.version(service, "3.11", "x86_64"))
    assert len(set(versions)) == 4


def test_tests_and_caches_do_not_make_a_new_version(service: Path) -> None:
    before = bundles.version(service, "3.11", "x86_64")
    for folder in ("tests", "__pycache__", ".venv"):
        (service / folder).mkdir()
        (service / folder / "file").write_text("changed")
    assert bundles.version(service, "3.11", "x86_64") == before


@pytest.mark.parametrize(
    ("requirement", "message"),
    [
        (None, r"shop has no requirements\.txt"),
        ("gunicorn==1.0\n", r"libraries without hashes: gunicorn==1\.0"),
        (f"gunicorn==1.0 --hash=sha256:{'0' * 64}\n", r"could not be installed: .*[Hh]ash"),
        (f"flask==3.0.0 --hash=sha256:{'0' * 64}\n", r"requirements\.txt without gunicorn"),
        ("", r"requirements\.txt without gunicorn"),
    ],
)
def test_a_service_that_cannot_be_bundled(
    requirement: str | None, message: str, service: Path, progress: Recorded, cache_dir: Path
) -> None:
    (service / "requirements.txt").unlink()
    if requirement is not None:
        (service / "requirements.txt").write_text(requirement)
    with pytest.raises(ArtifactError, match=message):
        artifacts.build_bundle(service, "shop", OTHER, "x86_64", progress)
    assert not list(cache_dir.rglob("*.tar.gz"))


def test_a_link_out_of_the_folder_is_refused(service: Path) -> None:
    (service / "secret").symlink_to("/etc/hostname")
    with pytest.raises(ArtifactError, match="secret is a link out of the service's folder"):
        bundles.version(service, "3.11", "x86_64")


def test_a_mirror_that_pip_is_set_to_is_used() -> None:
    listed = (
        ":env:.find-links='/opt/one /opt/two'\n"
        "global.index-url='https://mirror.example.org/simple'\n"
        "global.timeout='60'\n"
    )
    assert bundles.uv_settings(listed) == {
        "UV_FIND_LINKS": "/opt/one,/opt/two",
        "UV_DEFAULT_INDEX": "https://mirror.example.org/simple",
    }
