"""Who gets through an edge: users with passwords, and what the app is told of them."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.envoy_apply import bring
from plugins.module_utils.envoy_documents import (
    document_of,
    hide_secrets,
    reveal_secrets,
    text_of,
)
from tests.native.edges import SERVICE, WholeWay, edge_plan, whole_way
from tests.native.native import Client, ask
from vmesh.cli.password import password_hash

ANNA, OLGA = ("anna", "anna's password"), ("olga", "pass:word")


def edge(anna: str = ANNA[1]) -> dict[str, Any]:
    """Return the keys of an edge with two groups; `anna` is the password of one user."""
    return {
        "users": {
            "staff": {"anna": password_hash(anna), "bob": password_hash("b")},
            "operators": {"olga": password_hash(OLGA[1])},
        },
        "require": {"users": "staff"},
        "headers_with_underscores": "allow",
        "cors": {"origins": ["https://other.example.com"]},
        "routes": [
            {"prefix": "/", "to": SERVICE},
            {"prefix": "/open", "to": SERVICE, "require": "none"},
            {"prefix": "/operators", "to": SERVICE, "require": {"users": "operators"}},
            {"prefix": "/answer", "answer": {"status": 200, "body": "for staff"}},
            {"prefix": "/ws", "to": SERVICE, "websocket": True},
        ],
    }


def login(user: str, password: str) -> dict[str, str]:
    """Return the header with which a client logs in."""
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"authorization": f"Basic {token}"}


@pytest.fixture(scope="module")
def way(envoy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeWay]:
    with whole_way(envoy, tmp_path_factory.mktemp("way"), edge()) as made:
        yield made


@pytest.mark.parametrize(
    "headers",
    [
        {},
        login("anna", "another"),
        login("nobody", ANNA[1]),
        login("anna", ""),
        login(*OLGA),  # of another group
        {"authorization": "Basic !"},
        {"authorization": f"Bearer {ANNA[1]}"},
        {"x-user": "anna"},
    ],
)
@pytest.mark.parametrize("path", ["/", "/answer", "/ws"])
def test_who_is_not_of_the_group_gets_401(
    way: WholeWay, path: str, headers: dict[str, str]
) -> None:
    before = len(way.app.requests)
    answered = ask(way.port, path, headers=headers)
    assert answered.status == 401
    assert answered.headers["www-authenticate"].startswith("Basic ")
    assert len(way.app.requests) == before


def test_the_app_is_told_who_it_is_and_not_the_password(way: WholeWay) -> None:
    got = way.seen("/", login(*ANNA)).headers
    assert got["x-user"] == "anna"
    assert "authorization" not in got
    assert way.seen("/operators", login(*OLGA)).headers["x-user"] == "olga"
    assert ask(way.port, "/answer", headers=login(*ANNA)).text == "for staff"


FORGED = {
    "x-user": "root",
    "X_User": "root",
    "x-forwarded-client-cert": "By=spiffe://a/b;URI=spiffe://c/d",
}


@pytest.mark.parametrize("path", ["/", "/open"])
@pytest.mark.parametrize("source", ["127.0.0.1", "127.0.0.2"])
def test_no_client_says_who_it_is(envoy: Path, tmp_path: Path, path: str, source: str) -> None:
    keys = {**edge(), "trusted_cidrs": ["127.0.0.2/32"]}
    with whole_way(envoy, tmp_path, keys) as way:
        got = way.seen(path, {**login(*ANNA), **FORGED}, source).headers
    assert got.get("x-user") == ("anna" if path == "/" else None)
    assert got.keys() & {"x_user", "x-forwarded-client-cert"} == set()


def test_a_route_that_requires_nobody_is_open(way: WholeWay) -> None:
    token = {"authorization": "Bearer of-the-app"}
    assert way.seen("/open", token).headers["authorization"] == token["authorization"]


def test_an_edge_without_users_leaves_the_header_to_its_apps(envoy: Path, tmp_path: Path) -> None:
    with whole_way(envoy, tmp_path, {}) as way:
        assert way.seen("/", {"x-user": "anna"}).headers["x-user"] == "anna"


def test_preflight_requests_need_no_login(way: WholeWay) -> None:
    headers = {"origin": "https://other.example.com", "access-control-request-method": "GET"}
    answered = ask(way.port, "/", "OPTIONS", headers)
    assert answered.status == 200
    assert answered.headers["access-control-allow-origin"] == "https://other.example.com"


def test_hashes_are_shown_nowhere_but_to_envoy(way: WholeWay) -> None:
    text = way.made.files()["routes/public.json"]
    hidden, secrets = hide_secrets(document_of(text))
    assert password_hash(ANNA[1]) in text
    assert "{SHA}" not in text_of(hidden)
    assert text_of(reveal_secrets(hidden, secrets)) == text


def test_a_new_password_cuts_no_connection(envoy: Path, tmp_path: Path) -> None:
    with whole_way(envoy, tmp_path, edge()) as way:
        modified = _modified(way)
        done, statuses = threading.Event(), []
        kept = Client(way.port)

        def load() -> None:
            while not done.is_set():
                statuses.append(kept.ask("/", headers=login("bob", "b")).status)

        thread = threading.Thread(target=load)
        thread.start()
        try:
            for number in range(5):
                password = f"new {number}"
                new = edge_plan(edge(password)).view["routes"]["public"]
                way.made.plan.view["routes"]["public"] = new
                bring(way.made.proxy, way.made.files())
                assert ask(way.port, "/", headers=login("anna", password)).status == 200
                assert ask(way.port, "/", headers=login(*ANNA)).status == 401
        finally:
            done.set()
            thread.join()
            kept.close()
        assert len(statuses) > 20
        assert set(statuses) == {200}
        assert _modified(way) == modified


def _modified(way: WholeWay) -> int:
    name = "listener_manager.listener_modified"
    _, said = way.made.proxy.admin.get(f"/stats?filter=^{name}$")
    return int(said.removeprefix(f"{name}: "))
