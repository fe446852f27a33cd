"""What the edges do with requests: weights, copies, limits, faults, and where each path leads."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from bench.live.web import Reply
from tests.live_shop.chance import bounds
from tests.live_shop.shop import CLIENTS, Shop, answer, instances

WEIGHED = 400
FAULTY = 120
GUESSES = 30
REFILL_SECONDS = 12  # five a minute
PARTNER = (("host", "partners.shop.example"),)
# A delayed request took at least this much longer than one that was not; see the route.
DELAY_SECONDS = 1.0


def within(count: int, trials: int, share: float) -> None:
    """See that chance explains `count`."""
    low, high = bounds(trials, share)
    print(f"{count} of {trials}, expected {low} to {high} for {share:.0%}")
    assert low <= count <= high, f"{count} of {trials} is no accident at {share:.0%}"


def test_weights_share_the_requests_out(shop: Shop) -> None:
    replies = shop.many(WEIGHED, "/recommend")
    by_service = Counter(answer(reply).service for reply in replies)
    assert set(by_service) == {"recommend", "recommend-next"}
    within(by_service["recommend-next"], WEIGHED, 0.1)
    for service in by_service:
        some = [reply for reply in replies if answer(reply).service == service][:3]
        assert shop.untraced(some, shop.wanted("/recommend", to=service)) == []


def test_header_chooses_the_canary_whatever_the_weights(shop: Shop) -> None:
    replies = shop.many(20, "/recommend", (("x-preview", "yes"),))
    assert {answer(reply).service for reply in replies} == {"recommend-next"}


def test_copies_go_to_the_next_catalog_and_the_client_sees_none_of_it(shop: Shop) -> None:
    replies = shop.many(20, "/catalog")
    assert {answer(reply).service for reply in replies} == {"catalog"}
    wanted = shop.wanted("/catalog")
    assert {node.service for node in wanted.flat()} == {"shop", "catalog", "catalog-next"}
    assert shop.untraced(replies, wanted) == []


def test_copies_leave_a_route_without_them_alone(shop: Shop) -> None:
    reply = shop.get("/catalog/17")
    assert answer(reply).service == "catalog"
    assert shop.untraced([reply], shop.wanted("/catalog/17")) == []


def test_failing_copies_are_nobody_s_business(shop: Shop) -> None:
    [host] = shop.hosts_of("catalog-next")
    with shop.drill(host, "catalog-next", "503"):
        replies = shop.many(10, "/catalog")
        assert {answer(reply).service for reply in replies} == {"catalog"}
        spans = shop.trace(replies[0], len(shop.wanted("/catalog").flat()))
    failed = {(span.service, span.kind) for span in spans if span.error}
    assert failed == {("shop", "client"), ("catalog-next", "server")}


def test_customer_stays_with_one_cart(shop: Shop) -> None:
    first = shop.get("/cart")
    cookie = str(first.header("set-cookie")).split(";")[0]
    assert cookie.startswith("cart=")
    again = shop.many(15, "/cart", (("cookie", cookie),))
    assert set(instances(again, "cart")) == {answer(first).who("cart")}
    assert not any(reply.header("set-cookie") for reply in again)
    # Others, each without a cookie yet, are spread over all.
    others = shop.many(40, "/cart")
    assert set(instances(others, "cart")) == shop.hosts_of("cart")


def guesses(shop: Shop) -> tuple[int, list[Reply]]:
    """Guess many codes at once; return how many guesses were let through, and the other replies."""
    replies = shop.many(GUESSES, "/coupon")
    refused = [reply for reply in replies if reply.status != 200]
    return GUESSES - len(refused), refused


def test_rate_limit_lets_a_few_through_and_says_when_to_come_back(shop: Shop) -> None:
    limit = next(
        route.filters["rate_limit"]
        for route in shop.edge("shop").routes
        if route.match.value == "/coupon"
    )
    assert (limit["requests"], limit["per"]) == (5, "minute")
    began = time.monotonic()
    passed, refused = guesses(shop)
    if passed < 5:  # somebody has guessed a moment ago: give it a minute to forget
        time.sleep(60)
        began = time.monotonic()
        passed, refused = guesses(shop)
    assert 5 <= passed <= 5 + (time.monotonic() - began) // REFILL_SECONDS + 1
    assert {reply.status for reply in refused} == {429}
    assert {reply.header("retry-after") for reply in refused} == {str(REFILL_SECONDS)}
    assert shop.get("/recommend").status == 200  # other routes have no part in it
    time.sleep(2 * REFILL_SECONDS)
    passed, refused = guesses(shop)
    assert 2 <= passed <= (time.monotonic() - began) // REFILL_SECONDS + 1
    assert {reply.status for reply in refused} == {429}


def test_faults_come_as_often_as_the_route_says(shop: Shop) -> None:
    usual = min(timed(shop, "/orders")[1] for _ in range(3))
    with ThreadPoolExecutor(CLIENTS) as pool:
        results = list(pool.map(lambda _: timed(shop, "/drill"), range(FAULTY)))
    aborted = sum(reply.status == 503 for reply, _ in results)
    assert {reply.status for reply, _ in results} == {200, 503}
    within(aborted, FAULTY, 0.25)
    late = sum(seconds >= DELAY_SECONDS for _, seconds in results)
    print(f"/orders takes {usual:.2f} s without a fault")
    within(late, FAULTY, 0.25)
    gone = next(reply for reply, _ in results if reply.status == 503)
    # The payment never heard of it: the edge's is the only span.
    assert [span.service for span in shop.trace(gone, 1)] == ["backoffice"]


def timed(shop: Shop, path: str) -> tuple[Reply, float]:
    began = time.monotonic()
    reply = shop.get(path, edge="backoffice")
    return reply, time.monotonic() - began


def test_partners_have_a_limit_of_their_own_and_their_pages_may_ask(shop: Shop) -> None:
    origin = (*PARTNER, ("origin", "https://prices.example"))
    reply = shop.get("/catalog", origin)
    assert answer(reply).service == "catalog"
    assert reply.header("access-control-allow-origin") == "https://prices.example"
    stranger = shop.get("/catalog", (*PARTNER, ("origin", "https://elsewhere.example")))
    assert stranger.header("access-control-allow-origin") is None
    assert shop.get("/checkout", PARTNER).status == 404  # not at their address


@pytest.mark.parametrize(
    ("path", "status", "location"),
    [("/", 302, "/catalog"), ("/robots.txt", 200, None), ("/nowhere", 404, None)],
)
def test_edge_answers_by_itself(shop: Shop, path: str, status: int, location: str | None) -> None:
    reply = shop.get(path)
    assert reply.status == status
    where = reply.header("location")
    assert (where or "").endswith(location or "")
    assert (where is None) == (location is None)


def test_long_answers_are_compressed_for_those_who_can_read_it(shop: Shop) -> None:
    long = "/checkout/" + "with/a/present/" * 4
    plain = shop.get(long)
    assert plain.header("content-encoding") is None
    assert len(plain.body) > 1024
    packed = shop.get(long, (("accept-encoding", "gzip"),))
    assert packed.header("content-encoding") == "gzip"


def test_only_the_methods_of_the_route_are_let_in(shop: Shop) -> None:
    assert shop.get("/catalog", method="HEAD").status == 200
    assert shop.get("/catalog", method="POST").status == 404
