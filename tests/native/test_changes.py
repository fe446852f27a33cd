"""What a change reaches: as few files as can be, and no stream that is under way."""

from __future__ import annotations

import http.client
import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.envoy_apply import bring
from plugins.module_utils.envoy_files import Files, differences
from tests.native.native import (
    Native,
    Upstream,
    ask,
    eventually,
    free_port,
    on_loopback,
    port_of,
    running,
)
from tests.native.views import (
    answer,
    cluster,
    collector,
    endpoint,
    host,
    match,
    proxy,
    public,
    route,
    table,
)
from vmesh.compile.host_spec import View


class _Stream:
    """An upstream whose answer to /stream ends when it is told to."""

    def __init__(self) -> None:
        stream = self
        self.end = threading.Event()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                self.wfile.write(b"5\r\nbegun\r\n")
                if self.path == "/stream":
                    stream.end.wait(20)
                self.wfile.write(b"5\r\nended\r\n0\r\n\r\n")

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = int(self.server.server_address[1])


@contextmanager
def streaming() -> Iterator[_Stream]:
    stream = _Stream()
    threading.Thread(target=stream.server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield stream
    finally:
        stream.end.set()
        stream.server.shutdown()
        stream.server.server_close()


def _change(made: Native, mend: Callable[[View], None]) -> list[str]:
    """Bring the proxy to its plan after `mend`; return the files that this changed."""
    before: Files = made.files()
    mend(made.plan.view)
    after = made.files()
    bring(made.proxy, after)
    return differences(before, after)


@pytest.fixture
def edge(envoy: Path, tmp_path: Path) -> Iterator[tuple[Native, _Stream, Upstream]]:
    with streaming() as stream, Upstream("replica") as replica:
        plan = on_loopback(
            proxy(
                [public()],
                {"public": table(host("all", [route("/", "shop", timeout=60.0)]))},
                [cluster("shop", stream.port), collector(free_port())],
            )
        )
        with running(envoy, tmp_path, plan) as made:
            yield made, stream, replica


def test_changes_reach_their_own_files_and_no_running_stream(
    edge: tuple[Native, _Stream, Upstream],
) -> None:
    made, stream, replica = edge
    port = port_of(made.plan, "public")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/stream")
    response = connection.getresponse()
    assert response.read(5) == b"begun"

    def add_replica(view: View) -> None:
        view["clusters"][0]["endpoints"].append(endpoint(replica.port))

    def change_routes(view: View) -> None:
        (site,) = view["routes"]["public"]["virtual_hosts"]
        site["filters"] = {"compression": True}
        site["routes"][0]["filters"] = {
            "rate_limit": {"tokens": 1, "interval": 1.0, "burst": 100, "retry_after": 1}
        }
        site["routes"][:0] = [
            answer("/here", answer={"status": 200, "body": "here"}),
            route("", "shop", match=match("/ws"), websocket=True),
        ]
        view["routes"]["public"]["virtual_hosts"].append(
            host("more", [route("/", "shop")], domains=["more.example.com"])
        )

    assert _change(made, add_replica) == ["endpoints/shop.json"]
    assert eventually(lambda: ask(port, "/any").upstream == "replica")
    assert _change(made, change_routes) == ["routes/public.json"]
    assert ask(port, "/here").text == "here"
    stream.end.set()
    assert response.read() == b"ended"
    connection.close()


def test_an_upstream_may_move_out_of_the_mesh_and_back(
    edge: tuple[Native, _Stream, Upstream],
) -> None:
    made, _, replica = edge
    port = port_of(made.plan, "public")

    def move(kind: str, address: str, to: int) -> list[str]:
        where = {"type": kind, "endpoints": [{**endpoint(to), "address": address}]}
        return _change(made, lambda view: view["clusters"][0].update(where))

    changed = move("dns", "localhost", replica.port)
    assert changed == ["clusters/clusters.json", "endpoints/shop.json"]
    assert "endpoints/shop.json" not in made.proxy.store.read()
    assert ask(port, "/any").upstream == "replica"
    move("eds", "127.0.0.1", replica.port)
    assert ask(port, "/any").upstream == "replica"
    assert made.proxy.accepts(made.files())


def test_a_name_that_nobody_knows_keeps_nobody_waiting(
    edge: tuple[Native, _Stream, Upstream],
) -> None:
    made, _, _ = edge
    unknown = {**cluster("unknown"), "type": "dns"}
    unknown["endpoints"] = [{**endpoint(80), "address": "nobody.invalid"}]
    changed = _change(made, lambda view: view["clusters"].append(unknown))
    assert changed == ["clusters/clusters.json"]
    assert ask(port_of(made.plan, "public"), "/any").status == 200
