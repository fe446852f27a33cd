"""Tokens at an edge: who gets through, what the app is told, and new keys under load."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.envoy_apply import bring
from tests.native.edges import SERVICE, WholeWay, edge_plan, whole_way
from tests.native.native import Client, ask
from tests.native.tokens import AUDIENCE, ISSUER, Issuer, bearer


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


def edge(jwks: Path, **more: Any) -> dict[str, Any]:
    """Return the keys of an edge that asks for tokens."""
    main = {"issuer": ISSUER, "audiences": [AUDIENCE], "jwks_file": str(jwks)}
    return {
        "jwt": {"main": {**main, "claims": {"sub": "x-user", "team.name": "x-user-team"}}, **more},
        "require": {"jwt": "main"},
        "headers_with_underscores": "allow",
        "routes": [
            {"prefix": "/", "to": SERVICE},
            {"prefix": "/open", "to": SERVICE, "require": "none"},
        ],
    }


@pytest.fixture(scope="module")
def way(
    envoy: Path, tmp_path_factory: pytest.TempPathFactory, issuer: Issuer
) -> Iterator[WholeWay]:
    folder = tmp_path_factory.mktemp("way")
    with whole_way(envoy, folder, edge(issuer.write(folder))) as made:
        yield made


def test_the_app_is_told_whose_token_it_is_and_does_not_get_it(
    way: WholeWay, issuer: Issuer
) -> None:
    token = issuer.token(team={"name": "buyers"})
    forged = {"x-user": "root", "x_user": "root", "X-User-Team": "admins"}
    got = way.seen("/", {**forged, **bearer(token)})
    assert (got.headers["x-user"], got.headers["x-user-team"]) == ("anna", "buyers")
    assert "x_user" not in got.headers
    assert "authorization" not in got.headers


def test_where_nothing_is_required_nobody_says_who_they_are(way: WholeWay) -> None:
    got = way.seen("/open", {"x-user": "root", "x-user-team": "admins"})
    assert not {"x-user", "x-user-team"} & {name.lower() for name in got.headers}


def test_a_token_that_does_not_count_is_refused(way: WholeWay, issuer: Issuer) -> None:
    stranger = Issuer()  # with a key of the same name
    told = issuer.token()
    tampered = f"{told[:-8]}{'A' * 8}"
    for token, status in (
        (issuer.token(exp=int(time.time()) - 120), 401),
        (issuer.token(nbf=int(time.time()) + 600), 401),
        (issuer.token(aud="another"), 403),
        (issuer.token(iss="https://other.example.com"), 401),
        (issuer.unsigned(), 401),
        (stranger.token(), 401),
        (tampered, 401),
        ("nothing", 401),
    ):
        assert ask(way.port, "/", headers=bearer(token)).status == status, token
    assert ask(way.port, "/").status == 401
    assert ask(way.port, f"/?access_token={told}").status == 401
    assert ask(way.port, "/", headers=bearer(told)).status == 200


def test_new_keys_and_issuers_close_no_connection(envoy: Path, tmp_path: Path) -> None:
    first, second, third = Issuer("one"), Issuer("two"), Issuer("three")
    keys = tmp_path / "keys.json"
    keys.write_text(first.jwks)
    with whole_way(envoy, tmp_path, edge(keys)) as made:
        failed: list[int] = []
        over, asked = threading.Event(), [0]

        def load() -> None:
            client = Client(made.port)
            while not over.is_set():
                asked[0] += 1
                status = client.ask("/open").status
                if status != 200:
                    failed.append(status)

        loader = threading.Thread(target=load)
        loader.start()
        kept = Client(made.port)
        assert kept.ask("/", headers=bearer(first.token())).status == 200
        # Another key.
        keys.write_text(second.jwks)
        _bring(made, edge(keys))
        assert kept.ask("/", headers=bearer(second.token())).status == 200
        assert kept.ask("/", headers=bearer(first.token())).status == 401
        # Another issuer takes over the routes, and the first one goes.
        other = {"issuer": "https://new", "audiences": [AUDIENCE]}
        new = edge(keys, next={**other, "jwks_file": str(third.write(tmp_path))})
        del new["jwt"]["main"]
        _bring(made, {**new, "require": {"jwt": "next"}})
        assert kept.ask("/", headers=bearer(third.token(iss="https://new"))).status == 200
        assert kept.ask("/", headers=bearer(second.token())).status == 401
        over.set()
        loader.join()
        found = made.made.proxy.admin.get("/stats?filter=listener_manager.listener_modified")[1]
        assert found.strip().endswith(": 0")
        assert (failed, asked[0] > 20) == ([], True)


def _bring(made: WholeWay, keys: dict[str, Any]) -> None:
    """Bring a running edge its files with other `keys`."""
    wanted, here = edge_plan(keys).view, made.made.plan.view
    here["jwt"] = wanted["jwt"]
    here["routes"]["public"] = wanted["routes"]["public"]
    made.made.plan.view.update(here)
    # The renderer reads a file once.
    bring(made.made.proxy, made.made.files())
