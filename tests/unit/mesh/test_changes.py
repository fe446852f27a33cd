"""Every kind of change has a sentence, and where nothing changes nothing is said."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from tests.unit.mesh import worlds
from vmesh.base.problems import HIDDEN
from vmesh.compile.host_spec import egress_address
from vmesh.rollout import change_report, change_words, changes
from vmesh.rollout.change_report import Change


def compared(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    return changes.compare(old, new, worlds.rerender, worlds.HOSTS)


def sentences(found: list[Change], *kinds: str) -> list[str]:
    """Return the changes as lines, each once, without restarts unless they are asked for."""
    return [
        f"{each.part}: {each.text}"
        for each in change_report.group(found)
        if each.kind
        in (
            kinds
            or (change_report.ADD, change_report.REMOVE, change_report.CHANGE, change_report.NOTE)
        )
    ]


def after(*edits: tuple[str, Any]) -> list[Change]:
    return compared(worlds.states(), worlds.states(worlds.inventory(worlds.changed(*edits))))


JWKS = "tests/corpus/jwks.json"
SHOP, STOCK = "mesh_services/shop", "mesh_services/stock"
CALL = f"{SHOP}/calls/stock"
FRONT = "mesh_edges/front"
ROUTE = f"{FRONT}/routes/0"
OWN = egress_address("shop")
ISSUER = {"issuer": "https://login", "audiences": ["shop"], "jwks_file": JWKS}
FETCHED = {"issuer": "https://login", "audiences": ["shop"], "jwks_url": "https://login/keys"}
HASH = "{SHA}2jmj7l5rSw0yVb/vlWAYkK/YBwk="

PATCH = {"proxy": "front", "kind": "listener", "name": "public", "merge": {"a": 1}}

CASES: list[tuple[tuple[tuple[str, Any], ...], list[str]]] = [
    (
        (("mesh_patches", [PATCH, {"proxy": "*", "kind": "bootstrap", "merge": {"a": 1}}]),),
        [
            "edge front: a patch of listener public is new",
            "edge front: a patch of the bootstrap is new",
            "shop's Envoy: a patch of the bootstrap is new",
            "stock's Envoy: a patch of the bootstrap is new",
            "stock-next's Envoy: a patch of the bootstrap is new",
        ],
    ),
    # HTTPS and tokens
    (
        (
            (f"{FRONT}/tls", {"certificate_on_host": "/c.pem", "key_on_host": "/k.pem"}),
            (f"{FRONT}/hsts", 60),
            (f"{FRONT}/redirect_port", 80),
        ),
        [
            "edge front: new listener for redirects to HTTPS on 0.0.0.0:80",
            "edge front: listener for clients: HTTPS none -> TLS 1.2 and newer",
            "edge front: routes public: seconds for which browsers use HTTPS only none -> 60",
            "edge front: its certificate none of these -> /c.pem of the host",
        ],
    ),
    (
        ((f"{FRONT}/tls", {"local": True}),),
        [
            "edge front: listener for clients: HTTPS none -> TLS 1.2 and newer",
            *(
                "edge front: its certificate none of these -> signed by its host,"
                f" for {address}, 127.0.0.1, localhost"
                for address in ("10.0.0.1", "10.0.0.2")
            ),
        ],
    ),
    (
        ((f"{FRONT}/jwt", {"main": ISSUER}), (f"{ROUTE}/require", {"jwt": "main"})),
        [
            "edge front: all routes: headers taken from no client none -> x-user",
            "edge front: route /: token not needed -> of main",
            "edge front: tokens of https://login (main) count",
        ],
    ),
    (
        ((f"{FRONT}/jwt", {"main": FETCHED}), (f"{ROUTE}/require", {"jwt": "main"})),
        [
            "edge front: all routes: headers taken from no client none -> x-user",
            "edge front: new upstream for the keys of the issuer main: login:443",
            "edge front: route /: token not needed -> of main",
            "edge front: tokens of https://login (main) count",
        ],
    ),
    # Listeners
    (
        ((f"{SHOP}/calls/stock-next", {}),),
        [f"shop's Envoy: new listener for calls to stock-next on {OWN}:9003 (STOCK_NEXT_URL)"],
    ),
    (
        ((CALL, ...),),
        [f"shop's Envoy: no listener for calls to stock on {OWN}:9002 any more"],
    ),
    (
        ((f"{FRONT}/port", 8080),),
        ["edge front: listener for clients: 0.0.0.0:8000 -> 0.0.0.0:8080"],
    ),
    (
        ((f"{FRONT}/trusted_cidrs", ["10.0.0.0/8"]),),
        ["edge front: listener for clients: trusted networks none -> 10.0.0.0/8"],
    ),
    (
        ((f"{FRONT}/control_cidrs", ["10.0.0.0/8"]),),
        ["edge front: listener for clients: networks that may control Envoy none -> 10.0.0.0/8"],
    ),
    (
        ((f"{FRONT}/trusted_cidrs", ["10.0.0.0/8"]), (f"{FRONT}/proxy_protocol", "required")),
        [
            "edge front: listener for clients: trusted networks none -> 10.0.0.0/8",
            "edge front: listener for clients: trusted hops 1 -> 0",
            "edge front: listener for clients: PROXY protocol none -> required",
        ],
    ),
    (
        (
            (f"{FRONT}/headers_with_underscores", "allow"),
            (f"{FRONT}/escaped_slashes", "keep"),
            (f"{FRONT}/merge_slashes", False),
            (f"{FRONT}/http10", True),
        ),
        [
            "edge front: listener for clients: header names with underscores reject -> allow",
            "edge front: listener for clients: escaped slashes redirect -> keep",
            "edge front: listener for clients: merged slashes on -> off",
            "edge front: listener for clients: HTTP/1.0 refused -> taken, as for front",
        ],
    ),
    (
        ((f"{FRONT}/tracing", {"sampling": 10}),),
        ["edge front: sampling 100 % -> 10 %"],
    ),
    # Ports of services
    (
        ((f"{STOCK}/port", 9012),),
        [
            "edge front: endpoints of stock: port 9002 -> 9012",
            f"shop's Envoy: listener for calls to stock: {OWN}:9002 -> {OWN}:9012",
            "shop's Envoy: endpoints of stock: port 9002 -> 9012",
            "stock's Envoy: listener for callers: port 9002 -> 9012",
        ],
    ),
    # Routes
    (
        ((ROUTE, {"path_prefix": "/api", "to": "shop", "rewrite": {"prefix": "/"}}),),
        [
            "edge front: new route /api (and below): to shop",
            "edge front: no route / any more",
        ],
    ),
    (
        ((ROUTE, {"prefix": "/", "to": "shop", "rewrite": {"prefix": "/v2"}}),),
        ["edge front: route /: rewrite none -> prefix /v2"],
    ),
    (((f"{ROUTE}/timeout", 5),), ["edge front: route /: timeout 15 s -> 5 s"]),
    (((f"{ROUTE}/idle_timeout", 60),), ["edge front: route /: idle timeout 300 s -> 60 s"]),
    (((f"{ROUTE}/to", {"shop": 95, "stock": 5}),),
     ["edge front: route /: to shop -> to shop 95 %, stock 5 %"]),
    (((f"{ROUTE}/websocket", True), (f"{ROUTE}/timeout", 15)),
     ["edge front: route /: WebSocket off -> on"]),
    (((f"{ROUTE}/retries", {"attempts": 0}),),
     ["edge front: route /: retries 2 on connect-failure, refused-stream, reset-before-request"
      " -> none"]),
    (((f"{ROUTE}/rewrite", {"prefix": "/shop"}),),
     ["edge front: route /: rewrite none -> prefix /shop"]),
    (((f"{ROUTE}/mirror", {"to": "stock", "percent": 10}),),
     ["edge front: route /: mirror none -> 10 % to stock"]),
    (((f"{ROUTE}/operation", "buy"),), ["edge front: route /: name of its spans shop -> buy"]),
    (((f"{ROUTE}/fault", {"abort": {"status": 503, "percent": 10}}),),
     ["edge front: route /: fault none -> abort status 503, percent 10"]),
    (((f"{ROUTE}/rate_limit", {"requests": 10}),),
     ["edge front: route /: rate limit none -> 10 per second, 10 at once"]),
    (((f"{ROUTE}/max_request_bytes", 2000000),),
     ["edge front: listener for clients: Expect: 100-continue passed on to the app on -> off",
      "edge front: route /: bytes of a body kept for a retry 1048576 -> 2000000",
      "edge front: route /: largest request body in bytes none -> 2000000"]),
    (((f"{CALL}/request_body_buffer_limit", 2000),),
     ["shop's Envoy: calls to stock: bytes of a body kept for a retry 1048576 -> 2000"]),
    (
        ((f"{FRONT}/users", {"staff": {"anna": HASH}}), (f"{ROUTE}/require", {"users": "staff"})),
        ["edge front: all routes: headers taken from no client none -> x-user",
         "edge front: route /: login not needed -> of staff"],
    ),
    (
        ((f"{FRONT}/external_authorization", {"portal": {"to": "stock", "path": "/check"}}),
         (f"{ROUTE}/require", {"external": "portal"})),
        ["edge front: all routes: headers taken from no client none -> x-user",
         "edge front: route /: authorization not asked for -> by stock, before the path /check,"
         " within 0.5 s, with cookie"],
    ),
    (((f"{ROUTE}/compression", True),), ["edge front: route /: compression none -> on"]),
    (((f"{ROUTE}/tracing", {"sampling": 1}),), ["edge front: route /: tracing: sampling 1 %"]),
    (
        ((f"{FRONT}/routes/2", {"prefix": "/cart", "methods": ["GET", "PUT"], "to": "shop"}),),
        ["edge front: new route /cart [GET/PUT]: to shop"],
    ),
    (
        ((f"{FRONT}/routes/2", {"path": "/old", "redirect": {"path": "/new"}}),),
        ["edge front: new route /old (exactly): redirect 302 to /new"],
    ),
    (
        ((f"{FRONT}/routes/2", {"regex": "/a.*", "headers": {"x-a": "1"},
                                "answer": {"status": 404}}),),
        ["edge front: new route /a.* (regex) [x-a: 1]: answer 404"],
    ),
    (
        ((f"{FRONT}/routes/1", ...),),
        ["edge front: no route /stock (exactly) [GET] any more",
         "edge front: no upstream stock any more"],
    ),
    (((f"{FRONT}/domains", ["shop.example"]),),
     ["edge front: all routes of shop.example: answers for * -> shop.example"]),
    (
        ((f"{FRONT}/virtual_hosts", {"b2b": {"domains": ["b2b.example"],
                                             "routes": [{"prefix": "/", "to": "shop"}]}}),),
        ["edge front: new virtual host for b2b.example, with 1 route"],
    ),
    (((f"{CALL}/timeout", 5),), ["shop's Envoy: calls to stock: timeout 3 s -> 5 s"]),
    (((f"{CALL}/timeout", "none"),), ["shop's Envoy: calls to stock: timeout 3 s -> none"]),
    (((f"{ROUTE}/timeout", "none"),), ["edge front: route /: timeout 15 s -> none"]),
    (((f"{CALL}/idle_timeout", 60),),
     ["shop's Envoy: calls to stock: idle timeout 300 s -> 60 s"]),
    (((f"{SHOP}/operation", "buy"),),
     ["edge front: route /: name of its spans shop -> buy",
      "shop's Envoy: requests to the app: name of its spans shop -> buy"]),
    # Upstreams
    (((f"{ROUTE}/to", "stock-next"),),
     ["edge front: route /: to shop -> to stock-next",
      "edge front: route /: name of its spans shop -> stock-next",
      "edge front: new upstream stock-next: jaeger1 10.0.0.6:9003",
      "edge front: no upstream shop any more"]),
    (((f"{STOCK}/protocol", "grpc"),),
     ["edge front: stock: HTTP/2 off -> on",
      "edge front: stock: gRPC off -> on",
      "edge front: stock: dead connections found by none -> ping",
      "shop's Envoy: calls to stock: HTTP/2 off -> on",
      "shop's Envoy: calls to stock: gRPC off -> on",
      "shop's Envoy: calls to stock: dead connections found by none -> ping",
      "stock's Envoy: calls to the app: HTTP/2 off -> on",
      "stock's Envoy: calls to the app: gRPC off -> on"]),
    (((f"{CALL}/load_balancing", "round_robin"),),
     ["shop's Envoy: calls to stock: load balancing least_request -> round_robin"]),
    (((f"{CALL}/connect_timeout", 0.25),),
     ["shop's Envoy: calls to stock: connect timeout 1 s -> 0.25 s"]),
    (((f"{CALL}/circuit_breaker", {"max_requests": 10}),),
     ["shop's Envoy: calls to stock: circuit breaker: max requests 1024 -> 10"]),
    (((f"{CALL}/outlier_detection", {"enabled": False}),),
     ["shop's Envoy: calls to stock: outlier detection off"]),
    (((f"{CALL}/outlier_detection", {"ejection_time": 60}),),
     ["shop's Envoy: calls to stock: outlier detection: ejection time 30 s -> 60 s"]),
    (((f"{CALL}/health_check", {"path": "/up"}),),
     ["shop's Envoy: calls to stock: health check on: path /up, interval 5, timeout 1, "
      "healthy threshold 2, unhealthy threshold 3"]),
    (((f"{SHOP}/calls/bank/tls", {"verify": False}),),
     ["shop's Envoy: calls to bank: TLS: verify on -> off"]),
    (((f"{SHOP}/calls/bank/propagate_trace", ["w3c", "b3"]),),
     ["shop's Envoy: calls to bank: headers of its requests trace context as w3c alone, without B3"
      " -> trace context as w3c, b3 alone, with B3"]),
    (((f"{SHOP}/calls/bank/tls", ...), (f"{SHOP}/calls/bank/port", 443)),
     ["shop's Envoy: calls to bank: rewrite host api.bank.example -> host api.bank.example:443",
      "shop's Envoy: calls to bank: TLS off"]),
    (((f"{CALL}/load_balancing", "ring_hash"), (f"{CALL}/hash_on", {"header": "x-user"})),
     ["shop's Envoy: calls to stock: instance chosen by none -> header x-user",
      "shop's Envoy: calls to stock: load balancing least_request -> ring_hash"]),
    # Apps
    (((f"{SHOP}/app/environment/COLOR", "red"),), ["app shop: environment COLOR changes"]),
    (((f"{SHOP}/app/environment/SIZE", "9"),), ["app shop: environment SIZE is new"]),
    (((f"{SHOP}/app/environment", {}),), ["app shop: environment COLOR is gone"]),
    (((f"{SHOP}/app/threads", 4),), ["app shop: threads 8 -> 4"]),
    (((f"{SHOP}/app/preload", True),), ["app shop: preload off -> on"]),
    (((f"{SHOP}/app/wsgi", "main:app"),), ["app shop: WSGI app app:app -> main:app"]),
    (((f"{SHOP}/app/flask", "elsewhere"),), ["app shop: folder services/shop -> elsewhere"]),
    (((f"{STOCK}/app/external", "127.0.0.1:7002"),),
     ["stock's Envoy: endpoint of the app gone: 127.0.0.1:7001",
      "stock's Envoy: new endpoint of the app: 127.0.0.1:7002",
      "app stock: listens on 127.0.0.1:7001 -> 127.0.0.1:7002"]),
    # Pages of operators
    ((("mesh_operator_bind", "0.0.0.0"),),
     ["Jaeger: pages on 10.0.0.6:16686 -> 0.0.0.0:16686",
      "edge front: listener for the admin pages: 10.0.0.1:8001 -> 0.0.0.0:8001",
      "edge front: listener for the admin pages: 10.0.0.2:8001 -> 0.0.0.0:8001"]),
]  # fmt: skip


@pytest.mark.parametrize(("edits", "expected"), CASES)
def test_a_change_of_the_inventory_is_told_in_a_sentence(
    edits: tuple[tuple[str, Any], ...], expected: list[str]
) -> None:
    found = sentences(after(*edits))
    assert sorted(found) == sorted(expected)


def test_where_nothing_changes_nothing_is_said() -> None:
    assert compared(worlds.states(), worlds.states()) == []


def test_a_record_that_was_read_equals_the_state_that_was_written() -> None:
    assert compared(json.loads(json.dumps(worlds.states())), worlds.states()) == []


def test_a_new_instance_is_told_to_all_that_call_it_and_grouped() -> None:
    hosts = {**worlds.HOSTS, "store3": {"ansible_host": "10.0.0.7"}}
    groups = {**worlds.GROUPS, "stores": ("store1", "store2", "store3")}
    found = compared(worlds.states(), worlds.states(worlds.inventory(None, hosts, groups)))
    grouped = {f"{each.part}: {each.text}": each.hosts for each in change_report.group(found)}
    assert grouped["edge front: new endpoint of stock: store3 10.0.0.7:9002"] == ("web1", "web2")
    assert grouped["shop's Envoy: new endpoint of stock: store3 10.0.0.7:9002"] == ("shop1",)
    assert grouped["stock's Envoy: new Envoy in front of its app, port 9002"] == ("store3",)
    assert len(grouped) == 4


def test_a_host_that_gets_another_address_keeps_its_name() -> None:
    hosts = {**worlds.HOSTS, "store2": {"ansible_host": "10.0.0.99"}}
    found = compared(worlds.states(), worlds.states(worlds.inventory(None, hosts)))
    assert sorted(sentences(found)) == [
        "edge front: endpoint of stock on store2: 10.0.0.5:9002 -> 10.0.0.99:9002",
        "host: mesh address 10.0.0.5 -> 10.0.0.99",
        "shop's Envoy: endpoint of stock on store2: 10.0.0.5:9002 -> 10.0.0.99:9002",
    ]


def test_two_hosts_that_swap_addresses_are_not_mixed_up() -> None:
    hosts = {
        **worlds.HOSTS,
        "store1": {"ansible_host": "10.0.0.5"},
        "store2": {"ansible_host": "10.0.0.4"},
    }
    found = sentences(compared(worlds.states(), worlds.states(worlds.inventory(None, hosts))))
    assert "shop's Envoy: endpoint of stock on store1: 10.0.0.4:9002 -> 10.0.0.5:9002" in found
    assert "shop's Envoy: endpoint of stock on store2: 10.0.0.5:9002 -> 10.0.0.4:9002" in found


def test_identities_are_told_by_proxy() -> None:
    def states(**security: Any) -> dict[str, Any]:
        mesh = {
            **worlds.inventory().mesh,
            "mesh_security": {"trust_domain": "shop.mesh", **security},
        }
        return worlds.states(worlds.inventory(mesh))

    name = "spiffe://shop1.shop.mesh/shop"
    on, longer = states(mtls="permissive"), states(mtls="permissive", leaf_hours=168)
    assert f"host: identity of shop none -> {name}" in sentences(compared(states(), on))
    assert f"host: identity of shop {name} -> none" in sentences(compared(on, states()))
    assert set(sentences(compared(on, longer))) == {
        "host: hours that an identity is good 72 -> 168"
    }
    assert sentences(compared(worlds.states(), states(mtls="off"))) == []


def test_zones_are_told_by_what_they_do() -> None:
    hosts = copy.deepcopy(worlds.HOSTS)
    for host, zone in (("shop1", "east"), ("store1", "east"), ("store2", "west")):
        hosts[host]["mesh_zone"] = zone
    found = sentences(compared(worlds.states(), worlds.states(worlds.inventory(None, hosts))))
    assert "host: zone none -> east" in found
    shop = [line for line in found if line.startswith("shop's Envoy")]
    assert shop == [
        "shop's Envoy: endpoint of stock: store1 10.0.0.4:9002: zone none -> east",
        "shop's Envoy: endpoint of stock: store2 10.0.0.5:9002: zone none -> west",
        "shop's Envoy: endpoint of stock: store2 10.0.0.5:9002: used last now",
    ]


def test_a_host_that_left_keeps_its_parts_and_that_is_said_but_is_no_change() -> None:
    hosts = {name: each for name, each in worlds.HOSTS.items() if name != "store2"}
    groups = {**worlds.GROUPS, "stores": ("store1",)}
    new = worlds.states(worlds.inventory(None, hosts, groups))
    found = changes.compare(worlds.states(), new, worlds.rerender, hosts)
    (note,) = [each for each in found if each.kind == change_report.NOTE]
    assert (note.host, note.text) == (
        "store2",
        "is no longer in the inventory; vmesh's parts still run there, nothing removes them:"
        " envoy@stock",
    )
    assert note not in change_report.pending(found)
    assert "edge front: endpoint of stock gone: store2 10.0.0.5:9002" in sentences(found)


def test_a_part_that_left_its_host_is_told_until_its_record_goes() -> None:
    groups = {**worlds.GROUPS, "shop": ("web2",)}
    new = worlds.states(worlds.inventory(None, None, groups))
    found = changes.compare(worlds.states(), new, worlds.rerender, worlds.HOSTS)
    gone = [
        each.text for each in found if each.kind == change_report.REMOVE and each.part == "host"
    ]
    assert gone == [
        "has no part in the mesh any more; these are drained, stopped and removed:"
        " envoy@shop, flask@shop"
    ]
    applied = copy.deepcopy(new)
    applied["web1"]["left"] = ["envoy@old"]
    (later,) = compared(applied, new)
    assert later == Change(
        "web1",
        "host",
        change_report.REMOVE,
        "envoy@old is no longer planned here: it is drained, stopped and removed",
    )


def test_a_new_release_of_an_app_restarts_it() -> None:
    new = worlds.states(bundles={**worlds.BUNDLES, "shop": "cccc"})
    assert compared(worlds.states(), new) == [
        Change("shop1", "app shop", change_report.CHANGE, "new release (code or libraries)"),
        Change(
            "shop1",
            "app shop",
            change_report.RESTART,
            "restart of the app; its socket keeps taking requests",
        ),
    ]


CONFINED = "app shop: may reach any -> mesh, without a restart"


def test_whom_an_app_may_reach_is_told_and_a_record_that_does_not_say_it_is_no_change() -> None:
    confined = worlds.changed(("mesh_services/shop/app/network", "mesh"))
    old, new = worlds.states(), worlds.states(worlds.inventory(confined))
    assert sentences(compared(old, new)) == [CONFINED]
    for app in old["shop1"]["host"]["flask_services"]:
        del app["network"]
    assert sentences(compared(old, new)) == [CONFINED]
    assert sentences(compared(old, worlds.states())) == []


def test_new_binaries_restart_what_runs_them() -> None:
    new = worlds.states(versions={"envoy": "1.41.0", "jaeger": "2.14.0"})
    found = compared(worlds.states(), new)
    assert sentences(found) == [
        "Envoy: version 1.40.0 -> 1.41.0",
        "Jaeger: version 2.13.0 -> 2.14.0",
    ]
    assert sentences(found, change_report.RESTART) == [
        "stock-next's Envoy: restart of Envoy (another release)",
        "Jaeger: restart of Jaeger",
        "shop's Envoy: restart of Envoy (another release)",
        "stock's Envoy: restart of Envoy (another release)",
        "edge front: restart of Envoy (another release)",
    ]


def test_a_setting_of_a_role_is_told_and_restarts_what_it_is_for() -> None:
    hosts = copy.deepcopy(worlds.HOSTS)
    hosts["jaeger1"]["jaeger_retention_hours"] = 24
    found = compared(worlds.states(), worlds.states(worlds.inventory(None, hosts)))
    assert [(each.part, each.text) for each in found] == [
        ("Jaeger", "setting jaeger_retention_hours: none -> 24"),
        ("Jaeger", "restart of Jaeger"),
    ]


def test_files_that_this_version_writes_differently_are_never_silent() -> None:
    old = worlds.states(render=lambda proxy: {**worlds.render(proxy), "rest.yaml": "earlier"})
    found = compared(old, worlds.states())
    texts = {each.text for each in found}
    assert texts == {
        "Envoy's configuration is written differently by this version of vmesh (rest.yaml)"
    }
    assert {each.host for each in found} == {"web1", "web2", "shop1", "store1", "store2", "jaeger1"}


def test_a_new_way_of_writing_is_told_beside_a_change_of_the_inventory() -> None:
    old = worlds.states(render=lambda proxy: {**worlds.render(proxy), "rest.yaml": "earlier"})
    new = worlds.states(worlds.inventory(worlds.changed((f"{ROUTE}/timeout", 5))))
    front = [line for line in sentences(compared(old, new)) if line.startswith("edge front")]
    assert front == [
        "edge front: route /: timeout 15 s -> 5 s",
        "edge front: Envoy's configuration is written differently by this version of vmesh"
        " (rest.yaml)",
    ]


def test_a_file_of_the_users_that_is_new_is_named_as_the_cause() -> None:
    edits = ((f"{FRONT}/jwt", {"main": ISSUER}), (f"{ROUTE}/require", {"jwt": "main"}))
    given = worlds.inventory(worlds.changed(*edits))
    old = worlds.states(
        given, render=lambda proxy: {**worlds.render(proxy), "rest.yaml": "other keys"}
    )
    front = [
        line
        for line in sentences(compared(old, worlds.states(given)))
        if line.startswith("edge front")
    ]
    assert front == [
        "edge front: Envoy's configuration is written differently by this version of vmesh, or"
        f" {JWKS} has changed (rest.yaml)"
    ]


def test_an_issuer_whose_keys_are_fetched_from_now_on_is_told() -> None:
    edits = ((f"{FRONT}/jwt", {"main": ISSUER}), (f"{ROUTE}/require", {"jwt": "main"}))
    old = worlds.states(worlds.inventory(worlds.changed(*edits)))
    edits = ((f"{FRONT}/jwt", {"main": FETCHED}), (f"{ROUTE}/require", {"jwt": "main"}))
    new = worlds.states(worlds.inventory(worlds.changed(*edits)))
    assert sorted(set(sentences(compared(old, new)))) == [
        "edge front: issuer main: jwks file tests/corpus/jwks.json -> none",
        "edge front: issuer main: jwks url none -> https://login/keys",
        "edge front: new upstream for the keys of the issuer main: login:443",
    ]


def test_a_record_by_an_earlier_release_stands_for_what_was_so_then() -> None:
    old = worlds.states()
    keys = (
        "control_networks",
        "trusted_hops",
        "proxy_protocol",
        "headers_with_underscores",
        "escaped_slashes",
        "merge_slashes",
        "http10_host",
    )
    for state in old.values():
        for proxy in state["host"]["proxies"]:
            for listener in proxy["view"]["listeners"]:
                for key in keys:
                    del listener[key]
    front = [line for line in sentences(compared(old, worlds.states())) if "for clients" in line]
    assert front == []


def test_a_key_that_is_off_is_no_change_after_a_release_that_did_not_know_it() -> None:
    old = worlds.states()
    for state in old.values():
        for proxy in state["host"]["proxies"]:
            for cluster in proxy["view"]["clusters"]:
                if not cluster["grpc"]:
                    del cluster["grpc"]
    assert [line for line in sentences(compared(old, worlds.states())) if "gRPC" in line] == []


def test_another_bootstrap_restarts_envoy() -> None:
    old = worlds.states(render=lambda proxy: {**worlds.render(proxy), "bootstrap.json": "earlier"})
    found = sentences(compared(old, worlds.states()), change_report.RESTART)
    assert "edge front: restart of Envoy (another bootstrap)" in found


def test_units_that_this_version_writes_differently_are_told() -> None:
    old = worlds.states()
    for state in old.values():
        state["roles"] = dict.fromkeys(state["roles"], "earlier")
    found = compared(old, worlds.states())
    assert set(sentences(found)) == {
        "Envoy: its unit or settings may be written differently by this version of vmesh",
        "Flask apps: their unit or settings may be written differently by this version of vmesh",
        "other apps: what they are offered may be written differently by this version of vmesh",
        "Jaeger: its unit or settings may be written differently by this version of vmesh",
    }
    assert "edge front: restart of Envoy (another unit)" in sentences(found, change_report.RESTART)


def test_what_cannot_be_written_again_is_said_to_be_unknown() -> None:
    new = worlds.states(worlds.inventory(worlds.changed((f"{ROUTE}/timeout", 5))))
    found = changes.compare(worlds.states(), new, lambda _: None, worlds.HOSTS)
    assert any("cannot be written again" in each.text for each in found)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (("listeners", 0), "listener for clients: new key none -> 7"),
        (("clusters", 2), "shop: new key none -> 7"),
        (("routes", "public"), "routes public: new key none -> 7"),
        (("routes", "public", "virtual_hosts", 0), "all routes: new key none -> 7"),
        (("routes", "public", "virtual_hosts", 0, "routes", 1), "route /: new key none -> 7"),
        (("routes", "public", "virtual_hosts", 0, "filters"), "all routes: new key none -> 7"),
        (("node",), "node's new key none -> 7"),
        ((), "new key none -> 7"),
    ],
)
def test_what_no_rule_has_words_for_is_told_by_its_key(
    where: tuple[Any, ...], expected: str
) -> None:
    old, new = worlds.states(), worlds.states()
    target = new["web1"]["host"]["proxies"][0]["view"]
    for key in where:
        target = target[key]
    target["new_key"] = 7
    assert [(each.part, each.text) for each in compared(old, new)] == [("edge front", expected)]


def test_an_order_alone_is_told() -> None:
    old, new = worlds.states(), worlds.states()
    new["web1"]["host"]["proxies"][0]["view"]["clusters"].reverse()
    (found,) = compared(old, new)
    assert "in its order only" in found.text


def test_values_that_are_hidden_on_both_sides_change_without_being_shown() -> None:
    assert change_words.arrow("tag", HIDDEN, HIDDEN) == "tag changes"


def leaves(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every value in `value` that is no list or mapping."""
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        yield way
    for key, item in items:
        yield from leaves(item, (*way, key))


