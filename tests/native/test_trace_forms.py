"""Every form of trace context that public tracers write, at each kind of listener.

One Envoy has a listener for each kind (an edge's for trusted peers, one inside the mesh), exporter
and share of sampling; what it makes of the headers, the upstream tells.
"""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.native.native import Upstream, free_port, on_loopback, port_of, running
from tests.native.views import (
    APP,
    LOOPBACK,
    cluster,
    collector,
    host,
    listener,
    proxy,
    public,
    route,
    table,
    tracing,
)
from vmesh.compile.cluster_views import HEALTH_CHECK_HEADER
from vmesh.compile.host_spec import View

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
NEW = "new"
UUID = "17cf7cce-b653-4565-8881-27ead1accbb0"
Headers = list[tuple[str, str]]

SHARES = (0, 100)
EXPORTS = ("otlp", "otlp_http", "zipkin")
KINDS = ("inside", "edge")


def _name(kind: str, export: str, share: int) -> str:
    return f"{kind}-{export}-{share}"


def _listener(kind: str, export: str, share: int) -> View:
    name = _name(kind, export, share)
    traced = tracing(export=export, sampling=float(share), follows=kind == "inside")
    if kind == "inside":
        return listener(name, direction="OUTBOUND", tracing=traced)
    trusted = [LOOPBACK]
    made = public(tracing=traced, trusted_networks=trusted, internal_networks=trusted)
    return {**made, "name": name}


