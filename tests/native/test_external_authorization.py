"""A service that decides which requests get through an edge."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.native.edges import SERVICE, edge_plan
from tests.native.native import Answer, Upstream, ask, free_port, port_of, running, send_to

AUTHORIZER = "pay"
EDGE = {
    "external_authorization": {
        "portal": {"to": AUTHORIZER, "path": "/check", "forward": ["cookie", "x-tenant"]}
    },
    "require": {"external": "portal"},
    "routes": [
        {"prefix": "/", "to": SERVICE},
        {"prefix": "/open", "to": SERVICE, "require": "none"},
    ],
}


class World:
    """A running edge, the app behind it, and the service that decides."""

    def __init__(self, port: int, app: Upstream, portal: Upstream) -> None:
        self.port, self.app, self.portal = port, app, portal

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[Answer, bool]:
        """Send a request; _ in names of headers becomes -. Tell whether the app got it, too."""
        before = len(self.app.requests)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answered = ask(self.port, path, method, named, b"body" if method == "POST" else None)
        return answered, len(self.app.requests) > before


@pytest.fixture(scope="module")
def _running(envoy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    plan = edge_plan(EDGE)
    with Upstream("app") as app, Upstream("portal") as portal:
        send_to(plan, "local_app", app.port)
        send_to(plan, SERVICE, port_of(plan, "ingress"))
        send_to(plan, AUTHORIZER, portal.port)
        with running(envoy, tmp_path_factory.mktemp("edge"), plan):
            yield World(port_of(plan, "public"), app, portal)


@pytest.fixture
def world(_running: World) -> World:
    """Give the edge with a service that lets everybody in."""
    _running.portal.headers = []
    _running.portal.answers(200)
    return _running


def test_the_service_sees_what_it_needs_and_no_body(world: World) -> None:
    headers = {"authorization": "Bearer a", "cookie": "s=1", "x_tenant": "acme", "x_other": "b"}
    answered, reached = world.ask("/cart?item=1", "POST", **headers)
    assert (answered.status, reached) == (200, True)
    got = world.portal.requests[-1]
    assert (got.method, got.path, got.body) == ("POST", "/check/cart?item=1", b"")
    assert got.headers["authorization"] == "Bearer a"
    assert (got.headers["cookie"], got.headers["x-tenant"]) == ("s=1", "acme")
    assert "x-other" not in got.headers
    assert world.app.requests[-1].body == b"body"


def test_the_app_is_told_who_it_is_by_the_service_alone(world: World) -> None:
    world.ask("/", x_user="root")
    assert "x-user" not in world.app.requests[-1].headers
    world.portal.headers = [("x-user", "anna"), ("x-forged", "1")]
    world.ask("/", x_user="root")
    got = world.app.requests[-1].headers
    assert got["x-user"] == "anna"
    assert "x-forged" not in got


@pytest.mark.parametrize(("status", "header"), [(302, "location"), (401, "www-authenticate")])
def test_what_else_it_answers_is_for_the_client(world: World, status: int, header: str) -> None:
    world.portal.headers = [(header, "https://login.example.com/")]
    world.portal.answers(status, b"log in")
    answered, reached = world.ask("/")
    assert (answered.status, answered.text, reached) == (status, "log in", False)
    assert answered.headers[header] == "https://login.example.com/"


def test_a_service_that_fails_lets_nobody_through(world: World) -> None:
    world.portal.answers(500)
    answered, reached = world.ask("/")
    assert (answered.status, reached) == (503, False)


def test_a_service_that_is_down_lets_nobody_through(envoy: Path, tmp_path: Path) -> None:
    plan = edge_plan(EDGE)
    with Upstream("app") as app:
        send_to(plan, "local_app", app.port)
        send_to(plan, SERVICE, port_of(plan, "ingress"))
        send_to(plan, AUTHORIZER, free_port())
        with running(envoy, tmp_path, plan):
            assert ask(port_of(plan, "public"), "/").status == 503
            assert ask(port_of(plan, "public"), "/open").status == 200
        assert app.paths() == ["/open"]


def test_a_route_that_requires_nobody_asks_nobody(world: World) -> None:
    world.portal.answers(403)
    before = len(world.portal.requests)
    answered, reached = world.ask("/open", x_user="root")
    assert (answered.status, reached) == (200, True)
    assert "x-user" not in world.app.requests[-1].headers
    assert len(world.portal.requests) == before
