"""The topology: what is in the picture, and that both languages say it."""

from __future__ import annotations

import re
import shutil
import subprocess
from xml.etree import ElementTree

import pytest

from tests.unit.mesh import worlds
from vmesh.cli.output import graph
from vmesh.cli.output.graph import Arrow, Node, Picture
from vmesh.compile.host_spec import HostSpec
from vmesh.compile.topology import match_words, topology
from vmesh.model.inventory import Inventory
from vmesh.rollout.description import shown
from vmesh.rollout.record_secrets import Secrets


def drawn(of: Inventory | None = None) -> Picture:
    of = of or worlds.inventory()
    return pictured(of, worlds.plan(of).hosts)


def pictured(of: Inventory, hosts: dict[str, HostSpec]) -> Picture:
    hidden = Secrets.of(of)
    return graph.picture(topology({host: shown(each, hidden) for host, each in hosts.items()}))


def node(picture: Picture, name: str) -> Node:
    (found,) = [each for each in picture.nodes if each.name == name]
    return found


def arrows(picture: Picture) -> dict[tuple[str, str], Arrow]:
    names = {each.id: each.name for each in picture.nodes}
    return {(names[each.source], names[each.target]): each for each in picture.arrows}


def test_every_part_of_the_mesh_is_a_node() -> None:
    picture = drawn()
    assert {(each.kind, each.name) for each in picture.nodes} == {
        ("client", "clients"),
        ("edge", "front"),
        ("service", "shop"),
        ("service", "stock"),
        ("service", "stock-next"),
        ("outside", "bank"),
        ("jaeger", "Jaeger"),
    }
    assert node(picture, "stock").lines == ("port 9002", "store1, store2")
    assert node(picture, "front").lines == ("port 8000", "web1, web2")
    assert node(picture, "bank").lines == ("api.bank.example:443", "TLS")


def test_arrows_lead_from_callers_to_the_called() -> None:
    found = arrows(drawn())
    assert set(found) == {
        ("clients", "front"),
        ("front", "shop"),
        ("front", "stock"),
        ("shop", "stock"),
        ("shop", "bank"),
    }
    assert found["front", "shop"].label == ("/",)
    assert found["front", "stock"].label == ("/stock (exactly) [GET]",)
    assert not any(each.dashed for each in found.values())


def test_weights_and_copies_are_shown() -> None:
    route = {
        "prefix": "/",
        "to": {"shop": 90, "stock-next": 10},
        "mirror": {"to": "stock", "percent": 5},
    }
    found = arrows(drawn(worlds.inventory(worlds.changed(("mesh_edges/front/routes", [route])))))
    assert found["front", "shop"].label == ("/ 90 %",)
    assert found["front", "stock-next"].label == ("/ 10 %",)
    assert found["front", "stock"] == Arrow("e_front", "s_stock", ("copies of / 5 %",), True)


def test_hosts_stand_with_their_zones() -> None:
    hosts = {
        host: {**each, "mesh_zone": "west" if host == "store2" else "east"}
        for host, each in worlds.HOSTS.items()
    }
    picture = drawn(worlds.inventory(None, hosts))
    assert node(picture, "stock").lines == ("port 9002", "east: store1", "west: store2")


def test_many_hosts_and_many_routes_are_counted() -> None:
    stores = tuple(f"store{number:02}" for number in range(1, 21))
    hosts = {
        **worlds.HOSTS,
        **{name: {"ansible_host": f"10.0.1.{n}"} for n, name in enumerate(stores, 1)},
    }
    routes = [{"prefix": f"/{number}", "to": "shop"} for number in range(9)]
    picture = drawn(
        worlds.inventory(
            worlds.changed(("mesh_edges/front/routes", routes)),
            hosts,
            {**worlds.GROUPS, "stores": stores},
        )
    )
    assert node(picture, "stock").lines[1] == "store01, store02, store03 and 17 more"
    assert arrows(picture)["front", "shop"].label == ("/0", "/1", "/2", "and 6 more")


def test_a_site_of_its_own_is_named_on_its_arrows() -> None:
    sites = {"b2b": {"domains": ["b2b.example"], "routes": [{"prefix": "/", "to": "stock-next"}]}}
    picture = drawn(worlds.inventory(worlds.changed(("mesh_edges/front/virtual_hosts", sites))))
    assert arrows(picture)["front", "stock-next"].label == ("b2b.example/",)


