"""The schema itself: what it promises to those who read it, and the defaults it gives."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from vmesh.base.formats import FORMATS, MAX_BODY_BYTES, MAX_EXPRESSION_SIZE, re2_fault
from vmesh.model import explain, schema

# What a value can break; the other rules are told without x-expected.
RULES = {"type", "enum", "pattern", "format", "minimum", "maximum", "minLength", "maxLength",
         "minItems", "minProperties", "maxProperties", "uniqueItems", "not"}  # fmt: skip
UNDERSTOOD = RULES | {
    "$schema",
    "$ref",
    "$defs",
    "title",
    "description",
    "default",
    "examples",
    "properties",
    "required",
    "additionalProperties",
    "propertyNames",
    "items",
    "oneOf",
    "anyOf",
    "allOf",
    "dependentRequired",
    "x-expected",
    "x-not",
    "x-why",
    "x-secret",
}


def rules(rule: Any, place: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every schema within `rule`, with its place."""
    yield place, rule
    for name in ("properties", "$defs"):
        for key, inner in rule.get(name, {}).items():
            yield from rules(inner, f"{place}/{name}/{key}")
    for name in ("additionalProperties", "propertyNames", "items"):
        if isinstance(rule.get(name), Mapping):
            yield from rules(rule[name], f"{place}/{name}")


EVERY = list(rules(schema.load()))


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(schema.load())


@pytest.mark.parametrize(("place", "rule"), EVERY, ids=[place or "/" for place, _ in EVERY])
def test_every_part_of_it_can_be_told_in_words(place: str, rule: Mapping[str, Any]) -> None:
    whole = schema.resolved(rule)  # which raises KeyError where a reference leads nowhere
    assert set(rule) <= UNDERSTOOD
    if place and RULES & set(whole):
        assert whole.get("x-expected"), "no message could say what belongs here"
    if "pattern" in rule:
        assert rule["pattern"].startswith("^") and rule["pattern"].endswith("$")
        re.compile(rule["pattern"])
    assert rule.get("format", "re2") in FORMATS
    if "default" in rule:
        assert schema.validator().evolve(schema=rule).is_valid(rule["default"])


def test_every_key_has_a_description() -> None:
    for place, rule in EVERY:
        if re.search(r"/properties/[^/]+$", place):
            assert schema.resolved(rule).get("description"), place


def test_numbers_are_bounded_and_so_are_the_keys() -> None:
    for place, rule in EVERY:
        if rule.get("type") in ("integer", "number"):
            assert {"minimum", "maximum"} <= set(rule), place
        if rule.get("type") == "object" and place:
            assert "additionalProperties" in rule, place


def test_every_text_is_one_that_can_be_written_to_a_file() -> None:
    for place, rule in EVERY:
        if rule.get("type") != "string":
            continue
        accepts = schema.validator().evolve(schema=rule).is_valid
        # Names of groups and services are looked up, and nothing is called by such a name.
        if re.search(r"/(group|to)$|/propertyNames$", place):
            continue
        assert not accepts("a\x00"), place
        assert not accepts("\ud800"), place


def test_defaults_are_put_where_nothing_is_said_and_stay_what_they_are() -> None:
    mesh = {"mesh_services": {"shop": {"port": 9001.0, "app": {"flask": "services/shop"}}}}
    filled = schema.filled(mesh, schema.load())
    app = filled["mesh_services"]["shop"]["app"]
    assert (app["wsgi"], app["workers"], app["environment"]) == ("app:app", 1, {})
    assert json.dumps(filled["mesh_services"]["shop"]["port"]) == "9001"
    assert filled["mesh_edges"] == {}
    assert filled["mesh_tracing"]["sampling"] == 100.0
    assert filled["mesh_operator_bind"] is None
    filled["mesh_edges"]["front"] = {}
    assert schema.filled(mesh, schema.load())["mesh_edges"] == {}


