"""The module canary_check: what a real Envoy counts, and when that is worse than before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils import canary
from plugins.module_utils.canary import (
    QUERY,
    Limits,
    count,
    judge,
    lately,
    load,
    save,
    since,
    watch,
)
from tests.native.native import Upstream, get, on_loopback, port_of, running, send_to
from tests.native.test_apply import edge_plan, proxies

LIMITS = Limits(max_error_increase=5.0, max_slowdown=3.0)
NOTHING: dict[str, Any] = {"requests": 0, "errors": 0, "milliseconds": {}}


def counted(requests: int, errors: int = 0, **within: int) -> dict[str, Any]:
    """`within` maps ms10, ms100, ... to how many requests were not longer."""
    bounds = {str(float(bound.removeprefix("ms"))): number for bound, number in within.items()}
    return {"requests": requests, "errors": errors, "milliseconds": bounds}


@pytest.mark.parametrize("kind", ["edge", "service"])
def test_an_envoy_tells_what_its_own_listener_answered(
    kind: str, envoy: Path, tmp_path: Path
) -> None:
    if kind == "edge":
        plan, listener, clusters = edge_plan(), "public", ["service1", "service2"]
    else:
        plan = on_loopback(next(proxy for proxy in proxies() if proxy.name == "service2"))
        listener, clusters = "ingress", ["local_app"]
    with Upstream("app") as upstream:
        for cluster in clusters:
            send_to(plan, cluster, upstream.port)
        with running(envoy, tmp_path, plan) as native:
            port = port_of(plan, listener)
            before = count(native.proxy.admin.get(QUERY)[1])
            for _ in range(3):
                get(port, "/trace/2")
            upstream.answers(500)
            for _ in range(2):
                get(port, "/trace/2")
            found = since(before, count(native.proxy.admin.get(QUERY)[1]))
    assert (found["requests"], found["errors"]) == (5, 2)


@pytest.mark.parametrize(
    ("before", "after", "fine"),
    [
        (counted(1000), counted(100), True),
        (counted(1000), counted(100, errors=4), True),
        (counted(1000), counted(100, errors=6), False),
        (counted(1000, errors=100), counted(100, errors=14), True),
        # One may be chance, and a host that few ask is judged all the same.
        (counted(1000), counted(2, errors=1), True),
        (counted(1000), counted(10, errors=1), True),
        (counted(1000), counted(3, errors=2), False),
        (NOTHING, counted(10, errors=10), False),
        # Half within 10 ms before; three times that and 250 ms more are allowed.
        (counted(100, ms10=90, ms1000=100), counted(100, ms250=60, ms1000=100), True),
        (counted(100, ms10=90, ms1000=100), counted(100, ms250=40, ms1000=100), False),
        (counted(100, ms10=90, ms1000=100), counted(10, ms250=4, ms1000=10), True),
        (NOTHING, counted(100, ms250=0, ms1000=100), True),
    ],
)
def test_what_is_worse_than_before(
    before: dict[str, Any], after: dict[str, Any], fine: bool
) -> None:
    assert judge(before, after, LIMITS)[1] is fine


def test_what_was_bad_before_the_watch_before_does_not_count() -> None:
    bad = counted(100, errors=50, ms10=100, ms100=100)
    later = counted(120, errors=51, ms10=115, ms100=120)
    assert lately(bad, later) == counted(20, errors=1, ms10=15, ms100=20)
    assert lately(None, later) == later
    too_few, begun_again = counted(119, errors=50, ms10=119, ms100=119), counted(50, ms10=50)
    assert lately(bad, too_few) == too_few
    assert lately(bad, begun_again) == begun_again
    assert lately(counted(20, errors=9), counted(50)) == counted(50)


def test_what_was_counted_is_kept_of_each_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "watched.json"
    monkeypatch.setattr(canary, "WATCHED", path)
    save({"one": counted(1), "two": counted(2)})
    save({"two": counted(3)})
    assert load() == {"one": counted(1), "two": counted(3)}
    path.write_text("half a")
    assert load() == {}
    monkeypatch.setattr(canary, "WATCHED", tmp_path / "none" / "watched.json")
    save({"one": counted(1)})


def test_a_watched_listener_that_begins_to_fail_is_told(
    envoy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = edge_plan()
    with Upstream("app") as upstream:
        for cluster in ("service1", "service2"):
            send_to(plan, cluster, upstream.port)
        with running(envoy, tmp_path, plan) as native:
            port = port_of(plan, "public")
            # Its path on a host is fixed.
            monkeypatch.setattr(canary, "admin_of", lambda _: native.proxy.admin)
            monkeypatch.setattr(canary, "WATCHED", tmp_path / "watched.json")
            before = {"front-proxy": canary.ask("front-proxy")}
            monkeypatch.setattr("time.sleep", lambda _: [get(port, "/trace/1") for _ in range(10)])
            assert watch(["front-proxy"], before, 0, LIMITS)[1] == []
            assert load()["front-proxy"]["requests"] == 10
            upstream.answers(503)
            [told] = watch(["front-proxy"], before, 0, LIMITS)[1]
    assert told.startswith("front-proxy: 10 requests, 100 % of them errors (0 % before)")
