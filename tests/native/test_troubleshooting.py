"""The statuses and flags of docs/troubleshooting.md that no row of docs/limits.md has."""

from __future__ import annotations

import http.server
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.native.edges import service_plan
from tests.native.native import ask, eventually, free_port, port_of, running, send_to
from vmesh.base import paths
from vmesh.compile.host_spec import ProxySpec

DOCS = paths.PROJECT / "docs"
_ROW = re.compile(r"^\| ([0-9]+) \| `([A-Z-]+)` \|", re.MULTILINE)
_LIMITS = re.compile(r"\| ([0-9]{3}) \| `([A-Z,-]+)` \|")

# The limits' rows are tried there; the retries that are used up are told beside another flag.
LIMITS = {
    (status, flag.removeprefix("URX,"))
    for status, flag in _LIMITS.findall((DOCS / "limits.md").read_text())
}
SHOWN = set(_ROW.findall((DOCS / "troubleshooting.md").read_text()))
HERE = {("503", "UF"), ("503", "UH"), ("503", "UC"), ("0", "DC")}


def test_every_status_is_tried_somewhere() -> None:
    assert SHOWN - LIMITS <= HERE
    assert HERE <= SHOWN


def _flags(envoy: Path, folder: Path, plan: ProxySpec, *, patient: bool = True) -> tuple[str, str]:
    """Send a request of the shop to pay; return status and flag of the access log."""
    with running(envoy, folder, plan) as made:
        port = port_of(plan, "egress-pay")
        if patient:
            ask(port)
        else:
            with socket.create_connection(("127.0.0.1", port)) as hasty:
                hasty.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
                assert eventually(lambda: _active(made) == 1)
        assert eventually(lambda: bool(made.access_log()))
        line = made.access_log()[-1]
    return str(line["status"]), line["flags"].removeprefix("URX,")


def _active(made: Any) -> int:
    _, text = made.proxy.admin.get("/stats?filter=cluster.pay.upstream_rq_active$")
    return int(text.rpartition(": ")[2])


@contextmanager
def _closes() -> Iterator[int]:
    """Run a server that takes a request and closes the connection; yields its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.close_connection = True

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def test_nobody_listens(envoy: Path, tmp_path: Path) -> None:
    plan = service_plan("shop")
    send_to(plan, "pay", free_port())
    assert _flags(envoy, tmp_path, plan) == ("503", "UF")


def test_no_instance_is_there(envoy: Path, tmp_path: Path) -> None:
    plan = service_plan("shop")
    for cluster in plan.view["clusters"]:
        if cluster["name"] == "pay":
            cluster["endpoints"] = []
    assert _flags(envoy, tmp_path, plan) == ("503", "UH")


def test_an_app_closes_before_it_answers(envoy: Path, tmp_path: Path) -> None:
    plan = service_plan("shop", {"pay": {"retries": {"attempts": 0}}})
    with _closes() as port:
        send_to(plan, "pay", port)
        assert _flags(envoy, tmp_path, plan) == ("503", "UC")


def test_a_client_goes_away(envoy: Path, tmp_path: Path) -> None:
    plan = service_plan("shop")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        send_to(plan, "pay", silent.getsockname()[1])
        assert _flags(envoy, tmp_path, plan, patient=False) == ("0", "DC")
