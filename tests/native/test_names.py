"""Names of hosts as people write them: what `validate` takes works, in every place of the model."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.native.certificates import Authority
from tests.native.edges import SERVICE, WholeWay, whole_way
from tests.native.inventories import beginning
from tests.native.native import Upstream, ask, on_loopback, port_of, running, send_to
from vmesh.compile.compiler import compile_mesh

LONG = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61])
NAMES = {
    "plain": "api.example.com",
    "upper": "API.Example.COM",
    "label": "api",
    "underscore": "my_svc.example.com",
    "service": "_api._tcp.example.com",
    "punycode": "xn--caf-dma.example.com",
    "longest": LONG,
}
ORIGIN = "https://shop.example.com"
KEYS = {
    "domains": ["example.com", "*.wild.example.com.", "other.example.com.", "my_site.example.com"],
    "cors": {"origins": ["https://Shop.example.com.:443", "http://my_site:8080"]},
    "routes": [
        {"prefix": "/", "to": SERVICE},
        {"path": "/inner", "to": SERVICE, "rewrite": {"host": "inner.example.com."}},
        {"path": "/old", "redirect": {"host": "new.example.com."}},
    ],
}


@pytest.fixture(scope="module")
def edge(envoy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeWay]:
    with whole_way(envoy, tmp_path_factory.mktemp("names"), KEYS) as made:
        yield made


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("example.com", 200),
        ("example.com.", 200),
        ("example.com.:8000", 200),
        ("EXAMPLE.Com.", 200),
        ("other.example.com", 200),
        ("a.wild.example.com.:443", 200),
        ("A_b.WILD.example.com", 200),
        ("my_site.example.com", 200),
        ("example.com..", 404),
        ("nexample.com", 404),
        ("wild.example.com.", 404),
    ],
)
def test_a_site_is_the_same_however_its_name_is_written(
    edge: WholeWay, name: str, status: int
) -> None:
    assert ask(edge.port, "/", headers={"host": name}).status == status


def test_the_app_sees_the_name_without_its_final_dot(edge: WholeWay) -> None:
    seen = [
        edge.seen(path, {"host": "example.com.:8000"}).headers["host"] for path in ("/", "/inner")
    ]
    assert seen == ["example.com:8000", "inner.example.com"]


def test_a_redirect_leads_to_the_name_without_its_final_dot(edge: WholeWay) -> None:
    answered = ask(edge.port, "/old", headers={"host": "example.com"})
    assert answered.headers["location"] == "http://new.example.com/old"


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (ORIGIN, True),
        (f"{ORIGIN}.", True),
        ("http://my_site:8080", True),
        ("http://my_site.:8080", True),
        ("http://my_site", False),
        ("http://shop.example.com", False),
        (f"{ORIGIN}.evil.example", False),
    ],
)
def test_a_page_of_the_same_site_may_ask_however_its_name_is_written(
    edge: WholeWay, origin: str, allowed: bool
) -> None:
    headers = {"host": "example.com", "origin": origin}
    answered = ask(edge.port, "/", headers=headers)
    assert answered.headers.get("access-control-allow-origin") == (origin if allowed else None)


@pytest.fixture(scope="module")
def egress(
    envoy: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[dict[str, int], dict[str, Upstream]]]:
    """Run a service that calls each name by TLS, as it is and with a final dot."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = Authority(folder)
    given = beginning("base")
    calls = given.mesh["mesh_services"]["pay"]["calls"] = {}
    with ExitStack() as stack:
        servers: dict[str, Upstream] = {}
        for number, (case, name) in enumerate(NAMES.items()):
            certificate = authority.certificate(name.lower())
            servers[case] = stack.enter_context(Upstream(case, certificate=certificate))
            for dot in ("", "."):
                # The port is that of the Host header; where it leads is said below.
                calls[f"{case}{'-dot' if dot else ''}"] = {
                    "host": f"{name}{dot}",
                    "port": 443 + number,
                    "tls": {"ca_file": str(authority.file)},
                }
        sni = {"sni": "api.example.com.", "ca_file": str(authority.file)}
        calls["sni"] = {"host": "192.0.2.7", "port": 443, "tls": sni}
        calls["looked-up"] = {"host": "localhost.", "port": 80}
        proxies = [p for host in compile_mesh(given).hosts.values() for p in host.proxies]
        plan = on_loopback(next(each for each in proxies if each.name == "pay"))
        servers["looked-up"] = stack.enter_context(Upstream("looked-up"))
        for name in calls.keys() - {"looked-up"}:
            case = "plain" if name == "sni" else name.removesuffix("-dot")
            send_to(plan, name, servers[case].port)
        (looked_up,) = [each for each in plan.view["clusters"] if each["name"] == "looked-up"]
        looked_up["endpoints"][0]["port"] = servers["looked-up"].port
        stack.enter_context(running(envoy, tmp_path_factory.mktemp("egress"), plan))
        yield {name: port_of(plan, f"egress-{name}") for name in calls}, servers


@pytest.mark.parametrize("dot", ["", "-dot"], ids=["plain", "dot"])
@pytest.mark.parametrize("case", NAMES)
def test_a_server_is_asked_for_its_name_without_a_final_dot(
    egress: tuple[dict[str, int], dict[str, Upstream]], case: str, dot: str
) -> None:
    ports, servers = egress
    name, server = NAMES[case], servers[case]
    assert ask(ports[f"{case}{dot}"]).status == 200
    assert server.server_names[-1] == name
    port = 443 + list(NAMES).index(case)
    assert server.requests[-1].headers["host"] == (name if port == 443 else f"{name}:{port}")


def test_the_name_in_a_certificate_may_be_said_with_a_final_dot(
    egress: tuple[dict[str, int], dict[str, Upstream]],
) -> None:
    ports, servers = egress
    assert ask(ports["sni"]).status == 200
    assert servers["plain"].server_names[-1] == "api.example.com"


def test_a_name_with_a_final_dot_is_looked_up_as_one_without(
    egress: tuple[dict[str, int], dict[str, Upstream]],
) -> None:
    """In /etc/hosts no name has one."""
    ports, servers = egress
    assert ask(ports["looked-up"]).status == 200
    assert servers["looked-up"].requests[-1].headers["host"] == "localhost"


def test_an_old_app_is_understood_on_its_egress(
    egress: tuple[dict[str, int], dict[str, Upstream]],
) -> None:
    ports, servers = egress
    with socket.create_connection(("127.0.0.1", ports["plain"]), timeout=5) as connection:
        connection.sendall(b"GET /old HTTP/1.0\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.0 200 ")
    got = servers["plain"].requests[-1]
    assert (got.path, got.headers["host"]) == ("/old", NAMES["plain"])
