from __future__ import annotations

from typing import Any

from vmesh.base.problems import Problem
from vmesh.model.parse import parse
from vmesh.model.types import Edge
from vmesh.remote import connect

LAB_EDGE = {
    "ansible_host": "127.0.0.1",
    "ansible_port": 2221,
    "mesh_address": "198.18.0.11",
    "lab_publish": {"18000": 8000, 8001: "8001"},
}
OWN_EDGE = {"ansible_host": "203.0.113.7", "mesh_address": "10.0.0.7"}


def test_a_lab_vm_is_reached_through_the_port_published_on_this_machine() -> None:
    assert connect.url(LAB_EDGE, 8000, "/trace/1") == "http://127.0.0.1:18000/trace/1"
    assert connect.published(LAB_EDGE) == {8000: 18000, 8001: 8001}


def test_a_port_that_the_lab_does_not_publish_is_reached_at_the_mesh_address() -> None:
    assert connect.reach(LAB_EDGE, 4317) == ("198.18.0.11", 4317)


def test_ones_own_vm_is_reached_at_its_mesh_address() -> None:
    assert connect.url(OWN_EDGE, 8000) == "http://10.0.0.7:8000/"
    assert connect.reach(OWN_EDGE, 8000, "0.0.0.0") == ("10.0.0.7", 8000)
    assert connect.reach({"ansible_host": "203.0.113.7"}, 80) == ("203.0.113.7", 80)


def test_a_listener_with_an_address_of_its_own_is_reached_there() -> None:
    assert connect.reach(OWN_EDGE, 8000, "203.0.113.9") == ("203.0.113.9", 8000)


def test_a_path_without_its_slash_gets_one() -> None:
    assert connect.url(OWN_EDGE, 8000, "trace/1") == "http://10.0.0.7:8000/trace/1"


def test_ssh_is_called_with_all_the_connection_variables() -> None:
    host = {
        "ansible_host": "127.0.0.1",
        "ansible_port": 2221,
        "ansible_user": "mesh",
        "ansible_ssh_private_key_file": "/keys/a key",
        "ansible_ssh_common_args": "-o UserKnownHostsFile='/a b/known'",
    }
    command = connect.ssh_command("edge", host, ["uptime"], batch=False)
    assert command == [
        "ssh",
        "-p",
        "2221",
        "-i",
        "/keys/a key",
        "-o",
        "UserKnownHostsFile=/a b/known",
        "-l",
        "mesh",
        "127.0.0.1",
        "uptime",
    ]


def test_ssh_never_asks_when_nobody_is_there_to_answer() -> None:
    command = connect.ssh_command("vm", {})
    assert command[-1] == "vm"
    assert "BatchMode=yes" in command


def edge(**said: Any) -> Edge:
    problems: list[Problem] = []
    services = {"shop": {"port": 9001, "app": {"flask": "shop"}}}
    variables = {"mesh_services": services, "mesh_edges": {"door": {"port": 80, **said}}}
    mesh = parse(variables, problems)
    assert problems == []
    return mesh.edges["door"]


def test_the_usual_request_goes_below_trace_or_to_the_first_service() -> None:
    paths = ["/shop", "/trace/shop", "/trace/other"]
    routes = [{"prefix": path, "to": "shop"} for path in paths]
    assert connect.usual_request(edge(routes=routes)) == (None, "/trace/shop")
    assert connect.usual_request(edge(routes=routes[:1])) == (None, "/shop")


def test_the_usual_request_needs_no_luck() -> None:
    routes = [
        {"path": "/old", "redirect": {"path": "/new"}},
        {"path": "/teapot", "answer": {"status": 418}},
        {"prefix": "/a", "headers": {"x-beta": "yes"}, "to": "shop"},
        {"prefix": "/b", "methods": ["POST"], "to": "shop"},
        {"regex": "/c[0-9]", "to": "shop"},
    ]
    assert connect.usual_request(edge(routes=routes)) == (None, "/")
    found = connect.usual_request(edge(routes=[*routes, {"path": "/d", "to": "shop"}]))
    assert found == (None, "/d")


def test_the_usual_request_names_a_host_where_that_matters() -> None:
    site = {"domains": ["*.example.com"], "routes": [{"prefix": "/", "to": "shop"}]}
    assert connect.usual_request(edge(virtual_hosts={"site": site})) == ("www.example.com", "/")


def test_a_path_is_asked_of_the_site_that_has_it() -> None:
    sites = {
        "shop": {"domains": ["shop.example.com"], "routes": [{"prefix": "/buy", "to": "shop"}]},
        "desk": {"domains": ["desk.example.com"], "routes": [{"regex": "/c/[0-9]+", "to": "shop"}]},
    }
    given = edge(virtual_hosts=sites)
    assert connect.host_for(given, "/buy/now?x=1") == "shop.example.com"
    assert connect.host_for(given, "/c/17") == "desk.example.com"
    open_to_all = edge(virtual_hosts=sites, routes=[{"prefix": "/", "to": "shop"}])
    assert connect.host_for(open_to_all, "/else") is None
