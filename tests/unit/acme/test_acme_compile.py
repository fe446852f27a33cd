"""What an inventory with tls.acme means for the edge's hosts."""

from __future__ import annotations

from typing import Any

from tests.native.inventories import beginning
from vmesh.compile import acme_views
from vmesh.compile.compiler import compile_mesh
from vmesh.compile.host_spec import HostSpec, View

ACME = {"domains": ["shop.example.com"]}


def hosts_of(group: str, **edge: Any) -> dict[str, HostSpec]:
    """Return the hosts of base.yml's edge when it has these keys and runs on `group`."""
    given = beginning("base")
    front = {"group": group, "port": 443, "routes": [{"prefix": "/", "to": "shop"}], **edge}
    given.mesh["mesh_edges"] = {"front": front}
    spec = compile_mesh(given)
    return {
        name: host
        for name, host in spec.hosts.items()
        if any(proxy.name == "front" for proxy in host.proxies)
    }


def view_of(host: HostSpec) -> View:
    return next(proxy.view for proxy in host.proxies if proxy.name == "front")


def asked(view: View, cluster: str) -> list[View]:
    return [
        each for part in view["clusters"] if part["name"] == cluster for each in part["endpoints"]
    ]


def test_each_host_passes_challenges_on_to_the_others_at_the_port_for_http() -> None:
    hosts = hosts_of("stores", tls={"acme": ACME}, redirect_port=80)
    assert len(hosts) == 2
    for name, host in hosts.items():
        (other,) = (each for each in hosts if each != name)
        here, there = asked(view_of(host), acme_views.ANYWHERE)
        assert here == {"pipe": "/run/vmesh-acme/front/challenges.sock"}
        assert (there["address"], there["port"]) == (hosts[other].address, 80)
        # What another host has passed on goes to the helper of this one and no further.
        assert asked(view_of(host), acme_views.HERE) == [here]
        settings = view_of(host)["acme"]
        assert (settings["challenge"], settings["listens"]) == ("http-01", f"{host.address}:80")


def test_an_edge_on_one_host_without_a_port_for_http_proves_names_at_its_own() -> None:
    (host,) = hosts_of("web", tls={"acme": ACME}).values()
    settings = view_of(host)["acme"]
    assert (settings["challenge"], settings["listens"]) == ("tls-alpn-01", f"{host.address}:443")
    assert asked(view_of(host), acme_views.ANYWHERE) == []


def test_the_helper_needs_the_hosts_authorities_unless_it_is_given_its_own() -> None:
    (host,) = hosts_of("web", tls={"acme": ACME}).values()
    assert host.needs_authorities
    own = {**ACME, "directory_ca_file": "tests/corpus/ca.pem"}
    (host,) = hosts_of("web", tls={"acme": own}).values()
    assert not host.needs_authorities
    (host,) = hosts_of("web").values()
    assert not host.needs_authorities
    assert "acme" not in view_of(host)
