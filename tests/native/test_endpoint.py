"""Endpoints of a real Envoy that drain and serve again, and files that find no room."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from plugins.module_utils.endpoint_health import Endpoint, mark
from plugins.module_utils.envoy_apply import Proxy, Refused, bring
from plugins.module_utils.envoy_documents import all_serving, draining, serving, version_of
from plugins.module_utils.envoy_files import Store
from tests.native.native import Native, Upstream, ask, native, on_loopback, port_of
from vmesh.base import paths
from vmesh.compile.compiler import compile_mesh
from vmesh.model.inventory import load
from vmesh.render.renderer import Renderer

LAB = paths.PROJECT / "inventory" / "lab"
FILE = "endpoints/service1.json"


@pytest.fixture
def replicas() -> Iterator[tuple[Upstream, Upstream]]:
    with Upstream("one") as one, Upstream("two") as two:
        yield one, two


@pytest.fixture
def edge(envoy: Path, tmp_path: Path, replicas: tuple[Upstream, Upstream]) -> Iterator[Native]:
    """The lab's edge, running, with two replicas of service1."""
    hosts = compile_mesh(load(LAB)).hosts.values()
    (plan,) = [proxy for host in hosts for proxy in host.proxies if proxy.kind == "edge"]
    plan = on_loopback(plan)
    for cluster in plan.view["clusters"]:
        if cluster["name"] == "service1":
            cluster["endpoints"] = [
                {"address": "127.0.0.1", "port": upstream.port} for upstream in replicas
            ]
            cluster["health_check"] = None
    with native(envoy, tmp_path, plan) as made:
        bring(made.proxy, made.files())
        yield made


def endpoint(upstream: Upstream) -> Endpoint:
    return Endpoint("service1", "127.0.0.1", upstream.port)


def answering(edge: Native) -> set[str]:
    port = port_of(edge.plan, "public")
    return {ask(port, "/service/1").upstream for _ in range(20)}


def all_texts() -> list[str]:
    return [
        text
        for inventory in ("lab", "example-shop")
        for host in compile_mesh(load(paths.PROJECT / "inventory" / inventory)).hosts.values()
        for proxy in host.proxies
        for path, text in Renderer().files(proxy).items()
        if path.startswith("endpoints/") and "port_value" in text
    ]


def test_draining_and_serving_are_exact_inverses() -> None:
    for text in all_texts():
        (assignment,) = json.loads(text)["resources"]
        where = assignment["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]
        address, port = where["socket_address"].values()
        marked = draining(text, address, port)
        assert marked != text
        assert version_of(marked) != version_of(text)
        assert draining(marked, address, port) == marked
        assert serving(marked, address, port) == all_serving(marked) == text
        assert draining(text, address, port + 1) == text


def test_a_draining_endpoint_gets_no_request_until_it_serves_again(
    edge: Native, replicas: tuple[Upstream, Upstream]
) -> None:
    one, _ = replicas
    assert answering(edge) == {"one", "two"}
    proxies = {"front-proxy": edge.proxy}
    assert mark(proxies, endpoint(one), "draining", dry=True).changed == ["front-proxy"]
    assert answering(edge) == {"one", "two"}
    assert mark(proxies, endpoint(one), "draining").changed == ["front-proxy"]
    assert answering(edge) == {"two"}
    assert mark(proxies, endpoint(one), "draining").changed == []
    assert mark(proxies, endpoint(one), "serving").changed == ["front-proxy"]
    assert answering(edge) == {"one", "two"}
    assert edge.proxy.store.read() == edge.files()


def test_what_a_killed_run_left_draining_serves_after_the_next(
    edge: Native, replicas: tuple[Upstream, Upstream]
) -> None:
    mark({"front-proxy": edge.proxy}, endpoint(replicas[0]), "draining")
    assert not edge.proxy.accepts(edge.files()), "so the next run sees something to do"
    bring(edge.proxy, edge.files())
    assert answering(edge) == {"one", "two"}


def test_proxies_that_do_not_call_it_or_do_not_run_are_left_alone(
    edge: Native, replicas: tuple[Upstream, Upstream]
) -> None:
    proxies = {"front-proxy": edge.proxy}
    elsewhere = Endpoint("service1", "127.0.0.1", 1)
    assert mark(proxies, elsewhere, "draining").skipped == {
        "front-proxy": "it has no such endpoint"
    }
    mark(proxies, endpoint(replicas[0]), "draining")
    edge.service.stop()
    assert mark(proxies, endpoint(replicas[1]), "draining").skipped == {
        "front-proxy": "it does not run"
    }
    assert mark(proxies, endpoint(replicas[0]), "serving").changed == ["front-proxy"]
    assert edge.proxy.store.read() == edge.files(), "it will start with an endpoint that serves"


def test_when_one_proxy_does_not_take_it_all_serve_as_before(
    edge: Native, replicas: tuple[Upstream, Upstream], tmp_path: Path
) -> None:
    """The second proxy's files are in a folder that its Envoy does not watch."""
    shutil.copytree(edge.proxy.store.path, tmp_path / "unwatched")
    store = Store(tmp_path / "unwatched", edge.proxy.store.gid, edge.proxy.store.uid)
    deaf = Proxy(store, edge.service, edge.proxy.admin, timeout=0.5)
    store.place(FILE, draining(edge.files()[FILE], "127.0.0.1", replicas[1].port))
    one, before = endpoint(replicas[0]), store.read()
    with pytest.raises(Refused, match=r"deaf did not take 127\.0\.0\.1:\d+ of service1 as drain"):
        mark({"front-proxy": edge.proxy, "deaf": deaf}, one, "draining")
    assert edge.proxy.store.read() == edge.files()
    assert store.read() == before
    bring(edge.proxy, edge.files())
    assert answering(edge) == {"one", "two"}


@contextmanager
def full_disk() -> Iterator[None]:
    """Let no file of this process grow beyond a few bytes, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_on_a_full_disk_all_stays_and_is_told(edge: Native) -> None:
    before = edge.files()
    (host,) = edge.plan.view["routes"]["public"]["virtual_hosts"]
    host["routes"][0]["match"]["prefix"] = "/new"
    with full_disk(), pytest.raises(Refused, match=r"too large.*Its files are as they were"):
        bring(edge.proxy, edge.files())
    assert edge.proxy.store.read() == before
    assert edge.proxy.accepts(before)
    assert not list(edge.proxy.store.path.glob(".incoming-*"))
    bring(edge.proxy, edge.files())
    assert edge.proxy.accepts(edge.files())


def test_what_envoy_refuses_is_taken_back_without_room_on_the_disk(
    edge: Native, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be written from the moment on that the first file is moved into place."""
    before = edge.files()
    (host,) = edge.plan.view["routes"]["public"]["virtual_hosts"]
    host["routes"][0]["cluster"] = "nobody"
    stage = edge.proxy.stage
    with full_disk():
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)

        def staged(new: dict[str, str]) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit[1], limit[1]))
            stage(new)
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)

        monkeypatch.setattr(edge.proxy, "stage", staged)
        with pytest.raises(Refused, match=r"(?s)nobody.*back and confirmed"):
            bring(edge.proxy, edge.files())
    assert edge.proxy.store.read() == before
