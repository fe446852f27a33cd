"""What the headers of the Envoys make of a WSGI environment, beside Werkzeug's own ProxyFix."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, request, url_for
from meshtrace.forwarded import Forwarded
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import create_environ, run_wsgi_app

app = Flask(__name__)


@app.get("/")
def seen() -> list[str | None]:
    return [request.remote_addr, request.scheme, request.host, url_for("seen", _external=True)]


def asked(wrapped: Any, **headers: str) -> Any:
    """Return what the app sees of a request with these headers, on a unix socket."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    environ = create_environ(base_url="http://shop.example", headers=named)
    environ["REMOTE_ADDR"] = ""
    body, status, _ = run_wsgi_app(wrapped, environ)
    assert status == "200 OK"
    return app.json.loads(b"".join(body))


def forwarded(**headers: str) -> Any:
    return asked(Forwarded(app), **headers)


def test_without_a_header_nothing_changes() -> None:
    assert forwarded() == asked(app) == ["", "http", "shop.example", "http://shop.example/"]


@pytest.mark.parametrize(
    ("told", "address"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8::7", "2001:db8::7"),
        ("6.6.6.6, 203.0.113.7", "203.0.113.7"),  # the nearest proxy's word
        ("203.0.113.7, junk", ""),
        ("unix:@", ""),
        ("<script>", ""),
        ("", ""),
    ],
)
def test_the_address_is_that_of_the_nearest_envoy_or_none(told: str, address: str) -> None:
    assert forwarded(x_envoy_external_address=told)[0] == address


def _combinations() -> Iterator[dict[str, str]]:
    values = {
        "x_forwarded_proto": ["", "https", "http", "http, https"],
        "x_forwarded_host": ["", "a.example", "a.example:81", "evil.example, a.example", "[::1]:8"],
        "x_forwarded_port": ["", "443", "8443", "1, 80"],
    }
    for chosen in itertools.product(*values.values()):
        yield {name: value for name, value in zip(values, chosen, strict=True) if value}


def test_the_url_is_what_proxy_fix_makes_of_the_same_headers() -> None:
    fixed = ProxyFix(app, x_for=0, x_proto=1, x_host=1, x_port=1)
    for headers in _combinations():
        assert forwarded(**headers) == asked(fixed, **headers), headers


@pytest.mark.parametrize(
    "headers",
    [
        {"x_forwarded_proto": "javascript"},
        {"x_forwarded_proto": "https:"},
        {"x_forwarded_host": "a/b"},
        {"x_forwarded_host": "user@a.example"},
        {"x_forwarded_host": "a.example:port"},
        {"x_forwarded_host": "a b"},
        {"x_forwarded_port": "99999"},
        {"x_forwarded_port": "0"},
        {"x_forwarded_port": "80/evil"},
    ],
)
def test_what_makes_no_sense_says_nothing(headers: dict[str, str]) -> None:
    assert forwarded(**headers) == asked(app)
