"""What becomes of a path on its way through an edge: matches, rewrites, redirects, slashes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.native.edges import SERVICE, WholeWay, whole_way
from tests.native.native import Client, port_of

KINDS = ("prefix", "path_prefix", "path")
MATCHES = ("/", "/api", "/api/", "/a.b+c")
NEW = ("/", "/v2", "/v2/", "/v2/x", "/a\\1b", "/item?id=")
ASKED = (
    "/",
    "/?q=1",
    "/api",
    "/api/",
    "/api?q=/api/",
    "/api/users",
    "/api/users/?q=1",
    "/apiary/x",
    "/api/api/x",
    "/a.b+c/d",
    "/axb+c/d",
    "/other",
)
CASES = [
    (kind, match, new)
    for kind, match, new in itertools.product(KINDS, MATCHES, NEW)
    if not (kind == "path_prefix" and match != "/" and match.endswith("/"))
]


def matches(kind: str, match: str, path: str) -> bool:
    if kind == "path":
        return path == match
    if kind == "prefix" or match == "/":
        return path.startswith(match)
    return path == match or path.startswith(match + "/")


def rewritten(kind: str, match: str, new: str, path: str) -> str:
    """Return what the path becomes: `new` for the segments of `match`, and one slash between."""
    if kind == "path" or path == match == "/":
        return new
    if "?" in new:
        return new + path[len(match) :]  # the rest is part of the query then
    rest = path[len(match.rstrip("/")) :]
    return new.rstrip("/") + rest if rest.startswith("/") else new + rest


def expected(case: tuple[str, str, str], asked: str) -> str | None:
    kind, match, new = case
    path, mark, query = asked.partition("?")
    if not matches(kind, match, path):
        return None
    return rewritten(kind, match, new, path) + mark + query


@pytest.fixture(scope="module")
def edge(envoy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeWay]:
    """Run an edge with a site for each case, once with a rewrite and once with a redirect."""
    sites: dict[str, Any] = {}
    for number, (kind, match, new) in enumerate(CASES):
        for action in ({"to": SERVICE, "rewrite": {"prefix": new}}, {"redirect": {"prefix": new}}):
            name = f"{'to' if 'to' in action else 're'}-{number}"
            route = {kind: match, **action}
            sites[name] = {"domains": [f"{name}.example.com"], "routes": [route]}
    root = tmp_path_factory.mktemp("paths")
    with whole_way(envoy, root, {"virtual_hosts": sites}) as made:
        yield made


def _results(edge: WholeWay, action: str) -> Iterator[tuple[Any, str, str | None]]:
    client = Client(edge.port)
    for number, asked in itertools.product(range(len(CASES)), ASKED):
        before = len(edge.app.requests)
        answered = client.ask(asked, headers={"host": f"{action}-{number}.example.com"})
        found: str | None = None
        if action == "to" and answered.status == 200:
            found = edge.app.requests[before].path
        elif action == "re" and answered.status == 302:
            found = answered.headers["location"].removeprefix(f"http://re-{number}.example.com")
        else:
            assert answered.status == 404
        yield CASES[number], asked, found
    client.close()


@pytest.mark.parametrize("action", ["to", "re"])
def test_a_new_prefix_meets_the_rest_of_the_path_with_one_slash(
    edge: WholeWay, action: str
) -> None:
    wrong = {
        (case, asked): (found, expected(case, asked))
        for case, asked, found in _results(edge, action)
        if found != expected(case, asked)
    }
    assert wrong == {}


Keys = Mapping[str, Any]
ODD_PATHS = ("/a%2Fb", "/a%5Cb", "//a//b", "/a_b%20c")
# An edge makes these paths plain ones; inside the mesh they are as the app wrote them.
INNER_PATHS = (*ODD_PATHS, "/a/../b", "/a/./b", "/a\\b", "/%41%7e", "/a%2e%2e/b", "/a;v=1/b")


@pytest.mark.parametrize(
    ("keys", "arrive"),
    [
        ({}, {"/a%2Fb": 307, "/a%5Cb": 307, "//a//b": "/a/b", "/a_b%20c": "/a_b%20c"}),
        (
            {"escaped_slashes": "keep", "merge_slashes": False},
            {path: path for path in ODD_PATHS},
        ),
        (
            {"escaped_slashes": "unescape"},
            {"/a%2Fb": "/a/b", "/a%5Cb": "/a/b", "//a//b": "/a/b", "/a_b%20c": "/a_b%20c"},
        ),
        ({"escaped_slashes": "reject"}, {"/a%2Fb": 400, "/a%5Cb": 400, "//a//b": "/a/b"}),
    ],
    ids=["usual", "kept", "unescaped", "rejected"],
)
def test_slashes_arrive_at_the_app_as_the_edge_says(
    keys: Keys, arrive: dict[str, Any], envoy: Path, tmp_path: Path
) -> None:
    with whole_way(envoy, tmp_path, keys) as edge:
        client = Client(edge.port)
        for asked, wanted in arrive.items():
            before = len(edge.app.requests)
            answered = client.ask(asked)
            got: Any = answered.status
            if got == 200:
                got = edge.app.requests[before].path
            assert got == wanted, asked
        client.close()


@pytest.mark.parametrize("said", ["reject", "drop", "allow"])
def test_a_header_with_underscores_arrives_where_that_is_said(
    said: str, envoy: Path, tmp_path: Path
) -> None:
    keys = {
        "headers_with_underscores": said,
        "routes": [{"prefix": "/", "to": SERVICE}, {"path": "/matched", "to": "stock"}],
    }
    if said == "allow":
        # A condition on such a header holds here, and is refused elsewhere.
        keys["routes"] = [
            {"prefix": "/", "to": SERVICE},
            {"path": "/matched", "headers": {"x_user": "ann"}, "answer": {"status": 418}},
        ]
    headers = {"x_user": "ann", "x-real_ip": "6.6.6.6", "SCRIPT_NAME": "/forged"}
    with whole_way(envoy, tmp_path, keys) as edge:
        sent = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        request = f"GET {{}} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{sent}\r\n"
        found = edge.raw(request.format("/").encode())
        assert found is not None
        if said == "reject":
            assert found[0] == 400
            return
        (got,) = edge.app.requests
        assert got.headers.get("x_user") == ("ann" if said == "allow" else None)
        assert not {"x-real_ip", "script_name"} & got.headers.keys()
        if said == "allow":
            matched = edge.raw(request.format("/matched").encode())
            assert matched is not None
            assert matched[0] == 418


def test_calls_inside_the_mesh_arrive_as_the_app_wrote_them(edge: WholeWay) -> None:
    client = Client(port_of(edge.made.plan, "ingress"))
    before = len(edge.app.requests)
    for path in INNER_PATHS:
        assert client.ask(path, headers={"x_user": "ann"}).status == 200
    client.close()
    got = edge.app.requests[before:]
    assert tuple(each.path for each in got) == INNER_PATHS
    assert {each.headers["x_user"] for each in got} == {"ann"}
