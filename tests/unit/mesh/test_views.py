"""What the templates get: policies in layers, routes in Envoy's order, the filters of a route."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from vmesh.base import paths
from vmesh.compile import cluster_views, edge_route_views, listener_views, route_views
from vmesh.compile.checks_calls import circles
from vmesh.compile.compiler import compile_mesh
from vmesh.compile.host_spec import MeshSpec, ProxySpec, View, external_egress_address
from vmesh.model.inventory import Inventory

BASE = yaml.safe_load((paths.PROJECT / "tests" / "corpus" / "base.yml").read_text())


def plan(
    services: dict[str, Any] | None = None, edge: dict[str, Any] | None = None, **more: Any
) -> MeshSpec:
    """Return the plan of base.yml, with other keys for some services and for its edge."""
    mesh = {**BASE["mesh"], **more}
    given = {
        name: {**BASE["mesh"]["mesh_services"].get(name, {}), **keys}
        for name, keys in (services or {}).items()
    }
    mesh["mesh_services"] = {**mesh["mesh_services"], **given}
    mesh["mesh_edges"] = {"front": {**mesh["mesh_edges"]["front"], **(edge or {})}}
    groups = {name: tuple(members) for name, members in BASE["groups"].items()}
    return compile_mesh(Inventory(Path("inventory"), groups, BASE["hosts"], mesh))


def proxy(made: MeshSpec, name: str) -> ProxySpec:
    return next(each for host in made.hosts.values() for each in host.proxies if each.name == name)


def cluster(made: MeshSpec, caller: str, name: str) -> View:
    (found,) = [each for each in proxy(made, caller).view["clusters"] if each["name"] == name]
    return dict(found)


def egress(made: MeshSpec, caller: str, name: str) -> View:
    (host,) = proxy(made, caller).view["routes"][f"egress-{name}"]["virtual_hosts"]
    (route,) = host["routes"]
    return dict(route)


def routes(*given: dict[str, Any], **edge: Any) -> list[View]:
    """Return the routes of an edge that has `given`, in Envoy's order."""
    other = {"domains": ["x.example.com"], "routes": [{"prefix": "/", "to": "stock"}]}
    made = plan(edge={"routes": list(given), "virtual_hosts": {"x": other}, **edge})
    return list(proxy(made, "front").view["routes"]["public"]["virtual_hosts"][0]["routes"])


def test_a_call_says_more_than_its_service_and_the_service_more_than_the_defaults() -> None:
    policies = {"timeout": 7, "retries": {"attempts": 5, "retry_on": ["5xx"]}, "connect_timeout": 2}
    calls = {"stock": {"timeout": 3, "retries": {"attempts": 1}}}
    made = plan({"stock": {"policies": policies}, "shop": {"calls": calls}})
    route = egress(made, "shop", "stock")
    assert (route["timeout"], route["retry"]["attempts"], route["retry"]["on"]) == (3, 1, "5xx")
    upstream = cluster(made, "shop", "stock")
    assert (upstream["connect_timeout"], upstream["circuit_breaker"]["max_requests"]) == (2, 1024)


def test_without_attempts_nothing_is_sent_again() -> None:
    made = plan({"shop": {"calls": {"stock": {"retries": {"attempts": 0}}}}})
    assert egress(made, "shop", "stock")["retry"] is None


def test_what_decides_the_instance_goes_with_ring_hash_alone() -> None:
    policies = {"load_balancing": "ring_hash", "hash_on": {"cookie": "cart", "ttl": 60}}
    calls: dict[str, Any] = {"stock": {}, "pay": {}}
    made = plan({"stock": {"policies": policies}, "shop": {"calls": calls}})
    assert egress(made, "shop", "stock")["hash_on"] == [{"cookie": "cart", "ttl": 60}]
    assert egress(made, "shop", "pay")["hash_on"] == []
    calls = {"stock": {"load_balancing": "round_robin"}}
    made = plan({"stock": {"policies": policies}, "shop": {"calls": calls}})
    assert egress(made, "shop", "stock")["hash_on"] == []


def test_ejection_can_be_switched_off() -> None:
    calls = {"stock": {"outlier_detection": {"enabled": False}}}
    assert cluster(plan({"shop": {"calls": calls}}), "shop", "stock")["outlier_detection"] is None
    found = cluster(plan(), "shop", "stock")["outlier_detection"]
    assert (found["interval"], found["consecutive_gateway_failures"]) == (5, 5)
    assert "enabled" not in found


