"""What becomes of trace headers at each kind of hop, as the app behind it sees them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from plugins.module_utils.envoy_apply import bring
from tests.native.native import echo, get, native, on_loopback, port_of, send_to
from vmesh.base import paths
from vmesh.compile.compiler import compile_mesh
from vmesh.compile.host_spec import ProxySpec
from vmesh.model.inventory import load

FOREIGN = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
Ask = Callable[[dict[str, str]], dict[str, str]]


def _plan(kind: str, with_trusted: tuple[str, ...] = (), name: str | None = None) -> ProxySpec:
    """Return the plan of the proxy `name`, else of the one with the most listeners."""
    inventory = load(paths.PROJECT / "inventory" / "lab")
    (edge,) = inventory.mesh["mesh_edges"].values()
    edge["trusted_cidrs"] = list(with_trusted)
    hosts = compile_mesh(inventory).hosts
    plans = [
        p
        for host in hosts.values()
        for p in host.proxies
        if p.kind == kind and name in (None, p.name)
    ]
    return on_loopback(max(plans, key=lambda plan: len(plan.view["listeners"])))


def _ask(envoy: Path, folder: Path, way: Sequence[tuple[ProxySpec, str]]) -> Iterator[Ask]:
    """Start the Envoys on the `way` to an app that tells what it got: each with a listener."""
    with ExitStack() as stack:
        port = stack.enter_context(echo())
        for plan, listener in reversed(way):
            made = stack.enter_context(native(envoy, folder / plan.name, plan))
            for cluster in plan.view["clusters"]:
                if not cluster["http2"]:
                    send_to(plan, cluster["name"], port)
            bring(made.proxy, made.files())
            port = port_of(plan, listener)

        def ask(headers: dict[str, str]) -> dict[str, str]:
            status, answered, body = get(port, "/trace/1", headers)
            assert status == 200
            seen: dict[str, str] = json.loads(body)
            return {**seen, **{f"answer:{k}": v for k, v in answered.items()}}

        yield ask


def _through(edge: ProxySpec) -> list[tuple[ProxySpec, str]]:
    return [(edge, "public"), (_plan("service"), "ingress")]


@pytest.fixture(scope="module")
def edge(envoy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    yield from _ask(envoy, tmp_path_factory.mktemp("edge"), _through(_plan("edge")))


@pytest.fixture(scope="module")
def trusting_edge(envoy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    way = _through(_plan("edge", ("127.0.0.0/8",)))
    yield from _ask(envoy, tmp_path_factory.mktemp("trusting"), way)


@pytest.fixture(scope="module")
def egress(envoy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    plan = _plan("service")
    (name,) = [each["name"] for each in plan.view["listeners"] if each["direction"] == "OUTBOUND"]
    way = [(plan, name), (_plan("service", name="service2"), "ingress")]
    yield from _ask(envoy, tmp_path_factory.mktemp("egress"), way)


def both_forms(seen: dict[str, str]) -> tuple[str, str, str]:
    """Return trace id, span id and sampled flag, which W3C and B3 headers must agree on."""
    _, trace, span, flags = seen["traceparent"].split("-")
    told = (seen["x-b3-traceid"], seen["x-b3-spanid"], f"0{seen['x-b3-sampled']}")
    assert told == (trace, span, flags)
    return trace, span, flags


HOSTILE = [
    {"traceparent": f"00-{FOREIGN}-{SPAN}-00", "tracestate": "a=b"},
    {"traceparent": f"00-{FOREIGN}-{SPAN}-01"},
    {"b3": f"{FOREIGN}-{SPAN}-0"},
    {"b3": "0"},
    {"x-b3-traceid": FOREIGN, "x-b3-spanid": SPAN, "x-b3-sampled": "0", "x-b3-flags": "1"},
    {"x-ot-span-context": FOREIGN},
    {"x-request-id": "not-a-uuid"},
    {"x-client-trace-id": "5", "x-envoy-force-trace": "1"},
]


@pytest.mark.parametrize("headers", HOSTILE, ids=lambda h: next(iter(h)))
def test_the_edge_begins_a_trace_of_its_own(edge: Ask, headers: dict[str, str]) -> None:
    seen = edge(headers)
    trace, span, flags = both_forms(seen)
    assert trace == seen["answer:x-trace-id"]
    assert (FOREIGN in trace, span == SPAN, flags) == (False, False, "01")
    assert seen["x-request-id"] != headers.get("x-request-id")
    for name in ("b3", "x-ot-span-context", "x-b3-flags", "x-client-trace-id"):
        assert name not in seen


def test_a_trusted_peer_brings_its_own_trace(trusting_edge: Ask) -> None:
    trace, span, flags = both_forms(trusting_edge({"traceparent": f"00-{FOREIGN}-{SPAN}-01"}))
    assert (trace, flags) == (FOREIGN, "01")
    assert span != SPAN


@pytest.mark.parametrize(
    ("headers", "trace", "flags"),
    [
        ({"traceparent": f"00-{FOREIGN}-{SPAN}-01"}, FOREIGN, "01"),
        ({"traceparent": f"00-{FOREIGN}-{SPAN}-00"}, FOREIGN, "00"),
        ({"x-b3-traceid": FOREIGN, "x-b3-spanid": SPAN, "x-b3-sampled": "1"}, FOREIGN, "01"),
        ({"x-b3-traceid": FOREIGN, "x-b3-spanid": SPAN, "x-b3-sampled": "0"}, FOREIGN, "00"),
        ({"x-b3-traceid": FOREIGN, "x-b3-spanid": SPAN}, FOREIGN, "01"),
        ({"x-b3-traceid": FOREIGN[16:], "x-b3-spanid": SPAN}, "0" * 16 + FOREIGN[16:], "01"),
        ({"b3": f"{FOREIGN}-{SPAN}-1-{SPAN}"}, FOREIGN, "01"),
        ({"b3": f"{FOREIGN}-{SPAN}-d"}, FOREIGN, "01"),
        ({"b3": f"{FOREIGN[16:]}-{SPAN}-0"}, "0" * 16 + FOREIGN[16:], "00"),
        ({"traceparent": f"00-{FOREIGN}-{SPAN}-01", "b3": f"{'1' * 32}-{SPAN}-0"}, FOREIGN, "01"),
    ],
)
def test_an_app_may_forward_either_form(
    egress: Ask, headers: dict[str, str], trace: str, flags: str
) -> None:
    seen = egress(headers)
    assert both_forms(seen)[::2] == (trace, flags)
    assert "b3" not in seen


def test_an_app_that_forwards_nothing_gets_a_new_trace(egress: Ask) -> None:
    assert both_forms(egress({}))[2] == "01"
