"""The real file layout, brought to a real Envoy: accepted, refused, taken back, finished."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugins.module_utils.envoy_apply import Refused, bring
from plugins.module_utils.envoy_files import LISTENERS
from tests.native.native import Native, echo, free_port, get, native, on_loopback, port_of, send_to
from vmesh.base import paths
from vmesh.compile.compiler import compile_mesh
from vmesh.compile.host_spec import ProxySpec, View
from vmesh.model.inventory import load

LAB = paths.PROJECT / "inventory" / "lab"


def proxies() -> list[ProxySpec]:
    return [proxy for host in compile_mesh(load(LAB)).hosts.values() for proxy in host.proxies]


def edge_plan() -> ProxySpec:
    (plan,) = [proxy for proxy in proxies() if proxy.kind == "edge"]
    return on_loopback(plan)


@pytest.fixture
def upstream() -> Iterator[int]:
    with echo() as port:
        yield port


@pytest.fixture
def edge(envoy: Path, tmp_path: Path, upstream: int) -> Iterator[Native]:
    """The lab's edge, running, with all its routes leading to the echo."""
    plan = edge_plan()
    for cluster in ("service1", "service2"):
        send_to(plan, cluster, upstream)
    with native(envoy, tmp_path, plan) as made:
        bring(made.proxy, made.files())
        yield made


def public_routes(edge: Native) -> list[View]:
    (host,) = edge.plan.view["routes"]["public"]["virtual_hosts"]
    routes: list[View] = host["routes"]
    return routes


@pytest.mark.parametrize("name", [proxy.name for proxy in proxies()])
def test_every_resource_of_every_proxy_is_accepted(name: str, envoy: Path, tmp_path: Path) -> None:
    (plan,) = [proxy for proxy in proxies() if proxy.name == name]
    with native(envoy, tmp_path, on_loopback(plan)) as made:
        bring(made.proxy, made.files())
        assert made.proxy.accepts(made.files())
        assert not made.proxy.needs_restart(made.files(), str(envoy))
        assert not made.proxy.store.wrong_rights()


def test_a_changed_route_reaches_clients(edge: Native) -> None:
    port = port_of(edge.plan, "public")
    assert get(port, "/new")[0] == 404
    public_routes(edge)[0]["match"]["prefix"] = "/new"
    bring(edge.proxy, edge.files())
    assert get(port, "/new")[0] == 200
    assert edge.proxy.accepts(edge.files())


def test_clusters_come_and_go_while_requests_are_answered(edge: Native, upstream: int) -> None:
    """The new service's cluster is there before its route, the old one's until after it."""
    port, failed, done = port_of(edge.plan, "public"), [], threading.Event()

    def ask() -> None:
        while not done.is_set():
            status = get(port, "/service/1")[0]
            if status != 200:
                failed.append(status)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for old, new in (("service1", "other"), ("other", "service1")):
            for cluster in edge.plan.view["clusters"]:
                if cluster["name"] == old:
                    cluster["name"] = new
            for route in public_routes(edge):
                if route["cluster"] == old:
                    route["cluster"] = new
            bring(edge.proxy, edge.files())
    finally:
        done.set()
        asking.join()
    assert failed == []
    assert "endpoints/other.json" not in edge.proxy.store.read()


def test_a_refused_file_is_taken_back_and_told_with_envoys_reason(edge: Native) -> None:
    good = edge.files()
    public_routes(edge)[0]["cluster"] = "nobody"
    with pytest.raises(Refused, match=r"(?s)nobody.*back and confirmed"):
        bring(edge.proxy, edge.files())
    assert edge.proxy.store.read() == good
    assert edge.proxy.accepts(good)
    assert get(port_of(edge.plan, "public"), "/service/1")[0] == 200


def test_a_listener_on_a_taken_port_is_taken_back(edge: Native, upstream: int) -> None:
    good = edge.files()
    (admin,) = [each for each in edge.plan.view["listeners"] if each["name"] == "admin"]
    admin["port"] = upstream
    with pytest.raises(Refused, match=r"(?s)ddress already in use.*back and confirmed"):
        bring(edge.proxy, edge.files())
    assert edge.proxy.store.read() == good
    assert edge.proxy.accepts(good)


def test_what_envoy_has_not_read_is_brought_again(edge: Native) -> None:
    """As after a run that was killed between placing a file and seeing it accepted."""
    before = edge.files()
    (admin,) = [each for each in edge.plan.view["listeners"] if each["name"] == "admin"]
    admin["port"] = free_port()
    (edge.proxy.store.path / LISTENERS).write_text(edge.files()[LISTENERS])  # not moved: unread
    assert edge.proxy.accepts(before)
    assert not edge.proxy.accepts(edge.files())
    bring(edge.proxy, edge.files())
    assert edge.proxy.accepts(edge.files())
    assert get(admin["port"], "/ready")[0] == 200


def test_a_killed_envoy_is_started_with_the_new_files(edge: Native) -> None:
    edge.service.stop()
    public_routes(edge)[0]["match"]["prefix"] = "/new"
    bring(edge.proxy, edge.files())
    assert get(port_of(edge.plan, "public"), "/new")[0] == 200


def test_another_bootstrap_needs_another_process(edge: Native, envoy: Path) -> None:
    edge.plan.view["node"]["id"] = "another"
    bring(edge.proxy, edge.files())
    assert edge.proxy.needs_restart(edge.files(), str(envoy))
    edge.service.start()
    bring(edge.proxy, edge.files())
    assert not edge.proxy.needs_restart(edge.files(), str(envoy))


def test_admin_pages_can_be_read_and_nothing_else(edge: Native) -> None:
    port = port_of(edge.plan, "admin")
    assert get(port, "/ready")[::2] == (200, "LIVE\n")
    for path in ("/", "/server_info", "/stats", "/stats/prometheus", "/clusters?format=json"):
        assert get(port, path)[0] == 200, path
    for path in ("/config_dump", "/quitquitquit", "/ready/../config_dump", "/logging", "/certs"):
        assert get(port, path)[0] == 403, path
