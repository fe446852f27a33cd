"""What of an app's folder goes to the VMs, and what is refused: by the bundle and by validate."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.mesh.test_sources import checked
from vmesh.artifacts import ArtifactError, app_folder, bundles

LOCKED = "flask==3.1.0 --hash=sha256:1\ngunicorn==23.0.0 \\\n    --hash=sha256:2\n    # via shop\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "shop"
    made.mkdir()
    write(made, "app.py", "requirements.txt")
    (made / "requirements.txt").write_text(LOCKED)
    return made


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")


def taken(folder: Path) -> set[str]:
    """Return what goes to the VMs beside the app itself."""
    found = app_folder.look(folder)
    assert found.refusals == ()
    return set(found.files) - {"app.py", "requirements.txt"}


def test_what_only_a_controller_needs_stays_there(folder: Path) -> None:
    write(
        folder,
        ".git/config",
        ".venv/bin/python",
        ".env",
        "pages/.hidden",
        "__pycache__/a.pyc",
        "pages/__pycache__/b.pyc",
        "c.pyc",
        "d.pyo",
        "node_modules/x.js",
        "pages/node_modules/y.js",
        "venv/lib/z.py",
        "pages/venv/z.py",
        "tests/test_app.py",
        "test/test_app.py",
        "my-env/pyvenv.cfg",
        "my-env/lib/site.py",
    )
    (folder / "venv" / "python").symlink_to("/usr/bin/python3")
    (folder / "my-env" / "python").symlink_to("/usr/bin/python3")
    write(folder, "pages/index.html", "pages/tests/kept.py", "env/kept.py", "test.py", "venv.py")
    kept = {"pages/index.html", "pages/tests/kept.py", "env/kept.py", "test.py", "venv.py"}
    assert taken(folder) == kept


def test_a_users_patterns_come_after_the_defaults(folder: Path) -> None:
    write(
        folder,
        ".well-known/security.txt",
        ".git/config",
        "tests/a.py",
        "data/big.bin",
        "data/small.bin",
        "docs/a.md",
        "pages/docs/b.md",
        "notes.txt",
        "#odd",
    )
    (folder / ".vmeshignore").write_text(
        "# a comment\n\n!.well-known/\n!/tests/\n/docs/\n*.bin\n!small.bin\nnotes.*\n\\#odd\n"
    )
    assert taken(folder) == {
        ".well-known/security.txt",
        "tests/a.py",
        "data/small.bin",
        "pages/docs/b.md",
    }


def test_patterns_that_leave_nothing_out_are_no_new_release(folder: Path) -> None:
    before = bundles.version(folder, "3.11", "x86_64")
    write(folder, "notes.txt")
    (folder / ".vmeshignore").write_text("notes.txt\n")
    assert bundles.version(folder, "3.11", "x86_64") == before


def _link(name: str, target: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        write(folder, "pages/index.html")
        (folder / name).symlink_to(target)

    return make


def _put(name: str, content: bytes) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return make


def _ignore(content: bytes) -> Callable[[Path], None]:
    return _put(".vmeshignore", content)


def _ignore_folder(folder: Path) -> None:
    (folder / ".vmeshignore").mkdir()


def _lock(content: bytes) -> Callable[[Path], None]:
    return _put("requirements.txt", content)


def _odd_name(folder: Path) -> None:
    Path(os.fsdecode(bytes(folder) + b"/caf\xe9")).touch()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_link("secret", "/etc/hostname"), "shop/secret is a link out of the service's folder"),
        (_link("pages/up", "../.."), "shop/pages/up is a link out of the service's folder"),
        (_link("pages/gone", "nowhere"), "shop/pages/gone is a link to nothing"),
        (_link("pages/loop", ".."), "shop/pages/loop is a link to a folder that it is in"),
        (_link("pages/self", "self"), "shop/pages/self is a link to nothing"),
        (_odd_name, "shop/caf\\udce9 has a name that is no UTF-8"),
        (_ignore(b"a\n[z-a]\n"), "has a .vmeshignore whose line 2, `[z-a]`, is no pattern"),
        (_ignore(b"!\n"), "has a .vmeshignore whose line 1, `!`, is no pattern"),
        (_ignore(b"\xff\xfe"), "has a .vmeshignore that cannot be read"),
        (_ignore_folder, "has a .vmeshignore that cannot be read"),
        (_link(".vmeshignore", "nowhere"), "has a .vmeshignore that cannot be read"),
        (
            _lock(b"gunicorn==1 --hash=sha256:1\nflask==3\njinja2==3\n"),
            "with libraries without hashes: flask==3, jinja2==3",
        ),
        (_lock(b"gunicorn==1 --hash=sha256:1\n-e ./shop\n"), "without hashes: -e ./shop"),
        (_lock(b"gunicorn-extras==1 --hash=sha256:1\n"), "without gunicorn"),
        (_lock(b"\xff"), "has no requirements.txt that can be read"),
        (lambda folder: (folder / "requirements.txt").unlink(), "has no requirements.txt"),
    ],
)
def test_what_the_bundle_refuses_validate_tells(
    folder: Path, spoil: Callable[[Path], None], told: str
) -> None:
    spoil(folder)
    with pytest.raises(ArtifactError) as refused:
        bundles.version(folder, "3.11", "x86_64")
    assert told in refused.value.message
    (problem,) = checked({"flask": str(folder)})
    assert problem.variable == "mesh_services.shop.app.flask"
    assert told in problem.message
    assert problem.remedy == refused.value.remedy


def test_what_is_refused_can_be_left_out(folder: Path) -> None:
    (folder / "secret").symlink_to("/etc/hostname")
    (folder / ".vmeshignore").write_text("/secret\n")
    assert taken(folder) == set()
    assert checked({"flask": str(folder)}) == []


def test_links_inside_the_folder_are_followed(folder: Path) -> None:
    write(folder, "pages/index.html")
    (folder / "site").symlink_to("pages")
    (folder / "start.html").symlink_to("pages/index.html")
    assert taken(folder) == {"pages/index.html", "site/index.html", "start.html"}


def test_folders_that_link_to_each_other_are_refused(folder: Path) -> None:
    write(folder, "a/x", "b/y")
    (folder / "a" / "b").symlink_to("../b")
    (folder / "b" / "a").symlink_to("../a")
    told = {refusal.message.partition("shop/")[2] for refusal in app_folder.look(folder).refusals}
    what = "is a link to a folder that it is in"
    assert told == {f"a/b/a {what}", f"b/a/b {what}"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("name", ["pages/index.html", "pages"])
def test_what_cannot_be_read_is_refused(folder: Path, name: str) -> None:
    write(folder, "pages/index.html")
    (folder / name).chmod(0)
    try:
        (refusal,) = app_folder.look(folder).refusals
    finally:
        (folder / name).chmod(0o700)
    assert f"shop/{name} cannot be read" in refusal.message
