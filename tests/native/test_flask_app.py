"""A Flask app behind its own Envoy and an edge, by the real Envoy, gunicorn and Flask."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.native.native import ask, free_port, on_loopback, port_of, running, send_to
from tests.unit.services.test_gunicorn import gunicorn, told
from vmesh.compile.compiler import compile_mesh
from vmesh.compile.host_spec import ProxySpec
from vmesh.model.inventory import Inventory

APP = """
from flask import Flask, redirect, request, url_for

def create_app(limit):
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = limit

    @app.get("/seen")
    def seen():
        return {
            "address": request.remote_addr,
            "scheme": request.scheme,
            "host": request.host,
            "root": request.root_path,
            "url": url_for("seen", _external=True),
        }

    @app.get("/moved")
    def moved():
        return redirect(url_for("seen", _external=True))

    @app.post("/upload")
    def upload():
        return str(len(request.get_data()))

    @app.post("/unread")
    def unread():
        return "not even looked at", 403

    return app
"""
MESH = {
    "mesh_services": {
        "shop": {
            "group": "here",
            "port": 9001,
            "app": {"flask": "shop", "wsgi": "shop:create_app(1000)"},
        },
        "till": {
            "group": "here",
            "port": 9002,
            "app": {"external": "127.0.0.1:7001"},
            "calls": {"shop": {}},
        },
    },
    "mesh_edges": {
        "front": {"group": "here", "port": 8000, "routes": [{"prefix": "/", "to": "shop"}]}
    },
    "mesh_tracing": {"group": "here"},
}


@dataclass(frozen=True)
class Ports:
    """Where requests go in: from outside, from another service's app, into the app's own Envoy."""

    edge: int
    egress: int
    ingress: int

    def seen(self, port: int, headers: Mapping[str, str] | None = None) -> Any:
        """Return what the app sees of a request to `port`."""
        answer = ask(port, "/seen", headers={"host": "shop.example", **(headers or {})})
        assert answer.status == 200, answer.text
        return json.loads(answer.body)


@pytest.fixture(scope="module")
def ports(envoy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    folder = tmp_path_factory.mktemp("app")
    (folder / "shop.py").write_text(APP)
    plan = compile_mesh(
        Inventory(Path("inventory"), {}, {"here": {"ansible_host": "10.0.0.1"}}, MESH)
    ).hosts["here"]
    (flask,) = plan.flask_services
    proxies = {each.name: on_loopback(each) for each in plan.proxies}
    for proxy in proxies.values():
        send_to(proxy, "tracing_collector", free_port())
    ingress = port_of(proxies["shop"], "ingress")
    for caller in ("till", "front"):
        send_to(proxies[caller], "shop", ingress)
    with ExitStack() as stack:
        socket, notified, _ = stack.enter_context(gunicorn(folder, folder, WSGI_APP=flask.wsgi))
        _lead_to(proxies["shop"], socket)
        for name, proxy in proxies.items():
            stack.enter_context(running(envoy, tmp_path_factory.mktemp(name), proxy))
        told(notified, "READY=1")
        yield Ports(
            port_of(proxies["front"], "public"), port_of(proxies["till"], "egress-shop"), ingress
        )


def _lead_to(proxy: ProxySpec, socket: Path) -> None:
    (app,) = [each for each in proxy.view["clusters"] if each["name"] == "local_app"]
    app["endpoints"] = [{"pipe": str(socket)}]


def test_the_app_sees_its_client_and_the_url_that_it_asked_for(ports: Ports) -> None:
    assert ports.seen(ports.edge) == {
        "address": "127.0.0.1",
        "scheme": "http",
        "host": "shop.example",
        "root": "",
        "url": "http://shop.example/seen",
    }


def test_what_the_edge_tells_of_a_client_reaches_the_app(ports: Ports) -> None:
    by_the_edge = {
        "x-envoy-external-address": "203.0.113.7",
        "x-forwarded-proto": "https",
        "x-forwarded-host": "www.shop.example",
        "x-forwarded-port": "8443",
    }
    assert ports.seen(ports.ingress, by_the_edge) == {
        "address": "203.0.113.7",
        "scheme": "https",
        "host": "www.shop.example:8443",
        "root": "",
        "url": "https://www.shop.example:8443/seen",
    }
    answer = ask(ports.ingress, "/moved", headers=by_the_edge)
    assert answer.headers["location"] == "https://www.shop.example:8443/seen"


def test_another_service_is_seen_by_its_address(ports: Ports) -> None:
    seen = ports.seen(ports.egress)
    assert (seen["address"], seen["url"]) == ("127.0.0.1", "http://shop.example/seen")


@pytest.mark.parametrize(
    "invented",
    [
        {"x-envoy-external-address": "6.6.6.6"},
        {"x-forwarded-for": "6.6.6.6"},
        {"x-forwarded-proto": "https"},
        {"x-forwarded-ssl": "on"},
        {"x-forwarded-protocol": "ssl"},
        {"forwarded": "for=6.6.6.6;proto=https;host=evil.example"},
        {"x-real-ip": "6.6.6.6"},
        {"x-forwarded-host": "evil.example"},
        {"x-forwarded-port": "444"},
        {"x-forwarded-prefix": "/evil"},
    ],
    ids=str,
)
def test_a_client_cannot_invent_what_the_app_sees(ports: Ports, invented: dict[str, str]) -> None:
    assert ports.seen(ports.edge, invented) == ports.seen(ports.edge)


@pytest.mark.parametrize("name", ["SCRIPT_NAME", "x_envoy_external_address", "x_forwarded_host"])
def test_a_name_with_an_underscore_never_reaches_the_app(ports: Ports, name: str) -> None:
    assert ports.seen(ports.ingress, {name: "/seen"}) == ports.seen(ports.ingress)


def test_as_many_and_as_large_headers_as_envoy_lets_through_are_served(ports: Ports) -> None:
    # An edge takes 100, of which http.client sends two. Envoys add some at each hop.
    many = {f"x-{number}": "1" for number in range(98)}
    assert ports.seen(ports.edge, many)["host"] == "shop.example"
    assert ports.seen(ports.edge, {"cookie": "c" * 58_000})["host"] == "shop.example"
    assert ask(ports.edge, f"/seen?{'q' * 58_000}").status == 200


@pytest.mark.parametrize("size", [2_000, 200_000, 5_000_000])
@pytest.mark.parametrize(("path", "status"), [("/upload", 413), ("/unread", 403)])
def test_an_upload_that_the_app_does_not_read_gets_the_apps_answer(
    ports: Ports, path: str, status: int, size: int
) -> None:
    for port in (ports.ingress, ports.edge):
        assert {_upload(port, path, size) for _ in range(8)} == {status}


def _upload(port: int, path: str, size: int) -> int:
    """Send a body, as far as it is taken, and return the status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        # Envoy has the whole answer early, sends it and closes.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.request("POST", path, body=b"x" * size)
        return connection.getresponse().status
    finally:
        connection.close()