def test_what_is_wrong_is_left_out_and_the_rest_is_not() -> None:
    mesh = {
        "mesh_services": {
            "shop": {"port": "x", "app": {"flask": "services/shop", "workers": 0}, "calls": 5}
        }
    }
    problems, wrong = explain.check(mesh)
    assert [problem.variable for problem in problems] == [
        "mesh_services.shop.app.workers",
        "mesh_services.shop.calls",
        "mesh_services.shop.port",
    ]
    shop = schema.filled(mesh, schema.load(), wrong)["mesh_services"]["shop"]
    assert (shop["port"], shop["calls"]) == (None, {})
    assert (shop["app"]["flask"], shop["app"]["workers"]) == ("services/shop", 1)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("ipv4", ["1.0.0.1", "0.0.0.0"], ["10.0.0", "1.0.0.01", "::1", "1.0.0.1 ", "1.0.\u0661.1"]),
        (
            "network",
            ["10.0.0.0/8", "10.0.0.1/32", "::/0", "2001:db8::/32"],
            ["10.0.0.1", "10.0.0.1/8", "10.0.0.0/33", "2001:db8::1/32", "fe80::%eth0/10", ""],
        ),
        ("ipv4-network", ["10.0.0.0/8", "10.0.0.1"], ["10.0.0.1/8", "10.0.0.0/33", "::/0", ""]),
        (
            "dns-name",
            ["a", "a.example.com", "a.example.com.", "_srv._tcp.a", "xn--caf-dma.com", "a" * 63,
             ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61, ""])],
            ["", ".", "a..b", "-a.com", "a-.com", "a" * 64, "1.2.3.4", "a.invalid", "é.com", "a\n"],
        ),
        (
            "domain",
            ["*", "a", "*.a.b", "shop.example.com.", "my_shop.example.com", "1.2.3.4", "a" * 63,
             ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61, ""])],
            ["", ".", "*.", "**", "a.*", "*.*.a", "A.b", "a..b", "a..", "-a", "a" * 64, "a:80",
             "https://a", "é.com", "a\n", ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 62])],
        ),
        (
            "origin",
            ["*", "https://a.b", "http://A.b.:80", "https://my_shop:65535"],
            ["a.b", "https://", "https://a/", "https://a:0", "https://a:65536", "ftp://a",
             "https://*.a", "https://a\n", "null", "https://u@a"],
        ),
        ("host", ["10.0.0.1", "a.example.com"], ["10.0.0.1:80", "http://a", "10.0.0.256", "a_b/c"]),
        (
            "https-url",
            ["https://a", "https://A.b.:65535/", "https://10.0.0.1/keys?of=%20{a}"],
            ["http://a", "https://", "https://a:0", "https://a:65536/", "https://u:p@a/", "a/keys",
             "https://a/#b", "https://a/ b", "https://a/\n", "https://[::1]/", "https://a?b",
             "https://a.invalid/"],
        ),
        (
            "listening",
            ["127.0.0.1:1", "0.0.0.0:65535", "unix:/run/a.sock", f"unix:/{'a' * 106}"],
            ["127.0.0.1", ":80", "localhost:80", "1.2.3.4:0", "1.2.3.4:65536", "1.2.3.4:080",
             "unix:run/a", "unix:/a b", f"unix:/{'a' * 107}", "unix:/\x00", "127.0.0.1:1\n"],
        ),
        (
            "wsgi",
            ["app:app", "shop.web:app", "app:create_app()", "app:f('a b', -1, None, c=[1, {}])"],
            ["app", "app.py", ":app", "a..b:c", "app:", "app: app", "app:a.b", "app:f()()",
             "app:f(", "app:f(x)", "app:f(*[1])", "app:f(**{})", "app:f({[]: 1})", "app:f(1)\n",
             "app:f('é')"],
        ),
        ("re2", ["(?i)a", "a{900}", "\\pL"], ["(", "(?=a)", "\\1", "\n", "a{1e3}(", "\ud800"]),
        ("body", ["", "a\n\t\r", "x" * MAX_BODY_BYTES, "é" * 2048], ["é" * 2049, "\x00", "\ud800"]),
    ],
)  # fmt: skip
def test_formats_take_what_they_should_and_nothing_else(
    name: str, good: list[str], bad: list[str]
) -> None:
    assert [text for text in good if not FORMATS[name](text)] == []
    assert [text for text in bad if FORMATS[name](text)] == []


def test_an_expression_may_be_as_large_as_it_is_said_and_no_larger() -> None:
    assert re2_fault("a{900}") is None
    fault = re2_fault("[a-z]{900}" * 6)
    assert fault is not None
    assert str(MAX_EXPRESSION_SIZE) in fault


def test_patterns_are_of_the_whole_text() -> None:
    mesh = {"mesh_services": {"shop\n": {"port": 9001, "app": {"flask": "services/shop"}}}}
    (problem,) = explain.check(mesh)[0]
    assert problem.value == "shop\n"