def another(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return f"{value}x"


def repeated(way: tuple[Any, ...]) -> bool:
    """Tell whether something else, which is told, says the same as the value here."""
    return (
        "ports" in way  # of a proxy: its listeners say them
        or (way[0] == "flask_services" and way[-1] in {"address", "port"})  # its Envoy's
        or way[-2:] == ("node", "zone")  # the host's
        or way[-1] in {"MESH_ADDRESS", "SERVICE_NAME"}  # the host's, the Envoy's
        or way[0] in {"needs_authorities"}  # TLS of its upstreams
        or way in {("jaeger",), ("firewall",)}  # None, where there is none
    )


@pytest.mark.parametrize("host", ["web1", "shop1", "store1", "jaeger1"])
def test_no_value_at_all_changes_silently(host: str) -> None:
    old, silent = worlds.states(), []
    for way in leaves(old[host]["host"]):
        new = copy.deepcopy(old)
        target = new[host]["host"]
        for key in way[:-1]:
            target = target[key]
        target[way[-1]] = another(target[way[-1]])
        if not repeated(way) and not changes.compare(old, new, lambda _: {}, worlds.HOSTS):
            silent.append(way)
    assert silent == []


def test_patches_that_change_or_go_are_told_and_their_numbers_do_not_count() -> None:
    def states(*patches: dict[str, Any]) -> dict[str, Any]:
        mesh = worlds.changed(("mesh_patches", list(patches)))
        return worlds.states(worlds.inventory(mesh))

    other, elsewhere = (
        {**PATCH, "kind": "cluster", "name": "shop"},
        {**PATCH, "proxy": "shop", "name": "ingress"},
    )
    changed = {**PATCH, "merge": {"a": 2}}
    assert sentences(compared(states(PATCH), states(elsewhere, PATCH))) == [
        "shop's Envoy: a patch of listener ingress is new"
    ]
    assert sentences(compared(states(other, PATCH), states(changed))) == [
        "edge front: the patch of listener public changes",
        "edge front: the patch of cluster shop goes",
    ]
