"""Folders and files that the inventory names are looked at before any host is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vmesh.artifacts.sources import check_sources
from vmesh.base import paths
from vmesh.base.problems import Problem
from vmesh.compile.compiler import compile_mesh
from vmesh.model.inventory import Inventory

JWKS = paths.PROJECT / "tests" / "corpus" / "jwks.json"
CERTIFICATE = paths.PROJECT / "tests" / "corpus" / "ca.pem"


def checked(app: dict[str, Any], tls: dict[str, Any] | None = None) -> list[Problem]:
    bank = {"host": "bank.example.com", "port": 443, "tls": tls or {}}
    mesh = {
        "mesh_services": {"shop": {"port": 9001, "app": app, "calls": {"bank": bank}}},
        "mesh_tracing": {"group": "shop"},
    }
    hosts = {"shop": {"ansible_host": "10.0.0.1"}}
    return check_sources(compile_mesh(Inventory(Path("inventory"), {}, hosts, mesh)))


def checked_edge(edge: dict[str, Any], tracing: dict[str, Any]) -> list[Problem]:
    """Return what is said of an edge with these keys, in front of a service."""
    mesh = {
        "mesh_services": {"shop": {"port": 9001, "app": {"external": "127.0.0.1:7001"}}},
        "mesh_edges": {"front": {"group": "shop", "port": 8000, **edge}},
        "mesh_tracing": tracing,
    }
    hosts = {"shop": {"ansible_host": "10.0.0.1"}}
    return check_sources(compile_mesh(Inventory(Path("inventory"), {}, hosts, mesh)))


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "app.py").write_text("")
    (folder / "requirements.txt").write_text(
        "flask==3.1.0 --hash=sha256:x\ngunicorn==23.0.0 \\\n  --hash=sha256:x\n"
    )
    return folder


def only(problems: list[Problem]) -> tuple[str, str]:
    (problem,) = problems
    assert problem.remedy
    return problem.variable, problem.message


def test_nothing_is_said_of_an_app_as_it_should_be(app: Path) -> None:
    assert checked({"flask": str(app)}, {"ca_file": str(CERTIFICATE)}) == []


def test_a_relative_path_begins_at_the_project() -> None:
    assert checked({"flask": "services/service1"}, {"ca_file": "tests/corpus/ca.pem"}) == []


def test_an_app_that_is_not_there_is_told_with_where_it_was_looked_for(tmp_path: Path) -> None:
    (problem,) = checked({"flask": "services/nothing"})
    assert (problem.variable, problem.value) == ("mesh_services.shop.app.flask", "services/nothing")
    assert problem.message == "is not there"
    assert str(paths.PROJECT) in problem.remedy
    (tmp_path / "file").touch()
    assert only(checked({"flask": str(tmp_path / "file")}))[1] == "is not a folder"


def test_an_app_without_its_module_is_told(app: Path) -> None:
    (app / "app.py").unlink()
    variable, message = only(checked({"flask": str(app)}))
    assert variable == "mesh_services.shop.app.wsgi"
    assert "there is no app.py" in message


@pytest.mark.parametrize("file", ["shop/web.py", "shop/web/__init__.py"])
def test_a_module_may_be_in_a_package(app: Path, file: str) -> None:
    (app / file).parent.mkdir(parents=True)
    (app / file).touch()
    assert checked({"flask": str(app), "wsgi": "shop.web:app"}) == []


@pytest.mark.parametrize(
    ("wsgi", "told"),
    [
        ("app:create_app('it', 1)", None),
        ("app:app", None),
        ("app:imported", None),
        ("app:application", None),
        ("app:generous", None),
        ("app:create_app", "is a function in app.py and no WSGI app"),
        ("app:make", "is a function in app.py and no WSGI app"),
        ("shop:create_app()", "there is no shop.py"),
    ],
)
def test_a_factory_is_called_and_an_app_is_not(app: Path, wsgi: str, told: str | None) -> None:
    (app / "app.py").write_text(
        "from elsewhere import imported\n"
        "def create_app(name='x', size=1, *more): ...\n"
        "def make(): ...\n"
        "def application(environ, start_response): ...\n"
        "def generous(*arguments): ...\n"
        "def app(): ...\n"
        "app = application\n"
    )
    problems = checked({"flask": str(app), "wsgi": wsgi})
    if told is None:
        assert problems == []
    else:
        variable, message = only(problems)
        assert variable == "mesh_services.shop.app.wsgi"
        assert told in message


def test_a_module_that_stays_on_the_controller_is_told(app: Path) -> None:
    (app / ".vmeshignore").write_text("app.py\n")
    (problem,) = checked({"flask": str(app)})
    assert problem.variable == "mesh_services.shop.app.wsgi"
    assert "stays on the controller" in problem.message
    assert "`!/app.py`" in problem.remedy


def test_an_app_without_its_lock_or_without_gunicorn_in_it_is_told(app: Path) -> None:
    (app / "requirements.txt").write_text("flask==3.1.0 --hash=sha256:x\n# gunicorn\n")
    assert "without gunicorn" in only(checked({"flask": str(app)}))[1]
    (app / "requirements.txt").unlink()
    assert "has no requirements.txt" in only(checked({"flask": str(app)}))[1]


@pytest.mark.parametrize(
    "content", [b"", b"hello\n", b"\xff\xfe", b"-----BEGIN CERTIFICATE-----\nnonsense\n", None]
)
def test_a_file_without_certificates_is_told(
    app: Path, tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    problems = checked({"flask": str(app)}, {"ca_file": str(file)})
    assert only(problems)[0] == "mesh_services.shop.calls.bank.tls.ca_file"


def test_a_key_is_no_certificate(app: Path, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text(CERTIFICATE.read_text().replace("CERTIFICATE", "PRIVATE KEY"))
    assert len(checked({"flask": str(app)}, {"ca_file": str(file)})) == 1


def test_the_files_of_edges_and_of_the_collector_are_looked_at_too() -> None:
    bank = {"host": "b.example.com", "port": 1, "tls": {"ca_file": "no.pem"}}
    edge = {"routes": [{"prefix": "/", "to": "bank"}], "calls": {"bank": bank}}
    collector = {"host": "o.example.com", "tls": {"ca_file": "none.pem"}}
    found = checked_edge(edge, {"collector": collector})
    assert [problem.variable for problem in found] == [
        "mesh_edges.front.calls.bank.tls.ca_file",
        "mesh_tracing.collector.tls.ca_file",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not a text file that can be read"),
        ("keys", "is no JWKS: it lacks a list `keys` of public keys"),
        ('{"keys": []}', "is no JWKS: it lacks a list `keys` of public keys"),
        (
            '{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}',
            "is no JWKS: it lacks a list `keys` of public keys",
        ),
        (JWKS.read_text(), None),
    ],
)
def test_the_keys_of_an_issuer_are_looked_at(
    content: str | None, message: str | None, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    if content is not None:
        file.write_text(content)
    issuer = {"issuer": "https://login", "audiences": ["shop"], "jwks_file": str(file)}
    routes = [{"prefix": "/", "to": "shop", "require": {"jwt": "main"}}]
    found = checked_edge({"jwt": {"main": issuer}, "routes": routes}, {"group": "shop"})
    told = [] if message is None else [("mesh_edges.front.jwt.main.jwks_file", message)]
    assert [(each.variable, each.message) for each in found] == told


def test_who_signed_for_the_server_of_an_issuers_keys_is_looked_at() -> None:
    issuer = {"issuer": "https://login", "audiences": ["shop"], "jwks_url": "https://login/keys"}
    routes = [{"prefix": "/", "to": "shop", "require": {"jwt": "main"}}]
    for file, said in (("none.pem", 1), (str(CERTIFICATE), 0)):
        jwt = {"main": {**issuer, "jwks_ca_file": file}}
        found = checked_edge({"jwt": jwt, "routes": routes}, {"group": "shop"})
        expected = ["mesh_edges.front.jwt.main.jwks_ca_file"] * said
        assert [each.variable for each in found] == expected
