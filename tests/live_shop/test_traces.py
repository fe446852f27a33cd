"""One request crosses all levels, and its trace has exactly the spans that the inventory says."""

from __future__ import annotations

import json

from bench.live.web import request
from tests.live_shop.shop import Answer, Shop, answer, trace_of

LEVELS = 5
REQUESTS = 20


def services_of(told: Answer) -> set[str]:
    return {each.service for each in told.everybody()}


def test_one_request_crosses_five_levels(shop: Shop) -> None:
    wanted = shop.wanted("/checkout")
    assert wanted.levels() == 1 + LEVELS  # the edge's own comes before
    replies = shop.many(REQUESTS, "/checkout")
    below = {node.service for node in wanted.flat()} - {"shop"}
    assert [services_of(answer(reply)) for reply in replies] == [below] * REQUESTS
    assert len({trace_of(reply) for reply in replies}) == REQUESTS
    assert shop.untraced(replies, wanted) == []


def test_application_in_another_language_is_the_last_span_of_its_trace(shop: Shop) -> None:
    reply = shop.get("/warehouse/shelf", edge="backoffice")
    wanted = shop.wanted("/warehouse/shelf", "backoffice")
    assert [node.service for node in wanted.flat()] == [
        "backoffice",
        "warehouse",
        "warehouse",
        "stock",
    ]
    told = answer(reply)
    assert told.path == "/shelf"  # rewritten by the edge
    [stock] = told.upstreams
    assert (stock.service, stock.version[:6]) == ("stock", "perl v")
    assert shop.untraced([reply], wanted) == []


def test_both_edges_lead_to_the_same_services_and_name_themselves(shop: Shop) -> None:
    reply = shop.get("/orders", edge="backoffice")
    wanted = shop.wanted("/orders", "backoffice")
    assert wanted.service == "backoffice"
    assert services_of(answer(reply)) == {"orders", "payment", "warehouse", "stock"}
    assert shop.untraced([reply], wanted) == []


def test_health_checks_make_no_spans(shop: Shop) -> None:
    """The carts are asked for their health every few seconds, by each caller."""
    shop.get("/cart")  # so that there is at least one
    found = request(shop.target.jaeger_url, "/api/traces?service=cart&limit=1000&lookback=1h")
    assert found.status == 200
    traces = json.loads(found.body)["data"]
    assert traces
    edges = set(shop.mesh.edges)
    strays = []
    for trace in traces:
        processes = {name: each["serviceName"] for name, each in trace["processes"].items()}
        if not edges & set(processes.values()):
            strays.append(trace["traceID"])
    assert strays == []