def test_addresses_outside_of_the_same_name_stay_apart() -> None:
    mesh = worlds.changed(
        ("mesh_services/stock-next/calls", {"bank": {"host": "10.9.9.9", "port": 80}})
    )
    outside = [each for each in drawn(worlds.inventory(mesh)).nodes if each.kind == "outside"]
    assert {each.lines for each in outside} == {("api.bank.example:443", "TLS"), ("10.9.9.9:80",)}
    assert len({each.id for each in outside}) == 2


def test_mermaid_text_says_it_all() -> None:
    text = graph.mermaid(drawn())
    assert text.startswith("flowchart LR\n")
    assert '  s_stock["<b>stock</b><br/>port 9002<br/>store1, store2"]:::service\n' in text
    assert '  e_front -->|"/stock (exactly) [GET]"| s_stock\n' in text
    assert "  s_shop --> x_bank_api_bank_example_443\n" in text
    used = set(re.findall(r":::(\w+)", text))
    assert used == set(re.findall(r"classDef (\w+)", text))


def test_mermaid_dashes_copies() -> None:
    picture = Picture((), (Arrow("a", "b", ("copies",), dashed=True),))
    assert '  a -.->|"copies"| b\n' in graph.mermaid(picture)


HOSTILE = 'a"b<c>&|`{}#;\n-->%%'


def test_no_value_gets_out_of_its_label() -> None:
    picture = Picture((Node("n", "service", HOSTILE, (HOSTILE,)),), (Arrow("n", "n", (HOSTILE,)),))
    (line,) = [each for each in graph.mermaid(picture).splitlines() if each.startswith("  n[")]
    inner = line.removeprefix('  n["').removesuffix('"]:::service')
    assert not set('"|`{}') & set(inner)
    assert inner.count("<") == 3, "the tags of our own: bold, its end, and a line break"
    assert html_of(graph.dot(picture)) >= 2


def html_of(dot: str) -> int:
    """Return how many labels there are; each must be well-formed, as Graphviz reads them as XML."""
    labels = re.findall(r"label=<(.*?)>\]", dot, re.DOTALL)
    for label in labels:
        ElementTree.fromstring(f"<x>{label}</x>")
    return len(labels)


def test_the_same_plan_gives_the_same_text_whatever_the_order_of_its_hosts() -> None:
    hosts = worlds.plan(worlds.inventory()).hosts
    backwards = dict(reversed(hosts.items()))
    for language in (graph.mermaid, graph.dot):
        one, other = (language(pictured(worlds.inventory(), each)) for each in (hosts, backwards))
        assert one == other


def test_no_hidden_value_is_drawn() -> None:
    headers = {"headers": {"x-key": "correct horse"}, "prefix": "/", "to": "shop"}
    mesh = worlds.changed(("mesh_edges/front/routes", [headers]))
    way = ("mesh_edges", "front", "routes", "0", "headers", "x-key")
    picture = drawn(worlds.inventory(mesh, hidden=(way,)))
    assert "correct horse" not in graph.mermaid(picture) + graph.dot(picture)
    assert arrows(picture)["front", "shop"].label == ("/ [x-key: (hidden)]",)


@pytest.mark.skipif(shutil.which("dot") is None, reason="needs Graphviz")
def test_graphviz_draws_every_node_and_arrow() -> None:
    picture = drawn()
    done = subprocess.run(
        ["dot", "-Tsvg"], input=graph.dot(picture), capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert done.stdout.count('class="node"') == len(picture.nodes)
    assert done.stdout.count('class="edge"') == len(picture.arrows)


@pytest.mark.parametrize(
    ("match", "words"),
    [
        ({"prefix": "/a", "headers": []}, "/a"),
        ({"path": "/a", "headers": []}, "/a (exactly)"),
        ({"regex": "/a+", "headers": []}, "/a+ (regex)"),
        ({"prefix": "/", "headers": [{"name": ":method", "regex": "GET|PUT"}]}, "/ [GET/PUT]"),
        ({"prefix": "/", "headers": [{"name": "a", "present": True}]}, "/ [with a]"),
        ({"prefix": "/", "headers": [{"name": "a", "present": False}]}, "/ [without a]"),
        ({"prefix": "/", "headers": [{"name": "a", "prefix": "b"}]}, "/ [a: b...]"),
        ({"prefix": "/", "headers": [{"name": "a", "regex": "b+"}]}, "/ [a ~ b+]"),
    ],
)
def test_conditions_are_words(match: dict[str, object], words: str) -> None:
    assert match_words(match) == words