def test_an_address_outside_has_a_listener_of_its_own_and_is_asked_by_its_name() -> None:
    made = plan()
    route = egress(made, "pay", "bank")
    assert route["rewrite"] == {"host": "bank.example.com"}
    upstream = cluster(made, "pay", "bank")
    assert upstream["type"] == "dns"
    assert upstream["tls"] == {"sni": "bank.example.com", "verify": True, "ca_file": None}
    (listener,) = [
        each for each in proxy(made, "pay").view["listeners"] if each["name"] == "egress-bank"
    ]
    assert listener["port"] == 443
    assert listener["address"] == external_egress_address("pay", "bank")
    (app,) = made.hosts["pay1"].external_apps
    assert app.environment["BANK_URL"] == f"http://{listener['address']}:443"


@pytest.mark.parametrize(
    ("port", "tls", "expected"),
    [(443, {}, "a.b"), (80, None, "a.b"), (80, {}, "a.b:80"), (8443, {}, "a.b:8443")],
)
def test_the_host_header_names_a_port_that_is_not_the_usual_one(
    port: int, tls: dict[str, Any] | None, expected: str
) -> None:
    call = {"host": "a.b", "port": port, **({} if tls is None else {"tls": tls})}
    made = plan({"pay": {"calls": {"other": call}}})
    assert egress(made, "pay", "other")["rewrite"] == {"host": expected}


def test_callers_in_a_zone_prefer_it_and_others_take_all_alike() -> None:
    found = {
        caller: [
            (each["zone"], each["priority"])
            for each in cluster(plan(), caller, "stock")["endpoints"]
        ]
        for caller in ("shop", "front")
    }
    assert found == {
        "shop": [("east", 0), ("west", 1)],  # shop1 is in the east
        "front": [("east", 0), ("west", 0)],  # web1 is in no zone
    }


def test_only_an_edge_decides_what_is_traced() -> None:
    found = {
        (each.name, listener["name"]): listener["tracing"]["follows"]
        for host in plan().hosts.values()
        for each in host.proxies
        for listener in each.view["listeners"]
        if listener["tracing"] is not None
    }
    assert {key for key, follows in found.items() if not follows} == {("front", "public")}
    assert ("shop", "ingress") in found


def test_routes_are_in_the_order_of_how_much_they_say() -> None:
    found = routes(
        {"prefix": "/", "to": "shop"},
        {"regex": "/z.*", "to": "shop"},
        {"prefix": "/long/", "to": "shop"},
        {"regex": "/a.*", "to": "shop"},
        {"prefix": "/", "methods": ["GET"], "to": "stock"},
        {"path": "/b", "to": "shop"},
        {"path": "/b", "headers": {"x-a": "1"}, "methods": ["GET"], "to": "stock"},
        {"path": "/b", "headers": {"x-a": "1"}, "to": "stock"},
        {"prefix": "/api", "methods": ["GET"], "to": "stock"},
        {"path_prefix": "/api", "to": "stock"},
        {"prefix": "/api/", "to": "shop"},
    )
    assert [
        (
            *(each["match"].get(kind) for kind in ("path", "regex", "prefix")),
            *([each["match"]["path_prefix"]] if "path_prefix" in each["match"] else []),
            len(each["match"]["headers"]),
        )
        for each in found
    ] == [
        ("/b", None, None, 2),
        ("/b", None, None, 1),
        ("/b", None, None, 0),
        (None, "/z.*", None, 0),
        (None, "/a.*", None, 0),
        (None, None, "/long/", 0),
        (None, None, "/api/", 0),
        (None, None, None, "/api", 0),
        (None, None, "/api", 1),
        (None, None, "/", 1),
        (None, None, "/", 0),
    ]


def test_the_timeout_of_a_route_is_its_own_or_the_calls_or_the_edges() -> None:
    def timeout(route: dict[str, Any], **edge: Any) -> Any:
        return routes({"prefix": "/", "to": "pay", **route}, **edge)[0]["timeout"]

    assert timeout({}) == 15
    assert timeout({}, calls={"pay": {"timeout": 4}}) == 4
    assert timeout({"timeout": 9}, calls={"pay": {"timeout": 4}}) == 9
    assert timeout({"websocket": True}, calls={"pay": {"timeout": 4}}) is None
    assert timeout({"websocket": True, "timeout": 9}) == 9


def test_a_route_with_weights_follows_the_policies_of_the_heaviest() -> None:
    calls = {"shop": {"timeout": 1}, "stock": {"timeout": 2}}
    (found,) = routes({"prefix": "/", "to": {"shop": 5, "stock": 95}}, calls=calls)
    assert found["weights"] == [
        {"cluster": "shop", "weight": 5},
        {"cluster": "stock", "weight": 95},
    ]
    assert found["timeout"] == 2
    assert found["operation"] == "stock"


