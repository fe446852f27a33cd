"""Certificates that the inventory names on the controller are looked at before any host is."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from tests.native.certificates import Authority
from vmesh.artifacts.sources import check_sources
from vmesh.base.problems import ERROR, WARNING, Problem
from vmesh.compile.compiler import compile_mesh
from vmesh.model.inventory import Inventory

NAME = "shop.example.com"
KEY = ("mesh_edges", "front", "tls", "key")


def checked(certificate: Path, key: str, domain: str = NAME) -> list[Problem]:
    """Return what is said of an edge for `domain` with this certificate and key."""
    edge = {
        "group": "web1",
        "port": 443,
        "domains": [domain],
        "routes": [{"prefix": "/", "to": "shop"}],
        "tls": {"certificate": str(certificate), "key": key},
    }
    shop = {"group": "web1", "port": 9001, "app": {"external": "127.0.0.1:7001"}}
    mesh = {
        "mesh_services": {"shop": shop},
        "mesh_edges": {"front": edge},
        "mesh_tracing": {"group": "web1"},
    }
    hosts = {"web1": {"ansible_host": "10.0.0.1"}}
    given = Inventory(Path("inventory"), {}, hosts, mesh, hidden=frozenset({KEY}))
    found = check_sources(compile_mesh(given))
    assert all(key not in str(problem) for problem in found)
    return found


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        (NAME, NAME),
        ("*.example.com", NAME),
        (NAME, "*"),
        (NAME, "192.0.2.7"),
    ],
)
def test_a_pair_for_the_edges_domain_is_in_order(
    name: str, domain: str, authority: Authority
) -> None:
    file = authority.certificate(name, days=31)
    assert checked(file, file.read_text(), domain) == []


@pytest.mark.parametrize(
    ("name", "domain"), [(NAME, "other.example.com"), ("*.example.com", "a.b.example.com")]
)
def test_a_certificate_for_other_names_is_told(
    name: str, domain: str, authority: Authority
) -> None:
    file = authority.certificate(name, days=31)
    (problem,) = checked(file, file.read_text(), domain)
    assert (problem.variable, problem.severity) == ("mesh_edges.front.tls.certificate", WARNING)
    assert problem.message == f"is not for {domain}, which the edge answers for"


def test_an_end_that_is_near_is_told_and_one_that_is_past_stops(authority: Authority) -> None:
    file = authority.certificate(NAME, days=29.5)
    (problem,) = checked(file, file.read_text())
    assert (problem.severity, "in 29 days" in problem.message) == (WARNING, True)
    file = authority.certificate(NAME, days=-1)
    (problem,) = checked(file, file.read_text())
    day = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    assert problem.severity == ERROR
    assert problem.message.startswith(f"has expired on {day:%Y-%m-%d}")


def test_the_key_of_another_certificate_is_told(authority: Authority) -> None:
    file = authority.certificate(NAME, days=31)
    other = authority.certificate("other.example.com").read_text()
    for key, message in (
        (other, "is not the key of the certificate"),
        ("no key", "is no private key in PEM that can be read without a password"),
    ):
        (problem,) = checked(file, key)
        assert (problem.variable, problem.message) == ("mesh_edges.front.tls.key", message)
        assert problem.value == "(hidden)"


def test_a_file_that_is_no_certificate_is_told(authority: Authority, tmp_path: Path) -> None:
    key = authority.certificate(NAME).read_text()
    empty = tmp_path / "empty.pem"
    empty.touch()
    for file, message in (
        (tmp_path / "nothing.pem", "cannot be read: No such file or directory"),
        (empty, "holds no certificate that can be read"),
    ):
        (problem,) = checked(file, key)
        assert (problem.value, problem.message) == (str(file), message)
