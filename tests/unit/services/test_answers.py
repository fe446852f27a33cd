"""What a user gets from the demo's services, and what the next service gets from service 1."""

from __future__ import annotations

import re
import socket

import pytest
from flask.testing import FlaskClient

from .conftest import LoadService, StandIn

# Written out again on purpose: this list is what Envoy and Jaeger users rely on.
FORWARDED = [
    "x-request-id",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "b3",
    "x-ot-span-context",
    "traceparent",
    "tracestate",
]
# What an HTTP client has to send by itself.
OF_HTTP = {"host", "accept-encoding", "user-agent"}


def service1(load_service: LoadService, upstream: str, timeout: float = 5) -> FlaskClient:
    environment = {
        "MESH_ADDRESS": "198.18.0.12",
        "SERVICE2_URL": upstream,
        "UPSTREAM_TIMEOUT_SECONDS": str(timeout),
    }
    client: FlaskClient = load_service("service1", environment).app.test_client()
    return client


def service2(load_service: LoadService) -> FlaskClient:
    client: FlaskClient = load_service(
        "service2", {"MESH_ADDRESS": "198.18.0.13"}
    ).app.test_client()
    return client


def hello(number: int, address: str) -> str:
    return (
        f"Hello from behind Envoy (service {number})! hostname: {socket.gethostname()} "
        f"resolvedhostname: {address}\n"
    )


@pytest.mark.parametrize("path", ["/service/1", "/trace/1"])
def test_service1_says_hello(load_service: LoadService, stand_in: StandIn, path: str) -> None:
    answer = service1(load_service, stand_in.url).get(path)
    assert (answer.status_code, answer.text) == (200, hello(1, "198.18.0.12"))
    assert answer.headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize("path", ["/service/2", "/trace/2"])
def test_service2_says_hello(load_service: LoadService, path: str) -> None:
    answer = service2(load_service).get(path)
    assert (answer.status_code, answer.text) == (200, hello(2, "198.18.0.13"))
    assert answer.headers["content-type"] == "text/html; charset=utf-8"


def test_only_trace_calls_service2(load_service: LoadService, stand_in: StandIn) -> None:
    client = service1(load_service, stand_in.url)
    client.get("/service/1")
    assert stand_in.requests == []
    client.get("/trace/1")
    assert [path for path, _headers in stand_in.requests] == ["/trace/2"]


def test_every_trace_header_is_forwarded_unchanged(
    load_service: LoadService, stand_in: StandIn
) -> None:
    sent = {name: f"Value of {name}; x=1,y=2" for name in FORWARDED}
    service1(load_service, stand_in.url).get(
        "/trace/1", headers={name.title(): value for name, value in sent.items()}
    )
    _path, received = stand_in.requests[0]
    assert {name: received.get(name) for name in FORWARDED} == sent


@pytest.mark.parametrize("name", FORWARDED)
def test_a_trace_header_travels_alone(
    load_service: LoadService, stand_in: StandIn, name: str
) -> None:
    service1(load_service, stand_in.url).get("/trace/1", headers={name: "1"})
    _path, received = stand_in.requests[0]
    assert set(received) - OF_HTTP == {name}


def test_nothing_but_the_trace_is_forwarded(load_service: LoadService, stand_in: StandIn) -> None:
    client = service1(load_service, stand_in.url)
    client.set_cookie("session", "secret")
    client.get(
        "/trace/1", headers={"authorization": "Bearer secret", "x-b3": "no", "user-agent": "me"}
    )
    _path, received = stand_in.requests[0]
    assert set(received) <= OF_HTTP
    assert received["user-agent"] != "me"


def test_no_header_or_cookie_of_one_user_reaches_the_call_of_another(
    load_service: LoadService, stand_in: StandIn
) -> None:
    client = service1(load_service, stand_in.url)
    stand_in.extra_headers = {"set-cookie": "user=first; Path=/"}
    client.get("/trace/1", headers={"x-request-id": "first"})
    client.get("/trace/1")
    _path, received = stand_in.requests[1]
    assert set(received) <= OF_HTTP


def test_proxy_variables_have_no_say(
    load_service: LoadService, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert service1(load_service, stand_in.url).get("/trace/1").status_code == 200


def one_sentence(text: str) -> bool:
    return re.fullmatch(r"Sorry, [^\n]{10,100}\.\n", text) is not None and "Traceback" not in text


@pytest.mark.parametrize("status", [500, 502, 503])
def test_502_when_service2_fails(load_service: LoadService, stand_in: StandIn, status: int) -> None:
    stand_in.status = status
    answer = service1(load_service, stand_in.url).get("/trace/1")
    assert answer.status_code == 502
    assert one_sentence(answer.text) and "service 2" in answer.text


def test_502_when_service2_is_not_there(load_service: LoadService) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        answer = service1(load_service, url).get("/trace/1")
    assert answer.status_code == 502
    assert one_sentence(answer.text) and "service 2" in answer.text


def test_504_when_service2_is_slow(load_service: LoadService, stand_in: StandIn) -> None:
    stand_in.delay = 0.5
    answer = service1(load_service, stand_in.url, timeout=0.1).get("/trace/1")
    assert answer.status_code == 504
    assert one_sentence(answer.text) and "service 2" in answer.text


def test_504_when_envoy_gave_up_on_service2(load_service: LoadService, stand_in: StandIn) -> None:
    stand_in.status = 504
    answer = service1(load_service, stand_in.url).get("/trace/1")
    assert answer.status_code == 504
    assert one_sentence(answer.text) and "service 2" in answer.text


def test_redirects_are_not_followed(load_service: LoadService, stand_in: StandIn) -> None:
    stand_in.status, stand_in.extra_headers = 302, {"location": "/elsewhere"}
    service1(load_service, stand_in.url).get("/trace/1")
    assert [path for path, _headers in stand_in.requests] == ["/trace/2"]


@pytest.mark.parametrize("name", ["service1", "service2"])
def test_a_bug_is_one_sentence_for_the_user_and_a_traceback_in_the_log(
    load_service: LoadService, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    app = load_service(name, {"MESH_ADDRESS": "198.18.0.12", "SERVICE2_URL": "http://x"}).app

    @app.get("/bug")  # type: ignore[untyped-decorator]
    def bug() -> str:
        raise ValueError("the secret reason")

    answer = app.test_client().get("/bug")
    assert answer.status_code == 500
    assert one_sentence(answer.text) and "secret reason" not in answer.text
    assert "ValueError: the secret reason" in caplog.text


@pytest.mark.parametrize("name", ["service1", "service2"])
def test_an_unknown_path_is_404(load_service: LoadService, name: str) -> None:
    environment = {"MESH_ADDRESS": "198.18.0.12", "SERVICE2_URL": "http://x"}
    answer = load_service(name, environment).app.test_client().get("/nothing/here")
    assert answer.status_code == 404