def test_a_route_says_more_than_its_virtual_host_and_that_more_than_its_edge() -> None:
    made = plan(
        edge={
            "max_request_bytes": 1000,
            "compression": True,
            "rate_limit": {"requests": 5},
            "routes": [
                {"prefix": "/", "to": "shop"},
                {"prefix": "/own", "to": "shop", "max_request_bytes": 1, "compression": False},
                {"prefix": "/socket", "to": "shop", "websocket": True},
            ],
            "virtual_hosts": {
                "other": {
                    "domains": ["other.example.com"],
                    "max_request_bytes": 50,
                    "routes": [{"prefix": "/", "to": "stock"}],
                }
            },
        }
    )
    main, other = proxy(made, "front").view["routes"]["public"]["virtual_hosts"]
    filters = {each["match"]["prefix"]: each["filters"] for each in main["routes"]}
    assert filters["/"] == {"max_request_bytes": 1000, "compression": True}
    assert filters["/own"] == {"max_request_bytes": 1, "compression": False}
    assert filters["/socket"] == {"compression": True}  # a WebSocket's bytes are never complete
    assert other["routes"][0]["filters"] == {"max_request_bytes": 50, "compression": True}
    # A limit counts for all of a virtual host.
    assert (
        main["filters"]
        == other["filters"]
        == {"rate_limit": edge_route_views.token_bucket(5, "second", None)}
    )


def test_browsers_may_ask_before_they_send_from_another_sites_page() -> None:
    cors = {"origins": ["https://a.example.com"]}
    route = {"prefix": "/", "to": "shop", "methods": ["POST", "GET"]}
    assert routes({**route, "cors": cors})[0]["match"]["headers"] == [
        {"name": ":method", "regex": "POST|GET|OPTIONS"}
    ]
    assert routes(route)[0]["match"]["headers"] == [{"name": ":method", "regex": "POST|GET"}]
    assert routes({**route, "methods": ["GET"]})[0]["match"]["headers"] == [
        {"name": ":method", "exact": "GET"}
    ]


def test_tags_and_sampling_are_those_of_the_nearest_place() -> None:
    made = plan(
        edge={
            "tracing": {"sampling": 10, "tags": {"b": {"literal": "edge"}}},
            "routes": [
                {
                    "prefix": "/",
                    "to": "shop",
                    "tracing": {"tags": {"c": {"header": "x-c", "default": "none"}}},
                },
                {"prefix": "/plain", "to": "shop"},
            ],
        },
        mesh_tracing={
            "group": "tracing",
            "tags": {"a": {"literal": "mesh"}, "b": {"literal": "mesh"}},
        },
    )
    view = proxy(made, "front").view
    listener = next(each for each in view["listeners"] if each["name"] == "public")
    a, b = (
        {"name": "a", "literal": "mesh", "default": None},
        {"name": "b", "literal": "edge", "default": None},
    )
    assert (listener["tracing"]["sampling"], listener["tracing"]["tags"]) == (10, [a, b])
    plain, tagged = view["routes"]["public"]["virtual_hosts"][0]["routes"]
    assert plain["tracing"] is None
    assert tagged["tracing"]["sampling"] == 10
    assert tagged["tracing"]["tags"] == [a, b, {"name": "c", "header": "x-c", "default": "none"}]


@pytest.mark.parametrize("export", ["otlp", "zipkin"])
def test_spans_go_where_the_inventory_says(export: str) -> None:
    own = plan(mesh_tracing={"group": "tracing", "export": export})
    (endpoint,) = cluster(own, "shop", cluster_views.COLLECTOR)["endpoints"]
    assert (endpoint["address"], endpoint["port"]) == (
        "10.0.0.6",
        4317 if export == "otlp" else 9411,
    )
    assert own.hosts["traces1"].jaeger is not None
    collector = {"host": "otel.example.com", "tls": {}}
    others = plan(mesh_tracing={"collector": collector, "export": export})
    found = cluster(others, "shop", cluster_views.COLLECTOR)
    assert (found["type"], found["http2"]) == ("dns", export == "otlp")
    assert found["endpoints"][0]["port"] == (4317 if export == "otlp" else 9411)
    assert "traces1" not in others.hosts


def test_spans_go_to_the_meshs_own_jaeger_over_http_and_to_another_collector_over_grpc() -> None:
    """A refusal is a status over HTTP; who names a collector means what that has always meant."""
    for given, export, port, http2 in (
        ({"group": "tracing"}, "otlp_http", 4318, False),
        ({"collector": {"host": "otel.example.com"}}, "otlp", 4317, True),
    ):
        mesh = plan(mesh_tracing=given)
        assert mesh.mesh.tracing.export == export
        found = cluster(mesh, "shop", cluster_views.COLLECTOR)
        assert [each["port"] for each in found["endpoints"]] == [port]
        assert found["http2"] == http2


