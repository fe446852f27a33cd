"""How a proxy treats its upstreams, by the real Envoy: whom it asks, and whom it leaves out."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.native.certificates import Authority
from tests.native.native import (
    Answer,
    Client,
    Request,
    Upstream,
    ask,
    eventually,
    free_port,
    on_loopback,
    port_of,
    running,
)
from tests.native.views import (
    BREAKER,
    OUTLIER,
    RETRY,
    cluster,
    collector,
    endpoint,
    host,
    listener,
    proxy,
    route,
    table,
)
from vmesh.compile.host_spec import View
from vmesh.render.templates import HOST_AUTHORITIES

CHECK = {
    "path": "/healthz",
    "interval": 0.1,
    "timeout": 1.0,
    "healthy_threshold": 1,
    "unhealthy_threshold": 3,
}
NO_OUTLIERS: View = {"outlier_detection": None}
TLS_NAME = "api.example.com"
HOST_HAS_AUTHORITIES = Path(HOST_AUTHORITIES).exists()


class Group:
    """A caller with one cluster a path: /<cluster> leads to the cluster of that name."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.port = 0
        self.upstreams: dict[str, Upstream] = {}
        self.clusters: list[View] = []
        self.routes: list[View] = []

    def upstream(self, name: str, **given: Any) -> int:
        """Start an upstream; return its port."""
        made = self.stack.enter_context(Upstream(name, **given))
        self.upstreams[name] = made
        return made.port

    def lead(self, to: View, **given: Any) -> None:
        """Make a path that leads to the cluster `to`; `given` is the route's."""
        self.clusters.append(to)
        self.routes.append(route(f"/{to['name']}", to["name"], **given))

    def start(self, envoy: Path, root: Path) -> None:
        listeners = [listener("egress", direction="OUTBOUND")]
        clusters = [*self.clusters, collector(free_port())]
        routes = {"egress": table(host("all", self.routes))}
        plan = on_loopback(proxy(listeners, routes, clusters))
        self.made = self.stack.enter_context(running(envoy, root, plan))
        self.port = port_of(plan, "egress")

    def ask(self, path: str, **headers: str) -> Answer:
        """Send a request; _ in the names of `headers` becomes -."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return ask(self.port, path, headers=named)

    def answers(self, path: str, times: int) -> list[tuple[int, str]]:
        """Return status and upstream of that many requests on one connection."""
        client = Client(self.port)
        answers = [client.ask(path) for _ in range(times)]
        client.close()
        return [(each.status, each.upstream) for each in answers]

    def counter(self, name: str) -> int:
        """Return a counter of the proxy."""
        _, body = self.made.proxy.admin.get(f"/stats?filter=^{name}$")
        return int(body.rpartition(": ")[2])

    def seen(self, name: str, path: str) -> int:
        return sum(each.startswith(path) for each in self.upstreams[name].paths())


def _fails_at(path: str, status: int) -> Any:
    """Return a reply with `status` to paths that begin so, and 200 to others."""
    return lambda got: (status if got.path.startswith(path) else 200, got.as_json())


@pytest.fixture(scope="module")
def group(envoy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Group]:
    with ExitStack() as stack:
        made = Group(stack)
        ports = {name: made.upstream(name) for name in ("one", "two", "three")}
        one, two, three = ports.values()
        dead = free_port()

        ring = cluster("ring", one, two, three, load_balancing="ring_hash")
        made.lead(ring, hash_on=[{"header": "x-user"}])
        cookie = cluster("cookie", one, two, three, load_balancing="ring_hash")
        made.lead(cookie, hash_on=[{"cookie": "cart", "ttl": 60}])
        made.lead(cluster("robin", one, two, three, load_balancing="round_robin"))

        turns: View = {"load_balancing": "round_robin", **NO_OUTLIERS}
        made.lead(cluster("half-dead", dead, one, **turns))
        made.lead(cluster("unretried", dead, **NO_OUTLIERS), retry=None)
        patient = {**RETRY, "on": "5xx", "attempts": 3}
        made.lead(cluster("patient", one, two, **turns), retry=patient)
        once = {**RETRY, "on": "5xx", "attempts": 1}
        made.lead(cluster("drawn", one, two, **NO_OUTLIERS), retry=once)
        quick = {**RETRY, "on": "reset", "attempts": 1, "per_try_timeout": 0.2}
        made.lead(cluster("quick", one, two, **turns), retry=quick, timeout=5.0)

        made.lead(cluster("ejects", one, two))
        made.lead(cluster("forgives", one, two))
        none = {**OUTLIER, "consecutive_gateway_failures": 0}
        made.lead(cluster("ignores", one, two, outlier_detection=none))
        strict = {**OUTLIER, "consecutive_gateway_failures": 0, "consecutive_5xx": 3}
        made.lead(cluster("strict", one, two, outlier_detection=strict))

        busy = {**BREAKER, "max_requests": 1}
        made.lead(cluster("busy", three, circuit_breaker=busy))

        for name in ("sick", "near", "far"):
            ports[name] = made.upstream(name)
        made.lead(cluster("checked", one, ports["sick"], health_check=CHECK, **NO_OUTLIERS))
        zones = [endpoint(ports["near"], "east", 0), endpoint(ports["far"], "west", 1)]
        made.lead(cluster("zoned", endpoints=zones, health_check=CHECK, **NO_OUTLIERS))

        made.lead(cluster("named", type="dns", endpoints=[_at("localhost", one)]))
        _lead_to_tls(made, tmp_path_factory.mktemp("tls"))
        made.start(envoy, tmp_path_factory.mktemp("group"))
        yield made


def _at(address: str, port: int) -> View:
    return {**endpoint(port), "address": address}


def _lead_to_tls(group: Group, folder: Path) -> None:
    """Make paths to servers with certificates of an authority, whom callers trust or not."""
    ours, stranger = Authority(folder), Authority(folder / _made(folder / "stranger"))
    ports = {
        "tls": group.upstream("tls", certificate=ours.certificate(TLS_NAME)),
        "wildcard": group.upstream("wildcard", certificate=ours.certificate("*.example.com")),
        "address": group.upstream("address", certificate=ours.certificate("127.0.0.1")),
        "stranger": group.upstream("stranger", certificate=stranger.certificate(TLS_NAME)),
    }
    trusting: View = {"sni": TLS_NAME, "verify": True, "ca_file": str(ours.file)}
    cases: dict[str, tuple[str, View]] = {
        "tls-good": ("tls", trusting),
        "tls-wildcard": ("wildcard", trusting),
        "tls-address": ("address", {**trusting, "sni": "127.0.0.1"}),
        "tls-other-name": ("tls", {**trusting, "sni": "other.example.com"}),
        "tls-stranger": ("stranger", trusting),
        "tls-system": ("tls", {**trusting, "ca_file": None}),
        "tls-unverified": ("stranger", {**trusting, "verify": False}),
    }
    if not HOST_HAS_AUTHORITIES:
        del cases["tls-system"]
    for name, (server, said) in cases.items():
        where = [_at("127.0.0.1", ports[server])]
        group.lead(cluster(name, type="dns", endpoints=where, tls=said, **NO_OUTLIERS), retry=None)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_the_same_header_leads_to_the_same_instance(group: Group) -> None:
    chosen = {f"user{n}": {group.ask("/ring", x_user=f"user{n}").upstream} for n in range(20)}
    for user, names in chosen.items():
        names |= {group.ask("/ring", x_user=user).upstream for _ in range(3)}
    assert all(len(names) == 1 for names in chosen.values())
    assert len(set.union(*chosen.values())) > 1


def test_a_cookie_that_a_client_lacks_is_set_and_sticks(group: Group) -> None:
    first = group.ask("/cookie")
    told = first.headers["set-cookie"]
    assert "cart=" in told
    assert "Max-Age=60" in told
    assert "Path=/" in told
    cookie = told.split(";")[0]
    assert {group.ask("/cookie", cookie=cookie).upstream for _ in range(6)} == {first.upstream}
    others = {group.ask("/cookie").upstream for _ in range(20)}
    assert len(others) > 1


def test_instances_take_turns(group: Group) -> None:
    names = [name for _, name in group.answers("/robin", 6)]
    assert sorted(names) == sorted(["one", "two", "three"] * 2)


def test_a_connection_that_fails_is_tried_at_another_instance(group: Group) -> None:
    assert group.answers("/half-dead", 20) == [(200, "one")] * 20
    assert group.ask("/unretried").status == 503


def test_failures_that_are_named_are_retried_at_another_instance(group: Group) -> None:
    group.upstreams["one"].reply = _fails_at("/patient", 500)
    assert group.answers("/patient", 10) == [(200, "two")] * 10
    assert 0 < group.seen("one", "/patient") <= 10


def test_a_retry_finds_the_other_instance_although_it_draws(group: Group) -> None:
    group.upstreams["one"].reply = _fails_at("/drawn", 500)
    assert group.answers("/drawn", 500) == [(200, "two")] * 500
    assert group.seen("one", "/drawn") > 100


def test_an_attempt_has_a_time_of_its_own(group: Group) -> None:
    def slow(request: Request) -> tuple[int, bytes]:
        if request.path.startswith("/quick"):
            time.sleep(1)
        return 200, b""

    group.upstreams["one"].reply = slow
    assert group.answers("/quick", 2) == [(200, "two")] * 2
    assert group.seen("one", "/quick") > 0


def test_an_instance_that_fails_five_times_in_a_row_is_ejected(group: Group) -> None:
    group.upstreams["one"].reply = _fails_at("/ejects", 503)
    answers = group.answers("/ejects", 60)
    # Some are on their way until all threads of Envoy know.
    assert 5 <= [status for status, _ in answers].count(503) < 15
    assert answers[-20:] == [(200, "two")] * 20


@pytest.mark.parametrize(("path", "status"), [("/forgives", 500), ("/ignores", 503)])
def test_failures_that_do_not_count_eject_nobody(group: Group, path: str, status: int) -> None:
    group.upstreams["one"].reply = _fails_at(path, status)
    answers = group.answers(path, 60)
    assert [each for each, _ in answers].count(status) > 15


def test_every_5xx_counts_where_that_is_said(group: Group) -> None:
    group.upstreams["one"].reply = _fails_at("/strict", 500)
    statuses = [status for status, _ in group.answers("/strict", 60)]
    assert 3 <= statuses.count(500) < 13


def test_more_requests_than_may_be_in_flight_are_refused_at_once(group: Group) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def waits(request: Request) -> tuple[int, bytes]:
        if request.path == "/busy/first":
            entered.set()
            go_on.wait(10)
        return 200, b""

    group.upstreams["three"].reply = waits
    first = threading.Thread(target=group.ask, args=("/busy/first",))
    first.start()
    try:
        assert entered.wait(5)
        refused = group.ask("/busy/second")
        assert (refused.status, refused.headers["x-envoy-overloaded"]) == (503, "true")
    finally:
        go_on.set()
        first.join()
    assert group.ask("/busy/third").status == 200


def test_a_health_check_takes_a_bad_instance_out_and_in_again(group: Group) -> None:
    sick = group.upstreams["sick"]
    assert eventually(lambda: group.ask("/checked").upstream == "sick")
    sick.reply = _fails_at("/healthz", 500)
    assert eventually(lambda: {name for _, name in group.answers("/checked", 10)} == {"one"})
    sick.reply = _fails_at("/nothing", 500)
    assert eventually(lambda: group.ask("/checked").upstream == "sick")


def test_a_health_check_says_that_it_is_one(group: Group) -> None:
    sick = group.upstreams["sick"]
    assert eventually(lambda: "/healthz" in sick.paths())
    check = next(request for request in sick.requests if request.path == "/healthz")
    assert check.headers["x-vmesh-health-check"] == "1"
    assert check.headers["host"] == "checked"


def test_an_instance_is_out_after_so_many_failures_and_not_before(group: Group) -> None:
    """Without more ado Envoy would take a 500 for final at once."""
    sick = group.upstreams["sick"]
    assert eventually(lambda: group.ask("/checked").upstream == "sick")
    failed = 0

    def fails_twice(request: Request) -> tuple[int, bytes]:
        nonlocal failed
        failed += request.path == "/healthz"
        return (500 if request.path == "/healthz" and failed <= 2 else 200), b""

    sick.reply = fails_twice
    names = []
    while failed < 3:
        name = group.ask("/checked").upstream
        if failed in (1, 2):
            names.append(name)
    assert names.count("sick") > len(names) / 4


def test_the_own_zone_answers_while_it_can(group: Group) -> None:
    near = group.upstreams["near"]
    assert eventually(lambda: group.ask("/zoned").upstream == "near")
    assert group.answers("/zoned", 20) == [(200, "near")] * 20
    near.reply = _fails_at("/healthz", 503)
    assert eventually(lambda: group.ask("/zoned").upstream == "far")
    near.reply = _fails_at("/nothing", 503)
    assert eventually(lambda: group.ask("/zoned").upstream == "near")


def test_a_name_outside_the_mesh_is_looked_up(group: Group) -> None:
    assert group.ask("/named").upstream == "one"


@pytest.mark.parametrize("case", ["good", "wildcard", "address", "unverified"])
def test_a_certificate_for_the_name_is_accepted(group: Group, case: str) -> None:
    assert group.ask(f"/tls-{case}").status == 200


@pytest.mark.parametrize(
    ("case", "counted"),
    [
        ("other-name", "fail_verify_san"),
        ("stranger", "fail_verify_error"),
        pytest.param(
            "system",
            "fail_verify_error",
            marks=pytest.mark.skipif(not HOST_HAS_AUTHORITIES, reason=f"no {HOST_AUTHORITIES}"),
        ),
    ],
)
def test_a_certificate_for_another_name_or_of_a_stranger_is_refused(
    group: Group, case: str, counted: str
) -> None:
    assert group.ask(f"/tls-{case}").status == 503
    assert group.counter(f"cluster.tls-{case}.ssl.{counted}") > 0


def test_the_name_is_asked_for_unless_it_is_an_address(group: Group) -> None:
    assert json.loads(group.ask("/tls-good").body)["host"].startswith("127.0.0.1")
    group.ask("/tls-address")
    assert TLS_NAME in group.upstreams["tls"].server_names
    assert set(group.upstreams["address"].server_names) == {None}
