"""An instance that fails: clients see nothing of it, traces tell, and it is left alone a while."""

from __future__ import annotations

import time

import pytest

from bench.live.waiting import until
from tests.live.spans import difference, with_failed_try
from tests.live_shop.shop import Shop, answer, instances, trace_of

pytestmark = pytest.mark.side_effect

MOST = 60
FAILING = "east1"


def settle(shop: Shop) -> None:
    """Wait until both warehouses of the zone take part, whatever a test before has done."""
    wanted = shop.hosts_of("warehouse", "east")

    def both() -> bool:
        return set(instances(shop.many(8, "/checkout"), "warehouse")) == wanted

    until("all warehouses of the zone", both, 180)


def test_failed_try_is_repeated_elsewhere_and_shows_in_the_trace(shop: Shop) -> None:
    settle(shop)
    wanted = shop.wanted("/checkout")
    twice = with_failed_try(wanted, "warehouse")
    with shop.drill(FAILING, "warehouse", "503 1"):
        replies = shop.many(10, "/checkout")
    assert [reply.status for reply in replies] == [200] * len(replies)
    assert {answer(reply).service for reply in replies} == {"storefront"}
    stored = shop.jaeger.settled(dict.fromkeys(map(trace_of, replies), len(wanted.flat())))
    retried = [spans for spans in stored.values() if difference(spans, wanted)]
    assert len(retried) == 1, [difference(spans, wanted) for spans in retried]
    [spans] = retried
    assert difference(spans, twice) == ""
    tries = [span for span in spans if (span.service, span.kind) == ("warehouse", "server")]
    assert [span.error for span in sorted(tries, key=lambda each: each.start)] == [True, False]
    assert tries[0].parent_id == tries[1].parent_id


def test_instance_that_fails_in_a_row_is_left_alone_and_comes_back(shop: Shop) -> None:
    settle(shop)
    wanted = shop.wanted("/checkout")
    rule = shop.mesh.services["warehouse"].given["outlier_detection"]
    with shop.drill(FAILING, "warehouse", "503"):
        # Enough of them that it fails often enough in a row; the client is told of no failure.
        for _ in range(MOST):
            reply = shop.get("/checkout")
            assert reply.status == 200
            if ejections(shop):
                break
        assert ejections(shop) == 1
        after = shop.many(10, "/checkout")
        assert FAILING not in instances(after, "warehouse")
        # Nobody even tries it now: the traces are those of a healthy shop.
        assert shop.untraced(after, wanted) == []
    began = time.monotonic()

    def back() -> bool:
        return answer(shop.get("/checkout")).who("warehouse") == FAILING

    until(f"the warehouse of {FAILING} again", back, 120)
    print(f"back after {time.monotonic() - began:.0f} s, ejected for {rule['ejection_time']}")


def ejections(shop: Shop) -> int:
    """Return how many warehouses the Envoy that calls them has put aside."""
    [host] = shop.hosts_of("orders")
    stat = "cluster.warehouse.outlier_detection.ejections_active"
    return shop.stats(host, "orders", stat)[stat]