def test_the_admin_pages_only_tell() -> None:
    (host,) = proxy(plan(), "front").view["routes"]["admin"]["virtual_hosts"]
    *pages, last = host["routes"]
    assert {each["match"]["path"] for each in pages} == set(route_views.ADMIN_PAGES)
    for each in pages:
        assert each["match"]["headers"] == [{"name": ":method", "exact": "GET"}]
    assert (last["match"]["prefix"], last["answer"]["status"]) == ("/", 403)


@pytest.mark.parametrize("per", ["second", "minute", "hour"])
@pytest.mark.parametrize("requests", [1, 3, 7, 19, 20, 21, 99, 1000, 999_999, 1_000_000])
def test_a_bucket_lets_as_many_pass_as_it_should_and_is_one_that_envoy_takes(
    requests: int, per: str
) -> None:
    seconds = {"second": 1, "minute": 60, "hour": 3600}[per]
    for burst in (None, 1, 10**6):
        bucket = edge_route_views.token_bucket(requests, per, burst)
        assert bucket["tokens"] / bucket["interval"] == pytest.approx(requests / seconds)
        assert round(bucket["interval"], 9) >= 0.05
        assert bucket["burst"] >= bucket["tokens"] >= 1
        assert bucket["retry_after"] >= bucket["interval"]


def test_trusted_networks_stand_there_once() -> None:
    given = ["10.1.0.0/16", "10.0.0.0/8", "10.0.0.0/255.0.0.0", "192.0.2.7"]
    listeners = proxy(plan(edge={"trusted_cidrs": given}), "front").view["listeners"]
    public = next(each for each in listeners if each["name"] == "public")
    assert public["trusted_networks"] == [
        {"address_prefix": "10.0.0.0", "prefix_len": 8},
        {"address_prefix": "192.0.2.7", "prefix_len": 32},
    ]


def test_a_peer_has_the_rights_of_every_network_it_is_in() -> None:
    """Envoy takes the longest network alone, and refuses the same one in two filter chains."""
    edge = {
        "trusted_cidrs": ["10.0.0.0/8", "10.1.2.0/24", "192.0.2.0/24", "198.51.100.0/24"],
        "control_cidrs": ["10.1.0.0/16", "192.0.2.0/24"],
    }
    listeners = proxy(plan(edge=edge), "front").view["listeners"]
    public = next(each for each in listeners if each["name"] == "public")
    control = [listener_views.network("10.1.0.0/16"), listener_views.network("192.0.2.0/24")]
    assert public["control_networks"] == public["internal_networks"] == control
    assert public["trusted_networks"] == [
        listener_views.network("10.0.0.0/8"),
        listener_views.network("198.51.100.0/24"),
    ]
    edge = {"trusted_cidrs": ["0.0.0.0/0"], "control_cidrs": ["0.0.0.0/0"]}
    public = proxy(plan(edge=edge), "front").view["listeners"][0]
    assert (len(public["control_networks"]), public["trusted_networks"]) == (2, [])


@pytest.mark.parametrize(
    ("domains", "host"),
    [
        (["*"], "front"),
        (["*.example.com"], "front.example.com"),
        (["shop.example.com.", "*"], "shop.example.com"),
    ],
)
def test_an_old_client_that_names_no_host_visits_the_first_site(
    domains: list[str], host: str
) -> None:
    listeners = proxy(plan(edge={"domains": domains, "http10": True}), "front").view["listeners"]
    assert listeners[0]["http10_host"] == host


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({"a": ["b"], "b": []}, []),
        ({"a": ["a"]}, [["a"]]),
        ({"b": ["a"], "a": ["b"]}, [["a", "b"]]),
        ({"c": ["a"], "a": ["b"], "b": ["c"], "d": ["a"]}, [["a", "b", "c"]]),
        ({"a": ["b", "c"], "b": ["a"], "c": ["a"]}, [["a", "b"], ["a", "c"]]),
        ({"a": ["nowhere"]}, []),
        ({"a": ["b", "c"], "b": ["d"], "c": ["d"], "d": []}, []),
    ],
)
def test_circles_are_found_once(graph: dict[str, list[str]], expected: list[list[str]]) -> None:
    assert circles(graph) == expected


def test_a_circle_of_a_thousand_services_is_no_trouble() -> None:
    graph = {f"s{number:04}": [f"s{(number + 1) % 1000:04}"] for number in range(1000)}
    (circle,) = circles(graph)
    assert len(circle) == 1000


def test_a_plan_is_plain_data() -> None:
    assert yaml.safe_load(yaml.safe_dump(dataclasses.asdict(plan().hosts["shop1"])))
