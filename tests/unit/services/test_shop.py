"""A service of the example shop: whom it asks, what it tells, and how it fails on command."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from .conftest import LoadService, StandIn, serving

ITSELF = {"SERVICE_NAME": "orders", "MESH_ADDRESS": "198.18.0.32"}
LEAF = {"service": "stock", "upstreams": {}}


def shop(load_service: LoadService, **environment: str) -> FlaskClient:
    client: FlaskClient = load_service("shop", ITSELF | environment).app.test_client()
    return client


@contextmanager
def two_upstreams() -> Iterator[tuple[StandIn, StandIn]]:
    with serving(StandIn(json=LEAF)) as first, serving(StandIn(json=LEAF)) as second:
        yield first, second


def test_a_service_without_upstreams_answers_for_itself(load_service: LoadService) -> None:
    answer = shop(load_service, VERSION="7").get("/checkout")
    assert answer.status_code == 200
    assert answer.json == {
        "service": "orders",
        "instance": socket.gethostname(),
        "address": "198.18.0.32",
        "version": "7",
        "path": "/checkout",
        "upstreams": {},
    }


def test_every_upstream_is_asked_once_for_the_same_path(load_service: LoadService) -> None:
    with two_upstreams() as (payment, warehouse):
        answer = shop(load_service, PAYMENT_URL=payment.url, OLD_WAREHOUSE_URL=warehouse.url).get(
            "/checkout?customer=1"
        )
        assert [path for path, _ in payment.requests] == ["/checkout"]
        assert [path for path, _ in warehouse.requests] == ["/checkout"]
    assert answer.json is not None
    assert answer.json["upstreams"] == {"old-warehouse": LEAF, "payment": LEAF}
    assert list(answer.json["upstreams"]) == ["old-warehouse", "payment"]


def test_the_trace_is_passed_on_and_nothing_else(load_service: LoadService) -> None:
    with serving(StandIn(json=LEAF)) as stock:
        client = shop(load_service, STOCK_URL=stock.url)
        client.set_cookie("session", "secret")
        client.get(
            "/checkout",
            headers={"traceparent": "t", "x-request-id": "r", "authorization": "secret"},
        )
        [(_, received)] = stock.requests
    assert (received["traceparent"], received["x-request-id"]) == ("t", "r")
    assert "secret" not in received.values()
    assert not {"cookie", "authorization"} & set(received)


@pytest.mark.parametrize(("status", "answered"), [(500, 502), (503, 502), (504, 504)])
def test_an_upstream_that_fails_is_a_sentence(
    load_service: LoadService, stand_in: StandIn, status: int, answered: int
) -> None:
    stand_in.status = status
    answer = shop(load_service, STOCK_URL=stand_in.url).get("/checkout")
    assert answer.status_code == answered
    assert answer.text.startswith("Sorry, stock ")


def test_an_upstream_that_answers_no_json_is_a_sentence(
    load_service: LoadService, stand_in: StandIn
) -> None:
    answer = shop(load_service, STOCK_URL=stand_in.url).get("/checkout")
    assert (answer.status_code, answer.text) == (502, "Sorry, stock answered 200 and no JSON.\n")


def test_health_asks_nobody_and_no_drill_touches_it(
    load_service: LoadService, stand_in: StandIn, tmp_path: Path
) -> None:
    (tmp_path / "fail").write_text("503")
    client = shop(load_service, STOCK_URL=stand_in.url, FAIL_FILE=str(tmp_path / "fail"))
    assert (client.get("/healthz").status_code, client.get("/healthz").text) == (200, "ok\n")
    assert stand_in.requests == []


def statuses(client: FlaskClient, count: int) -> list[int]:
    return [client.get("/checkout").status_code for _ in range(count)]


def test_it_fails_while_the_file_says_so(
    load_service: LoadService, stand_in: StandIn, tmp_path: Path
) -> None:
    file = tmp_path / "fail"
    client = shop(load_service, FAIL_FILE=str(file))
    assert statuses(client, 2) == [200, 200]
    file.write_text("503\n")
    assert statuses(client, 3) == [503, 503, 503]
    file.unlink()
    assert statuses(client, 1) == [200]


def test_it_fails_so_many_times_after_each_command(
    load_service: LoadService, tmp_path: Path
) -> None:
    file = tmp_path / "fail"
    client = shop(load_service, FAIL_FILE=str(file))
    for turn in range(2):
        # In a file of its own each time: two writes may fall into one tick of the clock.
        (tmp_path / f"next{turn}").write_text("500 2")
        (tmp_path / f"next{turn}").rename(file)
        assert statuses(client, 4) == [500, 500, 200, 200]


@pytest.mark.parametrize("command", ["", "200", "404", "600", "no", "503 two", "503 1 1", "5³"])
def test_anything_else_in_the_file_does_nothing(
    load_service: LoadService, tmp_path: Path, command: str
) -> None:
    (tmp_path / "fail").write_text(command)
    assert statuses(shop(load_service, FAIL_FILE=str(tmp_path / "fail")), 1) == [200]


def test_no_request_can_make_it_fail(load_service: LoadService) -> None:
    client = shop(load_service)
    assert client.get("/fail?status=503", headers={"fail-file": "/etc/hostname"}).status_code == 200


def test_a_failing_service_asks_nobody(
    load_service: LoadService, stand_in: StandIn, tmp_path: Path
) -> None:
    (tmp_path / "fail").write_text("503")
    client = shop(load_service, STOCK_URL=stand_in.url, FAIL_FILE=str(tmp_path / "fail"))
    assert statuses(client, 1) == [503]
    assert stand_in.requests == []


def test_an_export_comes_line_by_line_and_asks_nobody(
    load_service: LoadService, stand_in: StandIn
) -> None:
    answer = shop(load_service, STOCK_URL=stand_in.url).get("/catalog/export?lines=3")
    assert answer.text == "orders 1 of 3\norders 2 of 3\norders 3 of 3\n"
    assert stand_in.requests == []


def test_an_export_is_bounded(load_service: LoadService) -> None:
    answer = shop(load_service).get("/export?lines=999999&pause=-1")
    assert len(answer.text.splitlines()) == 2000
