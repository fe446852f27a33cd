"""What an address outside the mesh gets to see: the user's request, and nothing of the mesh's."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.native.certificates import Authority
from tests.native.native import Native, Upstream, ask, eventually, on_loopback, port_of, running
from vmesh.compile.compiler import compile_mesh
from vmesh.model.inventory import Inventory

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
# What a careless app passes on of the request that it serves.
FORWARDED = {
    "traceparent": PARENT,
    "x-request-id": "abc",
    "x-forwarded-for": "192.0.2.1",
    "x-forwarded-proto": "http",
    "x-forwarded-host": "shop.example.com",
    "x-envoy-external-address": "192.0.2.1",
    "x-envoy-attempt-count": "1",
    "x-ot-span-context": "what",
    "authorization": "Bearer ours",
    "accept": "text/plain",
}
CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "verified": {"tls": {}},
    "silent": {"propagate_trace": []},
    "open": {"propagate_trace": ["w3c", "b3", "request_id"]},
}


def _inventory(ports: dict[str, int], authority: Path, export: str) -> Inventory:
    calls = copy.deepcopy(CALLS)
    for name, call in calls.items():
        call |= {"host": "localhost", "port": ports[name]}
        if "tls" in call:
            call["tls"] = {"ca_file": str(authority)}
    routes: list[dict[str, Any]] = [{"prefix": f"/{name}", "to": name} for name in calls]
    routes.append({"path_prefix": "/rewritten", "to": "plain", "rewrite": {"prefix": "/v1"}})
    mesh = {
        "mesh_services": {
            "shop": {"port": 9001, "app": {"external": "127.0.0.1:7001"}, "calls": calls}
        },
        "mesh_edges": {"front": {"group": "shop", "port": 8000, "routes": routes, "calls": calls}},
        "mesh_tracing": {"group": "shop", "export": export},
    }
    return Inventory(Path("inventory"), {}, {"shop": {"ansible_host": "10.0.0.1"}}, mesh)


class Outside:
    """Servers outside, and the ways to them: from a service's app and through an edge."""

    def __init__(
        self,
        ways: dict[tuple[str, str], int],
        servers: dict[str, Upstream],
        envoys: dict[str, Native],
    ) -> None:
        self.ways, self.servers, self.envoys = ways, servers, envoys

    def seen(self, way: str, name: str) -> dict[str, str]:
        """Return the headers with which a request of a careless app gets to the server `name`."""
        status = ask(self.ways[way, name], f"/{name}/path", headers=FORWARDED).status
        assert status == 200
        return self.servers[name].requests[-1].headers


@pytest.fixture(scope="module", params=["otlp", "otlp_http", "zipkin"])
def outside(
    request: pytest.FixtureRequest, envoy: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outside]:
    with ExitStack() as stack:
        authority = Authority(tmp_path_factory.mktemp("authority"))
        servers = {
            name: stack.enter_context(
                Upstream(name, authority.certificate("localhost") if "tls" in call else None)
            )
            for name, call in CALLS.items()
        }
        ports = {name: server.port for name, server in servers.items()}
        inventory = _inventory(ports, authority.file, request.param)
        ways, envoys = {}, {}
        for planned in compile_mesh(inventory).hosts["shop"].proxies:
            plan = on_loopback(planned)
            root = tmp_path_factory.mktemp(plan.name)
            envoys[plan.kind] = stack.enter_context(running(envoy, root, plan))
            for name in CALLS:
                listener = "public" if plan.kind == "edge" else f"egress-{name}"
                ways[plan.kind, name] = port_of(plan, listener)
        yield Outside(ways, servers, envoys)


WAYS = ("service", "edge")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CALLS)
def test_no_header_of_the_mesh_gets_out(outside: Outside, way: str, name: str) -> None:
    seen = outside.seen(way, name)
    ours = [each for each in seen if each.startswith(("x-envoy", "x-forwarded", "x-vmesh", "x-ot"))]
    assert not ours
    assert seen["host"] == f"localhost:{outside.servers[name].port}"
    assert (seen["authorization"], seen["accept"]) == ("Bearer ours", "text/plain")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("name", "forms"),
    [
        ("plain", {"traceparent"}),
        ("verified", {"traceparent"}),
        ("silent", set()),
        ("open", {"traceparent", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "x-request-id"}),
    ],
)
def test_trace_context_goes_along_in_the_forms_that_are_asked_for(
    outside: Outside, way: str, name: str, forms: set[str]
) -> None:
    seen = outside.seen(way, name)
    told = {"traceparent", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "x-request-id"}
    assert told & set(seen) == forms
    if "traceparent" in forms:
        _, trace, span, flags = seen["traceparent"].split("-")
        assert flags == "01"
        assert (trace == TRACE) == (way == "service")  # an edge trusts nobody here
        assert span not in PARENT
    if "x-b3-traceid" in forms:
        assert (seen["x-b3-traceid"], seen["x-b3-spanid"]) == (trace, span)
        assert (seen["x-request-id"] == "abc") == (way == "service")


@pytest.mark.parametrize("way", WAYS)
def test_the_access_log_has_what_the_request_came_with(outside: Outside, way: str) -> None:
    assert ask(outside.ways[way, "plain"], "/plain/logged", headers=FORWARDED).status == 200

    def ids() -> list[str]:
        log = outside.envoys[way].access_log()
        return [line["request_id"] for line in log if line["path"] == "/plain/logged"]

    assert eventually(lambda: len(ids()) == 1)
    assert ids() == ["abc"] if way == "service" else ids()[0]


def test_the_access_log_of_an_edge_has_the_clients_path(outside: Outside) -> None:
    port = outside.ways["edge", "plain"]
    assert ask(port, "/rewritten/path").status == 200
    assert outside.servers["plain"].requests[-1].path == "/v1/path"

    def logged() -> list[str]:
        return [line["path"] for line in outside.envoys["edge"].access_log()]

    assert eventually(lambda: "/rewritten/path" in logged()), logged()
