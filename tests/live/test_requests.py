"""What a client of the edge sees, word for word."""

from __future__ import annotations

import re

import pytest

from tests.live.target import Target

# Everything the edge answers with, and nothing else.
HEADERS = {
    "content-type",
    "content-length",
    "x-envoy-upstream-service-time",
    "server",
    "date",
    "x-envoy-protocol-version",
    "x-trace-id",
}
ADMIN_PAGES = (
    "/",
    "/ready",
    "/server_info",
    "/stats",
    "/stats/prometheus",
    "/clusters",
    "/listeners",
    "/memory",
    "/hot_restart_version",
)


@pytest.mark.parametrize(
    ("path", "service", "number"),
    [
        ("/service/1", "service1", 1),
        ("/service/2", "service2", 2),
        ("/trace/1", "service1", 1),
        ("/trace/2", "service2", 2),
    ],
)
def test_answer_is_the_sandbox_s(target: Target, path: str, service: str, number: int) -> None:
    vm = target.vm_of(service)
    hostname = vm.run("hostname").strip()
    reply = target.get(path)
    assert (reply.status, reply.reason) == (200, "OK")
    assert reply.body == (
        f"Hello from behind Envoy (service {number})! hostname: {hostname} "
        f"resolvedhostname: {vm.plan.address}\n"
    )
    headers = dict(reply.headers)
    assert set(headers) == HEADERS
    assert len(headers) == len(reply.headers), f"a header came twice: {reply.headers}"
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert headers["content-length"] == str(len(reply.body.encode()))
    assert headers["server"] == "envoy"
    assert headers["x-envoy-protocol-version"] == "HTTP/1.1"
    assert headers["x-envoy-upstream-service-time"].isdigit()
    assert re.fullmatch(r"[0-9a-f]{32}", headers["x-trace-id"])


def test_path_without_route_is_not_found(target: Target) -> None:
    assert target.get("/nothing/here").status == 404


@pytest.mark.parametrize("page", ADMIN_PAGES)
def test_admin_page_is_shown(target: Target, page: str) -> None:
    reply = target.admin(page)
    assert reply.status == 200
    assert reply.body


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/"),
        ("POST", "/ready"),
        ("POST", "/quitquitquit"),
        ("GET", "/quitquitquit"),
        ("POST", "/healthcheck/fail"),
        ("POST", "/logging?level=trace"),
        ("GET", "/logging"),
        ("GET", "/config_dump"),
        ("GET", "/config_dump?resource=bootstrap"),
        ("GET", "/stats/../config_dump"),
        ("GET", "//config_dump"),
        ("GET", "/%63onfig_dump"),
        ("GET", "/certs"),
        ("GET", "/runtime"),
    ],
)
def test_admin_page_that_changes_or_reveals_is_refused(
    target: Target, method: str, path: str
) -> None:
    reply = target.admin(path, method=method)
    assert reply.status == 403, reply.body[:300]
    assert target.admin("/ready").body == "LIVE\n"
