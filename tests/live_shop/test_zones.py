"""Callers keep to their own zone while somebody in it is well."""

from __future__ import annotations

import pytest

from bench.live.waiting import until
from tests.live_shop.shop import Shop, answer, instances

REQUESTS = 24


def test_requests_stay_in_their_caller_s_zone(shop: Shop) -> None:
    east = shop.many(REQUESTS, "/checkout")
    for service in ("checkout", "cart", "warehouse", "stock"):
        assert set(instances(east, service)) <= shop.hosts_of(service, "east"), service
    # More than one in the zone: they share.
    assert set(instances(east, "warehouse")) == shop.hosts_of("warehouse", "east")
    west = shop.many(REQUESTS, "/warehouse/shelf", edge="backoffice")
    for service in ("warehouse", "stock"):
        assert set(instances(west, service)) == shop.hosts_of(service, "west"), service


@pytest.mark.side_effect
def test_other_zone_takes_over_and_hands_back(shop: Shop) -> None:
    [host] = shop.hosts_of("checkout", "east")
    assert set(instances(shop.many(REQUESTS, "/checkout"), "checkout")) == {host}
    with shop.stopped(host, "envoy@checkout.service"):
        # The first ones meet an instance that is gone and are tried again elsewhere, until it is
        # put aside: no client sees any of this, not even one that comes alone.
        replies = [shop.get("/checkout") for _ in range(3)]
        replies += shop.many(REQUESTS - len(replies), "/checkout")
        assert [reply.status for reply in replies] == [200] * REQUESTS
        assert set(instances(replies, "checkout")) == shop.hosts_of("checkout", "west")
        assert shop.untraced(replies[-3:], shop.wanted("/checkout")) == []

    def back() -> bool:
        return answer(shop.get("/checkout")).who("checkout") == host

    until(f"checkout on {host} again", back, 120)
