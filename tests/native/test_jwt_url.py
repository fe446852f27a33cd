"""Keys of an issuer of tokens that an edge's Envoy fetches from the issuer's server."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.envoy_apply import bring
from tests.native.certificates import Authority
from tests.native.edges import SERVICE, WholeWay, edge_plan, whole_way
from tests.native.native import Client, Upstream, ask, eventually, free_port
from tests.native.tokens import AUDIENCE, ISSUER, Issuer, bearer

KEYS = "/keys?of=shop"
AWAY = "Jwks remote fetch is failed"


def edge(port: int, authority: Authority) -> dict[str, Any]:
    """Return the keys of an edge that asks for tokens of the issuer whose server has `port`."""
    main = {"issuer": ISSUER, "audiences": [AUDIENCE], "jwks_ca_file": str(authority.file)}
    return {
        "jwt": {"main": {**main, "jwks_url": f"https://localhost:{port}{KEYS}"}},
        "require": {"jwt": "main"},
        "routes": [
            {"prefix": "/", "to": SERVICE},
            {"prefix": "/open", "to": SERVICE, "require": "none"},
        ],
    }


@contextmanager
def server(certificate: Path, issuer: Issuer, port: int = 0) -> Iterator[Upstream]:
    """Run the server of an issuer, with these keys."""
    with Upstream("login", certificate, port) as login:
        login.answers(200, issuer.jwks.encode())
        yield login


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def certificate(authority: Authority) -> Path:
    return authority.certificate("localhost")


def answer(way: WholeWay, token: str) -> tuple[int, str]:
    """Return status and body for a request with this token."""
    got = ask(way.port, "/", headers=bearer(token))
    return got.status, got.text if got.status != 200 else ""


def test_fetched_keys_decide_whose_token_counts(
    envoy: Path, tmp_path: Path, authority: Authority, certificate: Path
) -> None:
    issuer, stranger = Issuer(), Issuer()  # with a key of the same name
    with (
        server(certificate, issuer) as login,
        whole_way(envoy, tmp_path, edge(login.port, authority)) as way,
    ):
        seen = way.seen("/", {"x-user": "root", **bearer(issuer.token())})
        assert seen.headers["x-user"] == "anna"
        for token, status in (
            (issuer.token(exp=int(time.time()) - 120), 401),
            (issuer.token(aud="another"), 403),
            (issuer.unsigned(), 401),
            (stranger.token(), 401),
        ):
            assert answer(way, token)[0] == status, token
        got = login.requests[0]
        assert (got.method, got.path, got.body) == ("GET", KEYS, b"")
        assert login.server_names[0] == "localhost"


def test_an_issuer_that_is_away_at_the_start_stops_nothing_but_tokens(
    envoy: Path, tmp_path: Path, authority: Authority, certificate: Path
) -> None:
    issuer, port = Issuer(), free_port()
    with whole_way(envoy, tmp_path, edge(port, authority)) as way:
        assert ask(way.port, "/open").status == 200
        assert answer(way, issuer.token()) == (401, AWAY)
        with server(certificate, issuer, port) as login:
            # Nobody asks; Envoy looks by itself.
            assert eventually(lambda: len(login.requests) > 0)
            assert eventually(lambda: answer(way, issuer.token()) == (200, ""))
            told = {name for got in login.requests for name in got.headers}
            assert told == {"host", "user-agent"}
        # What it has learnt it keeps.
        assert answer(way, issuer.token()) == (200, "")


def test_an_issuer_that_does_not_answer_holds_up_no_other_route(
    envoy: Path, tmp_path: Path, authority: Authority, certificate: Path
) -> None:
    with server(certificate, Issuer()) as login:
        login.reads.clear()
        begun = time.monotonic()
        with whole_way(envoy, tmp_path, edge(login.port, authority)) as way:
            assert ask(way.port, "/open").status == 200
            assert time.monotonic() - begun < 4  # the fetch waits for 5 seconds
            assert eventually(lambda: len(login.requests) + len(login.server_names) > 0)
            login.reads.set()


def test_keys_of_a_server_whose_certificate_is_anothers_do_not_count(
    envoy: Path, tmp_path: Path, authority: Authority
) -> None:
    issuer = Issuer()
    (tmp_path / "false").mkdir()
    # Folders of short names: a socket's path has at most 107 characters.
    for folder, name, signer in (("1", "other.example.com", authority), ("2", "localhost", None)):
        root = tmp_path / folder
        signed = (signer or Authority(tmp_path / "false")).certificate(name)
        root.mkdir()
        with (
            server(signed, issuer) as login,
            whole_way(envoy, root, edge(login.port, authority)) as way,
        ):
            assert answer(way, issuer.token()) == (401, AWAY), name
            assert login.requests == []


def test_a_new_key_is_seen_and_an_old_one_forgotten_without_a_run(
    envoy: Path, tmp_path: Path, authority: Authority, certificate: Path
) -> None:
    first, second = Issuer("one"), Issuer("two")
    with (
        server(certificate, first) as login,
        whole_way(envoy, tmp_path, edge(login.port, authority)) as way,
    ):
        way.made.plan.view["jwt"]["main"]["refresh"] = 1
        bring(way.made.proxy, way.made.files())
        assert answer(way, first.token()) == (200, "")
        assert answer(way, second.token())[0] == 401
        login.answers(200, second.jwks.encode())
        assert eventually(lambda: answer(way, second.token()) == (200, ""))
        assert answer(way, first.token())[0] == 401
        # A server that fails, or tells nonsense, takes no key away.
        for status, body in ((503, b""), (200, b"<html>")):
            login.answers(status, body)
            login.requests.clear()
            assert eventually(lambda: len(login.requests) > 1)
            assert answer(way, second.token()) == (200, "")


def changed(way: WholeWay, keys: dict[str, Any]) -> None:
    """Bring a running edge to other `keys`."""
    wanted, here = edge_plan(keys).view, way.made.plan.view
    here["jwt"] = wanted["jwt"]
    here["clusters"] = [each for each in here["clusters"] if each["name"] != "jwks_main"]
    here["clusters"] += [each for each in wanted["clusters"] if each["name"] == "jwks_main"]
    bring(way.made.proxy, way.made.files())


def test_another_url_cuts_nothing_and_loses_no_request(
    envoy: Path, tmp_path: Path, authority: Authority, certificate: Path
) -> None:
    issuer = Issuer()
    failed: list[int] = []
    over, asked = threading.Event(), [0]
    with (
        server(certificate, issuer) as old,
        server(certificate, issuer) as new,
        whole_way(envoy, tmp_path, edge(old.port, authority)) as way,
    ):

        def load() -> None:
            client = Client(way.port)
            while not over.is_set():
                asked[0] += 1
                status = client.ask("/", headers=bearer(issuer.token())).status
                if status != 200:
                    failed.append(status)

        loader = threading.Thread(target=load)
        loader.start()
        changed(way, edge(new.port, authority))
        assert eventually(lambda: len(new.requests) > 0)
        # From a file, and from a URL again.
        filed = edge(new.port, authority)
        main = {"issuer": ISSUER, "audiences": [AUDIENCE]}
        filed["jwt"]["main"] = {**main, "jwks_file": str(issuer.write(tmp_path))}
        changed(way, filed)
        changed(way, edge(old.port, authority))
        before = asked[0]
        assert eventually(lambda: asked[0] > before + 20)
        over.set()
        loader.join()
        found = way.made.proxy.admin.get("/stats?filter=listener_manager.listener_modified")[1]
        assert found.strip().endswith(": 0")
        assert failed == []
