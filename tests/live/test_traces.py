"""Every request makes exactly its own spans, whatever trace context a stranger sends along."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import pytest

from bench.live.web import Reply
from tests.live.spans import Node, difference, expected
from tests.live.target import Target

REQUESTS = 200
Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Foreign:
    """The ids of a stranger's trace; nothing of it may show up in Jaeger."""

    trace: str
    span: str


def hostile_contexts(foreign: Foreign) -> list[Headers]:
    """Return all the ways in which a client may try to steer tracing."""
    trace, span = foreign.trace, foreign.span
    return [
        (("traceparent", f"00-{trace}-{span}-01"), ("tracestate", "stranger=1")),
        (("traceparent", f"00-{trace}-{span}-00"),),
        (("x-request-id", "not-a-uuid"),),
        (("x-request-id", "00000000-0000-4000-8000-000000000000"),),  # "not sampled" to Envoy
        (("b3", f"{trace}-{span}-1"),),
        (("b3", "0"),),
        (("x-b3-traceid", trace), ("x-b3-spanid", span), ("x-b3-sampled", "1")),
        (("x-b3-traceid", trace[16:]), ("x-b3-spanid", span), ("x-b3-sampled", "0")),
        (("x-ot-span-context", f"{trace};{span};0000000000000000;cs"),),
        (("x-envoy-force-trace", "1"), ("x-client-trace-id", trace)),
        (
            ("traceparent", f"00-{trace}-{span}-00"),
            ("x-request-id", "not-a-uuid"),
            ("b3", f"{trace}-{span}-0"),
            ("x-b3-flags", "1"),
        ),
    ]


@pytest.fixture(scope="module")
def foreign() -> Foreign:
    return Foreign(secrets.token_hex(16), secrets.token_hex(8))


@pytest.fixture(scope="module")
def replies(target: Target, foreign: Foreign) -> list[Reply]:
    """The answers to all requests, every second one of them a hostile one."""
    contexts = hostile_contexts(foreign)
    return [
        target.get("/trace/1", contexts[number // 2 % len(contexts)] if number % 2 else ())
        for number in range(REQUESTS)
    ]


def test_every_request_is_answered_with_a_trace_id_of_its_own(
    replies: list[Reply], foreign: Foreign
) -> None:
    assert [reply.status for reply in replies] == [200] * REQUESTS
    ids = {reply.header("x-trace-id") for reply in replies}
    assert len(ids) == REQUESTS
    assert not ids & {None, "", foreign.trace}


def test_jaeger_has_exactly_the_spans_of_each_request(target: Target, replies: list[Reply]) -> None:
    wanted = chain(target)
    ids = [str(reply.header("x-trace-id")) for reply in replies]
    stored = target.jaeger.settled(dict.fromkeys(ids, len(wanted.flat())))
    wrong = {
        trace_id: told for trace_id, spans in stored.items() if (told := difference(spans, wanted))
    }
    count = sum(len(spans) for spans in stored.values())
    assert not wrong, "\n".join(
        [
            f"{len(wrong)} of {REQUESTS} traces are wrong, {count} spans in all; the first ones:",
            *(f"{trace_id}: {told}" for trace_id, told in list(wrong.items())[:5]),
        ]
    )
    assert count == REQUESTS * len(wanted.flat())


def test_nothing_is_stored_under_the_strangers_ids(
    target: Target, replies: list[Reply], foreign: Foreign
) -> None:
    assert replies
    assert target.jaeger.spans(foreign.trace) == []
    assert target.jaeger.spans(foreign.trace[16:]) == []


@pytest.mark.parametrize("path", ["/service/1", "/service/2", "/trace/2"])
def test_path_that_calls_nobody_makes_two_spans(target: Target, path: str) -> None:
    wanted = expected(target.mesh.spec.mesh, target.edge, path, calls=False)
    trace_id = str(target.get(path).header("x-trace-id"))
    spans = target.jaeger.settled({trace_id: 2})[trace_id]
    assert difference(spans, wanted) == ""


def chain(target: Target) -> Node:
    """Return the trace of /trace/1: front-proxy -> service1 in -> service1 out -> service2."""
    node = expected(target.mesh.spec.mesh, target.edge, "/trace/1", calls=True)
    assert [each.service for each in node.flat()] == [
        "front-proxy",
        "service1",
        "service1",
        "service2",
    ]
    return node
