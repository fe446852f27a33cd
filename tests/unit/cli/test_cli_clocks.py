"""By which clock a trace's spans are drawn, where hosts' clocks differ and where they do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmesh.traces import waterfall
from vmesh.traces.span import Span, parse

MILLISECOND, SECOND = 1_000, 1_000_000
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def span(name: str, parent: str | None, on: str | None, start: int, end: int, **more: Any) -> Span:
    """Return a span of the Envoy on host `on`; times in milliseconds."""
    return Span(
        trace_id=TRACE,
        span_id=name,
        parent_id=parent,
        service=more.pop("service", name),
        operation=name,
        start=start * MILLISECOND,
        duration=(end - start) * MILLISECOND,
        kind=more.pop("kind", "server"),
        host=on,
        process=more.pop("process", name),
        **more,
    )


def into_app(name: str, parent: str | None, on: str, start: int, end: int) -> Span:
    """Return the span of a request that an Envoy passes to the app beside it."""
    return span(name, parent, on, start, end, to_own_app=True)


def out(name: str, parent: str | None, on: str, start: int, end: int) -> Span:
    """Return the span of a call that an app makes through its own Envoy."""
    return span(name, parent, on, start, end, kind="client")


def drawn(*spans: Span) -> dict[str, tuple[int, str]]:
    """Return span -> where it is drawn, in milliseconds after the first one, and its marks."""
    rows = waterfall.tree(spans).rows
    return {row.span.span_id: (row.offset // MILLISECOND, row.mark) for row in rows}


def skewed(spans: tuple[Span, ...], **by: int) -> list[Span]:
    """Return the spans as hosts would tell them whose clocks are ahead `by` milliseconds."""
    return [
        replace(each, start=each.start + by.get(str(each.host), 0) * MILLISECOND) for each in spans
    ]


# The edge calls shop on web, which calls stock on store.
CHAIN = (
    span("edge", None, "edge", 0, 100),
    into_app("shop", "edge", "web", 10, 90),
    out("call", "shop", "web", 20, 80),
    into_app("stock", "call", "store", 30, 70),
)


def test_a_call_after_the_answer_is_drawn_at_its_own_time() -> None:
    spans = (
        span("edge", None, "edge", 0, 100),
        into_app("shop", "edge", "web", 10, 90),
        out("late", "shop", "web", 2_090, 2_110),
        into_app("stock", "late", "store", 2_095, 2_105),
    )
    assert drawn(*spans) == {
        "edge": (0, ""),
        "shop": (10, ""),
        "late": (2_090, ""),
        "stock": (2_095, ""),
    }
    lines = waterfall.lines(waterfall.tree(spans), 100, "#")
    assert len(lines) == 5  # nothing is told of clocks
    bars = {line.split()[0]: line for line in lines[1:]}
    assert bars["edge"].index("#") < bars["late"].index("#") <= bars["stock"].index("#")
    assert waterfall.total(waterfall.tree(spans).rows) == 2_110 * MILLISECOND


def test_clocks_that_agree_well_enough_are_left_alone() -> None:
    assert drawn(*skewed(CHAIN, web=-9, store=-9)) == {
        "edge": (0, ""),
        "shop": (1, ""),
        "call": (11, ""),
        "stock": (21, ""),
    }


@pytest.mark.parametrize("ahead", [-8_000, 8_000])
def test_all_spans_of_a_host_are_moved_by_the_same(ahead: int) -> None:
    found = drawn(*skewed(CHAIN, web=ahead))
    assert found["call"][0] - found["shop"][0] == 10
    assert 0 <= found["shop"][0] <= 20  # within the edge's span
    assert found["call"][0] <= found["stock"][0] <= found["call"][0] + 60
    assert {name for name, (_, mark) in found.items() if mark == "~"} == {"shop", "call"}
    assert (found["edge"], found["stock"]) == ((0, ""), (30, ""))


def test_a_host_is_moved_no_further_than_its_spans_demand() -> None:
    found = drawn(*skewed(CHAIN, web=-8_000))
    # The edge alone would let shop begin at 0. stock begins at 30, and call ends 60 after it began.
    assert found["shop"] == (0, "~")
    tree = waterfall.tree(skewed(CHAIN, web=-8_000))
    assert tree.apart == (("web", 7_990 * MILLISECOND),)
    assert waterfall.lines(tree, 100)[-1] == (
        "~ moved by 7.99 s: the clock of web is behind by that or more"
    )


def test_the_clock_of_the_last_host_alone_is_corrected() -> None:
    found = drawn(*skewed(CHAIN, store=5_000))
    assert found["stock"] == (40, "~")  # it ends when the call does
    assert [mark for name, (_, mark) in found.items() if name != "stock"] == ["", "", ""]


def test_what_a_moved_host_calls_late_keeps_its_distance() -> None:
    late = (*CHAIN, out("later", "shop", "web", 3_000, 3_010))
    found = drawn(*skewed(late, web=-8_000))
    assert found["later"][0] - found["shop"][0] == 2_990
    assert found["later"][1] == "~"


def test_replicas_of_a_service_have_a_clock_each() -> None:
    def try_(name: str, on: str, start: int, end: int) -> Span:
        return replace(
            into_app(name, "edge", on, start, end), service="shop", process="same process"
        )

    spans = (
        span("edge", None, "edge", 0, 100),
        try_("first", "web1", 10, 40),
        try_("second", "web2", 50, 90),
    )
    found = drawn(*skewed(spans, web1=-8_000))
    assert found == {"edge": (0, ""), "first": (0, "~"), "second": (50, "")}


def test_several_calls_to_a_host_bound_its_clock_together() -> None:
    spans = (
        span("edge", None, "edge", 0, 1_000),
        out("one", "edge", "web", 100, 200),
        into_app("a", "one", "store", 110, 120),
        out("two", "edge", "web", 600, 700),
        into_app("b", "two", "store", 680, 690),
    )
    found = drawn(*skewed(spans, store=-50))
    # a must move by 40 or more, b by none: both move by 40.
    assert found == {
        "edge": (0, ""),
        "one": (100, ""),
        "two": (600, ""),
        "a": (100, "~"),
        "b": (670, "~"),
    }


def test_times_that_contradict_each_other_are_marked_and_the_host_is_not_torn_apart() -> None:
    spans = (
        span("edge", None, "edge", 0, 1_000),
        out("one", "edge", "web", 100, 200),
        into_app("a", "one", "store", 50, 60),  # the clock of store is behind, by 50 at least
        out("two", "edge", "web", 600, 700),
        into_app("b", "two", "store", 710, 720),  # and ahead, by 10 at least
    )
    found = drawn(*spans)
    assert found["a"] == (100, "~")
    assert found["b"] == (760, "~?")
    assert waterfall.lines(waterfall.tree(spans), 100)[-1].startswith("? ")


def test_a_parent_that_need_not_wait_bounds_only_the_beginning() -> None:
    producer = span("put", None, None, 0, 10, kind="producer")
    consumer = span("take", "put", None, 5_000, 5_010, kind="consumer")
    assert drawn(producer, consumer)["take"] == (5_000, "")
    early = replace(consumer, start=-5_000 * MILLISECOND)
    assert drawn(producer, early)["take"] == (0, "~")


def test_an_apps_own_spans_have_the_clock_of_the_envoy_beside_it() -> None:
    def of_app(name: str, parent: str, start: int, end: int, kind: str) -> Span:
        return span(name, parent, None, start, end, kind=kind, process="the app")

    spans = (
        span("edge", None, "edge", 0, 100),
        into_app("shop", "edge", "web", 10, 90),
        of_app("handle", "shop", 11, 89, "server"),
        of_app("job", "handle", 3_000, 3_010, "internal"),
        of_app("get", "job", 3_001, 3_009, "client"),
        out("call", "get", "web", 3_002, 3_008),
        into_app("stock", "call", "store", 3_003, 3_007),
    )
    assert {mark for _, mark in drawn(*spans).values()} == {""}
    behind = [
        replace(each, start=each.start - 8 * SECOND)
        if each.host == "web" or each.host is None
        else each
        for each in spans
    ]
    found = drawn(*behind)
    assert {name for name, (_, mark) in found.items() if mark == "~"} == {
        "shop",
        "handle",
        "job",
        "get",
        "call",
    }
    assert found["call"][0] - found["shop"][0] == 2_992


def test_machines_that_are_called_alike_are_told_apart_by_their_envoys() -> None:
    def of_app(name: str, parent: str, start: int, end: int) -> Span:
        return span(name, parent, None, start, end, machine="debian", process="same")

    spans = (
        span("edge", None, "edge", 0, 100),
        into_app("first", "edge", "web1", -8_010, -8_000),
        of_app("handle1", "first", -8_009, -8_001),
        into_app("second", "edge", "web2", 50, 90),
        of_app("handle2", "second", 51, 89),
    )
    found = drawn(*spans)
    assert (found["handle1"], found["handle2"]) == ((1, "~"), (51, ""))


def test_one_machine_has_one_clock_whichever_process_tells_its_name() -> None:
    spans = (
        span("root", None, None, 0, 100, machine="one", kind="client"),
        span("there", "root", None, -5_000, -4_990, machine="two"),
        span("again", "root", None, -4_950, -4_940, machine="two"),
    )
    assert drawn(*spans) == {"root": (0, ""), "there": (0, "~"), "again": (50, "~")}


def test_the_host_of_a_span_is_in_the_node_id_that_envoy_tells() -> None:
    def tags(**given: str) -> list[dict[str, str]]:
        return [{"key": key.replace("__", "."), "value": value} for key, value in given.items()]

    raw = {
        "traceID": TRACE, "operationName": "x", "references": [], "startTime": 1, "duration": 1,
    }  # fmt: skip
    envoy = tags(node_id="shop@web1", upstream_cluster__name="local_app")
    app = {"serviceName": "shop", "tags": tags(host__name="debian")}
    answer = {
        "data": [
            {
                "spans": [
                    {**raw, "spanID": "a", "tags": envoy, "processID": "p1"},
                    {**raw, "spanID": "b", "tags": tags(node_id="odd"), "processID": "p2"},
                ],
                "processes": {"p1": {"serviceName": "shop"}, "p2": app},
            }
        ]
    }
    one, other = parse(answer)
    assert (one.host, one.machine, one.to_own_app) == ("web1", None, True)
    assert (other.host, other.machine, other.to_own_app) == (None, "debian", False)
    assert one.process != other.process


# Any trace


@dataclass(frozen=True)
class World:
    """A trace by the true time, and how far each host's clock is ahead, in microseconds."""

    spans: tuple[Span, ...]
    ahead: Mapping[str, int]

    def told(self) -> list[Span]:
        return [replace(each, start=each.start + self.ahead[str(each.host)]) for each in self.spans]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Envoys on a few hosts, each passing on or calling, in time or long after their answer."""
    hosts = [f"h{number}" for number in range(draw(st.integers(1, 5)))]
    spans = [
        Span(TRACE, "0", None, "s", "o", 0, draw(st.integers(0, 1_000)), "server", host=hosts[0])
    ]
    for number in range(1, draw(st.integers(2, 12))):
        parent = draw(st.sampled_from(spans))
        host = draw(st.sampled_from(hosts))
        own_app = draw(st.booleans())
        latest = parent.duration
        if host == parent.host or parent.to_own_app:
            latest += draw(st.sampled_from([0, 5_000]))
        spans.append(
            Span(
                TRACE,
                str(number),
                parent.span_id,
                "s",
                "o",
                parent.start + draw(st.integers(0, latest)),
                draw(st.integers(0, 1_000)),
                draw(st.sampled_from(["client", "server"])),
                host=host,
                to_own_app=own_app,
            )
        )
    ahead = {host: draw(st.integers(-10_000, 10_000)) for host in hosts}
    return World(tuple(draw(st.permutations(spans))), ahead)


@given(worlds())
def test_spans_of_a_host_keep_their_distances_and_every_child_fits(world: World) -> None:
    told = {each.span_id: each for each in world.told()}
    rows = waterfall.tree(told.values()).rows
    moved = {row.span.span_id: row.span for row in rows}
    assert moved.keys() == told.keys()
    offsets: dict[str | None, set[int]] = {}
    for name, each in moved.items():
        offsets.setdefault(each.host, set()).add(each.start - told[name].start)
    assert all(len(found) == 1 for found in offsets.values())
    assert offsets[told["0"].host] == {0}
    assert not any("?" in row.mark for row in rows)  # there is a way in which all fit: the true one
    for each in moved.values():
        parent = moved.get(str(each.parent_id))
        if parent is not None and parent.host != each.host:
            assert parent.start <= each.start
            assert parent.to_own_app or each.start <= parent.end


@given(worlds())
def test_with_equal_clocks_nothing_is_moved(world: World) -> None:
    rows = waterfall.tree(world.spans).rows
    assert {row.span for row in rows} == set(world.spans)
    assert not any(row.mark for row in rows)
