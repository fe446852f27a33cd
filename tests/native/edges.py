"""An edge of an inventory, with the service behind it: the whole way of a request in one Envoy."""

from __future__ import annotations

import copy
import dataclasses
import http.client
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.native.inventories import beginning
from tests.native.native import (
    Native,
    Request,
    Upstream,
    ask,
    on_loopback,
    port_of,
    running,
    send_to,
)
from vmesh.compile.compiler import compile_mesh
from vmesh.compile.host_spec import ProxySpec, View

EDGE, SERVICE = "front", "shop"
Head = tuple[int, dict[str, str], bytes]  # status, headers with names in lower case, body


def edge_plan(edge: Mapping[str, Any]) -> ProxySpec:
    """Return base.yml's edge with other keys, and the ingress of the shop that it leads to."""
    given = beginning("base")
    plain = {"group": "web", "port": 8000, "routes": [{"prefix": "/", "to": SERVICE}]}
    given.mesh["mesh_edges"] = {EDGE: {**plain, **edge}}
    given = dataclasses.replace(given, hidden=frozenset({("mesh_edges", EDGE, "tls", "key")}))
    proxies = {
        each.name: each for host in compile_mesh(given).hosts.values() for each in host.proxies
    }
    plan, behind = on_loopback(proxies[EDGE]), on_loopback(proxies[SERVICE])
    plan.view["listeners"] += _named(behind.view["listeners"], "ingress")
    plan.view["routes"]["ingress"] = copy.deepcopy(behind.view["routes"]["ingress"])
    plan.view["clusters"] += _named(behind.view["clusters"], "local_app")
    return plan


def service_plan(name: str, calls: Mapping[str, Mapping[str, Any]] | None = None) -> ProxySpec:
    """Return the Envoy of a service of base.yml; `calls` lays policies over those of its calls."""
    given = beginning("base")
    for upstream, policies in (calls or {}).items():
        given.mesh["mesh_services"][name]["calls"][upstream] = dict(policies)
    proxies = [each for host in compile_mesh(given).hosts.values() for each in host.proxies]
    return on_loopback(next(each for each in proxies if each.name == name))


def _named(parts: list[View], name: str) -> list[View]:
    return [each for each in parts if each["name"] == name]


def client_of(got: Request) -> tuple[str, str]:
    """Return the client's address and scheme as the app is told them."""
    return got.headers["x-envoy-external-address"], got.headers["x-forwarded-proto"]


class WholeWay:
    """A running edge; `app` is what is behind the service's own Envoy."""

    def __init__(self, made: Native, app: Upstream) -> None:
        self.made, self.app = made, app
        self.port = port_of(made.plan, "public")

    def seen(
        self, path: str = "/", headers: Mapping[str, str] | None = None, source: str = "127.0.0.1"
    ) -> Request:
        """Send a request from `source`; return it as the app got it."""
        before = len(self.app.requests)
        answered = ask(self.port, path, headers=headers, source=source)
        assert answered.status == 200, answered
        (got,) = self.app.requests[before:]
        return got

    def raw(self, sent: bytes, source: str = "127.0.0.1") -> Head | None:
        """Send these bytes; return the answer, None where the connection is closed without one."""
        with socket.create_connection(
            ("127.0.0.1", self.port), timeout=5, source_address=(source, 0)
        ) as connection:
            connection.sendall(sent)
            response = http.client.HTTPResponse(connection)
            try:
                response.begin()
            except (http.client.HTTPException, OSError):
                return None
            headers = {name.lower(): value for name, value in response.getheaders()}
            return response.status, headers, response.read()


@contextmanager
def whole_way(envoy: Path, root: Path, edge: Mapping[str, Any]) -> Iterator[WholeWay]:
    """Run an edge with these keys, and what is behind it."""
    plan = edge_plan(edge)
    with Upstream("app") as app:
        send_to(plan, "local_app", app.port)
        send_to(plan, SERVICE, port_of(plan, "ingress"))
        with running(envoy, root, plan) as made:
            yield WholeWay(made, app)
