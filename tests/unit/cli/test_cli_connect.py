from __future__ import annotations

from vmesh.cli import connect

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
        "ssh", "-p", "2221", "-i", "/keys/a key",
        "-o", "UserKnownHostsFile=/a b/known", "-l", "mesh", "127.0.0.1", "uptime",
    ]  # fmt: skip


def test_ssh_never_asks_when_nobody_is_there_to_answer() -> None:
    command = connect.ssh_command("vm", {})
    assert command[-1] == "vm"
    assert "BatchMode=yes" in command


def test_the_default_path_is_the_first_edges_first_trace_route() -> None:
    routes = [{"prefix": "/shop"}, {"prefix": "/trace/shop"}, {"prefix": "/trace/other"}]
    assert connect.default_path({"mesh_edges": {"e": {"routes": routes}}}) == "/trace/shop"
    assert connect.default_path({"mesh_edges": {"e": {"routes": routes[:1]}}}) == "/shop"
    assert connect.default_path({}) == "/"