class Hop:
    """The listeners, by kind, exporter and share."""

    def __init__(self, ports: dict[str, int]) -> None:
        self.ports = ports

    def seen(self, name: str, headers: Headers) -> dict[str, str]:
        """Return the headers that the upstream got."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[name], timeout=10)
        connection.putrequest("GET", "/")
        for header in headers:
            connection.putheader(*header)
        connection.endheaders()
        found: dict[str, str] = json.loads(connection.getresponse().read())
        connection.close()
        return found


@pytest.fixture(scope="module")
def hop(envoy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hop]:
    with ExitStack() as stack:
        app, spans = (stack.enter_context(Upstream(name)) for name in ("app", "spans"))
        spans.answers(202)
        listeners, routes = [], {}
        for kind in KINDS:
            for export in EXPORTS:
                for share in SHARES:
                    made = _listener(kind, export, share)
                    made["tracing"]["collector"] = f"{export}_collector"
                    listeners.append(made)
                    routes[made["name"]] = table(host("all", [route("/", f"app-{export}")]))
        clusters = [
            *(
                cluster(f"app-{export}", app.port, headers={**APP, "tell_b3": export != "zipkin"})
                for export in EXPORTS
            ),
            {**collector(free_port()), "name": "otlp_collector"},
            cluster("otlp_http_collector", spans.port, headers=None),
            cluster("zipkin_collector", spans.port, headers=None),
        ]
        plan = on_loopback(proxy(listeners, routes, clusters))
        stack.enter_context(running(envoy, tmp_path_factory.mktemp("hop"), plan))
        yield Hop({each["name"]: port_of(plan, each["name"]) for each in listeners})


def told(seen: dict[str, str]) -> tuple[str, str]:
    """Return trace id and sampled flag, on which both forms must agree."""
    found = re.fullmatch("00-([0-9a-f]{32})-([0-9a-f]{16})-0([01])", seen["traceparent"])
    assert found, seen["traceparent"]
    # Envoy's Zipkin tracer leaves out the first half of an id when it is 0.
    trace = seen["x-b3-traceid"].zfill(32)
    assert found.groups() == (trace, seen["x-b3-spanid"], seen["x-b3-sampled"])
    assert found[1] != "0" * 32
    assert found[2] != "0" * 16
    steps = {name for name in seen if name.startswith("x-vmesh-")}
    assert steps <= {HEALTH_CHECK_HEADER}
    assert "b3" not in seen
    return found[1], found[3]


def b3(trace: str = TRACE, span: str = SPAN, **rest: str) -> Headers:
    return [("x-b3-traceid", trace), ("x-b3-spanid", span), *_b3(**rest)]


def _b3(**rest: str) -> Headers:
    return [(f"x-b3-{name}", value) for name, value in rest.items()]


def parent(version: str = "00", flags: str = "01", more: str = "", trace: str = TRACE) -> Headers:
    return [("traceparent", f"{version}-{trace}-{SPAN}-{flags}{more}")]


JOINS: dict[str, tuple[Headers, str, str]] = {
    # W3C
    "traceparent": (parent(), TRACE, "1"),
    "traceparent unsampled": (parent(flags="00"), TRACE, "0"),
    "flags of level 2": (parent(flags="03"), TRACE, "1"),
    "flags of level 2, unsampled": (parent(flags="02"), TRACE, "0"),
    "all flags": (parent(flags="ff"), TRACE, "1"),
    "later version": (parent("01"), TRACE, "1"),
    "later version with more fields": (parent("cc", more="-what-comes"), TRACE, "1"),
    "later version, unsampled": (parent("fe", "fe", more="-what-comes"), TRACE, "0"),
    "traceparent and other B3": ([*parent(), ("b3", f"{'1' * 32}-{SPAN}-0")], TRACE, "1"),
    # B3 in several headers
    "B3": (b3(sampled="1"), TRACE, "1"),
    "B3 without a decision": (b3(), TRACE, "1"),
    "B3 unsampled": (b3(sampled="0"), TRACE, "0"),
    "B3 true": (b3(sampled="true"), TRACE, "1"),
    "B3 false": (b3(sampled="false"), TRACE, "0"),
    "B3 True": (b3(sampled="True"), TRACE, "1"),
    "B3 False": (b3(sampled="False"), TRACE, "0"),
    "B3 debug": (b3(flags="1"), TRACE, "1"),
    "B3 debug and unsampled": (b3(sampled="0", flags="1"), TRACE, "1"),
    "B3 flags of nothing": (b3(sampled="0", flags="0"), TRACE, "0"),
    "B3 with a parent": (b3(parentspanid="2" * 16, sampled="1"), TRACE, "1"),
    "B3 in upper case": (b3(TRACE.upper(), SPAN.upper(), sampled="1"), TRACE, "1"),
    "B3 of 64 bits": (b3(TRACE[16:], sampled="1"), "0" * 16 + TRACE[16:], "1"),
    "B3 of 15 digits": (b3(TRACE[17:], sampled="1"), "0" * 17 + TRACE[17:], "1"),
    "B3 of 31 digits": (b3(TRACE[1:], SPAN[1:], sampled="0"), "0" + TRACE[1:], "0"),
    "B3 of one digit": (b3("a", "b", sampled="1"), "0" * 31 + "a", "1"),
    # B3 in one header
    "b3": ([("b3", f"{TRACE}-{SPAN}-1")], TRACE, "1"),
    "b3 without a decision": ([("b3", f"{TRACE}-{SPAN}")], TRACE, "1"),
    "b3 with a parent": ([("b3", f"{TRACE}-{SPAN}-1-{SPAN}")], TRACE, "1"),
    "b3 unsampled with a parent": ([("b3", f"{TRACE}-{SPAN}-0-{SPAN}")], TRACE, "0"),
    "b3 debug": ([("b3", f"{TRACE}-{SPAN}-d")], TRACE, "1"),
    "b3 in upper case": ([("b3", f"{TRACE.upper()}-{SPAN.upper()}-0")], TRACE, "0"),
    "b3 of 15 digits": ([("b3", f"{TRACE[17:]}-{SPAN[1:]}-1")], "0" * 17 + TRACE[17:], "1"),
    "b3 and several": ([("b3", f"{TRACE}-{SPAN}-1"), *b3("1" * 32, sampled="0")], TRACE, "1"),
    "b3 unreadable and several": ([("b3", "?"), *b3(sampled="0")], TRACE, "0"),
    # A traceparent that cannot be read beside a B3 that can
    "empty and B3": ([("traceparent", ""), *b3(sampled="1")], TRACE, "1"),
    "null and B3": ([("traceparent", "null"), *b3(sampled="0")], TRACE, "0"),
    "zeros and b3": ([*parent(trace="0" * 32), ("b3", f"{TRACE}-{SPAN}-1")], TRACE, "1"),
}

BEGINS: dict[str, Headers] = {
    "nothing": [],
    "empty": [("traceparent", "")],
    "null": [("traceparent", "null")],
    "zeros": [("traceparent", f"00-{'0' * 32}-{'0' * 16}-00")],
    "trace of zeros": parent(trace="0" * 32),
    "parent of zeros": [("traceparent", f"00-{TRACE}-{'0' * 16}-01")],
    "version 00 with more": parent(more="-what"),
    "version 00 with a hyphen": parent(more="-"),
    "later version with more and no hyphen": parent("01", more="what"),
    "version ff": parent("ff"),
    "not hexadecimal": parent(trace="g" * 32),
    "between f and 9": parent(trace=":" * 32),
    "hyphens elsewhere": [("traceparent", f"00-{TRACE}{SPAN[0]}-{SPAN[1:]}-01")],
    "short": [("traceparent", f"00-{TRACE[1:]}-{SPAN}-01")],
    "twice": parent() + parent(trace="1" * 32),
    "B3 of 33 digits": b3("1" + TRACE, sampled="1"),
    "B3 span of 17 digits": b3(span="1" + SPAN, sampled="1"),
    "B3 of zeros": b3("0" * 32, sampled="1"),
    "B3 span of zeros": b3(span="0" * 16, sampled="1"),
    "B3 not hexadecimal": b3("x" * 32, sampled="1"),
    "B3 decision unreadable": b3(sampled="perhaps"),
    "B3 without a span": [("x-b3-traceid", TRACE), ("x-b3-sampled", "1")],
    "b3 unreadable": [("b3", "what-is-this")],
    "b3 empty": [("b3", "")],
    "b3 without a span": [("b3", TRACE)],
    "tracestate alone": [("tracestate", "a=b")],
}

REFUSES: dict[str, Headers] = {
    "b3: 0": [("b3", "0")],
    "x-b3-sampled: 0": _b3(sampled="0"),
    "x-b3-sampled: false": _b3(sampled="false"),
    "x-b3-sampled: False": _b3(sampled="False"),
    "x-b3-sampled: 0, x-b3-flags: 0": _b3(sampled="0", flags="0"),
    "ids that cannot be read, unsampled": b3("x" * 32, sampled="0"),
}

LISTENERS = [_name(kind, export, share) for kind in KINDS for export in EXPORTS for share in SHARES]


def _share(name: str) -> str:
    """Return what a listener that samples all or nothing decides."""
    return "1" if name.endswith("-100") else "0"


@pytest.mark.parametrize("case", JOINS)
def test_a_readable_context_is_joined_and_its_decision_followed(hop: Hop, case: str) -> None:
    headers, trace, sampled = JOINS[case]
    for name in LISTENERS:
        seen = hop.seen(name, headers)
        assert told(seen) == (trace, sampled), name
        assert seen["x-b3-spanid"] not in (SPAN, "0" + SPAN[1:]), name


@pytest.mark.parametrize("case", BEGINS)
def test_an_unreadable_context_begins_a_trace_by_the_share(hop: Hop, case: str) -> None:
    for name in LISTENERS:
        seen = hop.seen(name, BEGINS[case])
        trace, sampled = told(seen)
        assert sampled == _share(name), name
        assert TRACE[1:31] not in trace, name
        assert not seen.get("tracestate"), name


@pytest.mark.parametrize("case", REFUSES)
def test_a_decision_alone_is_obeyed(hop: Hop, case: str) -> None:
    for name in LISTENERS:
        one, other = (told(hop.seen(name, REFUSES[case])) for _ in range(2))
        assert one[1] == other[1] == "0", name
        assert one[0] != other[0], name


@pytest.mark.parametrize("name", LISTENERS)
def test_tracestate_goes_with_its_traceparent_only(hop: Hop, name: str) -> None:
    state: Headers = [("tracestate", "a=b,c=d")]
    assert hop.seen(name, [*parent(), *state])["tracestate"] == "a=b,c=d"
    assert not hop.seen(name, [*b3(sampled="1"), *state]).get("tracestate")
    assert not hop.seen(name, [*parent("ff"), *state]).get("tracestate")


@pytest.mark.parametrize("name", LISTENERS)
def test_any_request_id_is_kept_and_decides_nothing(hop: Hop, name: str) -> None:
    for request_id in ("abc", UUID, UUID.replace("-", ""), "Root=1-67891233-abcdef", "a b, c"):
        identified: Headers = [("x-request-id", request_id)]
        for context, sampled in (
            ([], _share(name)),
            (parent(), "1"),
            (parent(flags="00"), "0"),
        ):
            seen = hop.seen(name, [*identified, *context])
            assert told(seen)[1] == sampled, request_id
            assert seen["x-request-id"] == request_id


@pytest.mark.parametrize("name", [each for each in LISTENERS if each.startswith("inside")])
def test_a_health_check_is_never_traced(hop: Hop, name: str) -> None:
    assert told(hop.seen(name, [(HEALTH_CHECK_HEADER, "1")]))[1] == "0"
