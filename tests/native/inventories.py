"""Inventories by hypothesis: mutations of those in tests/corpus, fitting ones and wild ones.

A fitting mutation puts something in place that the schema takes, and what compiles then is kept:
that is what Envoy is to be asked about. A wild one puts anything anywhere.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from vmesh.base import paths
from vmesh.base.problems import Problems
from vmesh.compile.compiler import compile_mesh
from vmesh.model import schema
from vmesh.model.inventory import Inventory
from vmesh.model.schema import KeyPath, Schema

CORPUS = paths.PROJECT / "tests" / "corpus"
BEGINNINGS: dict[str, Any] = {
    name: yaml.safe_load((CORPUS / f"{name}.yml").read_text()) for name in ("rich", "base")
}
SECRET = "hunter2 by chance"

Draw = Callable[[st.SearchStrategy[Any]], Any]

SERVICES = ("shop", "stock", "pay", "next", "maps")
_REFERENCES: dict[str, tuple[Any, ...]] = {
    "group": ("web", "shop", "stores", "pay", "web1", "store2"),
    "ca_file": ("tests/corpus/ca.pem",),
    "certificate": ("tests/corpus/ca.pem",),
    "jwks_file": ("tests/corpus/jwks.json",),
    "jwks_ca_file": ("tests/corpus/ca.pem",),
    "directory_ca_file": ("tests/corpus/ca.pem",),
    "port": (1, 80, 443, 4317, 8001, 9001, 9005, 16686, 65535),
}
_BY_FORMAT: dict[str, tuple[str, ...]] = {
    "ipv4": ("0.0.0.0", "127.0.0.1", "10.0.0.1", "255.255.255.255", "192.0.2.1"),
    "ipv4-network": ("0.0.0.0/0", "10.0.0.0/8", "192.0.2.7/32", "192.0.2.7", "10.0.0.0/255.0.0.0"),
    "network": ("0.0.0.0/0", "::/0", "10.0.0.0/8", "10.0.0.0/255.0.0.0", "192.0.2.7/32",
                "2001:db8::/32", "2001:DB8::1/128", "::ffff:10.0.0.0/104"),
    "dns-name": ("a", "a.b", "api.example.com", "api.example.com.", "_srv._tcp.example.com",
                 "xn--caf-dma.example.com", "A.EXAMPLE.com", f"{'a' * 63}.{'b' * 63}.{'c' * 63}"),
    "public-name": ("a.b", "shop.example.com"),
    "domain": ("*", "a", "*.a.b", "shop.example.com.", "my_shop", "1.2.3.4"),
    "origin": ("*", "https://a", "http://A.b.:80", "https://my_shop:8443"),
    "https-url": ("https://a", "https://A.b.:8443/", "https://10.0.0.1/k?a=%20{{x}}",
                  "https://login.example.com/keys%REQ(x)%\"'`$\\"),
    "listening": ("127.0.0.1:1", "0.0.0.0:65535", "unix:/a", f"unix:/{'a' * 106}",
                  "unix:/run/it's \"here\".sock".replace(" ", "_"), "10.0.0.31:7001"),
    "re2": ("/.*", "/[0-9]+", "(?i)/a|b", "/(a)(b)?", "\\d{3}-\\w+", "[^/]*", "/\\x00", "/é+",
            "a{900}", "\\pL", "/(?P<name>x)", "^$", ".", "\\Q.*\\E", "[[:alpha:]]", "\\pN\\pL*",
            "{{ x }}"),
    "wsgi": ("app:app", "a.b_c.d:e", "app:f()", "app:f('it', -1, b=None)",
             "app:f(\"$x `y` \\\\\")"),
    "body": ("", "hi\n", "é" * 2048, "x" * 4096, "{{ x }}", "%s %REQ(x)%", "\"'`$\\", "a\r\n\tb"),
}  # fmt: skip
_BY_FORMAT["host"] = (*_BY_FORMAT["dns-name"], "192.0.2.7", "1.2.3.4")

ODD_TEXTS = (
    "", " ", "y", "no", "on", "~", "null", "1e3", "0x1f", "a: b", "- a", "#", "'", '"', "`$(x)`",
    "{{ x }}", "{% x %}", "%REQ(:path)%", "%%", "\\", "\\1", "é", "日本語", "\u202e", "\x00",
    "\x07", "\n", "\r\n", "\t", "\x7f", "\u0085", "\u2028", "\ud800", "a" * 5000, "/", "*",
    "..", "/../x", "3s", "10%", "true", "-1", "10.0.0.1", "shop", "stock", "front", "[",
    "(?=x)", "a{5000}", "\U0001f600",
)  # fmt: skip
WILD: tuple[Any, ...] = (
    *ODD_TEXTS, None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**400, 16**6000, 0.0, 0.5,
    1e-9, 1e300, float("nan"), float("inf"), [], [None], [[]], {}, {"": ""}, {None: None},
    {True: 1}, {1: 2}, {"prefix": "/"}, ["shop"], [{"to": "shop"}], {"shop": 1},
    {"a": {"b": {"c": []}}},
)  # fmt: skip


def inventory(mesh: Any, hosts: Any, groups: Any, hidden: Any = ()) -> Inventory:
    """Return an inventory of these parts; `hidden` are the key paths of what Ansible Vault has."""
    return Inventory(
        Path("inventory"),
        {name: tuple(members) for name, members in groups.items()},
        hosts,
        mesh,
        # As if they came from Ansible Vault.
        hidden=frozenset(map(tuple, hidden))
        | {("mesh_edges", str(edge), "tls", "key") for edge in _edges(mesh)},
    )


def _edges(mesh: Any) -> list[Any]:
    edges = mesh.get("mesh_edges") if isinstance(mesh, Mapping) else None
    return list(edges) if isinstance(edges, Mapping) else []


def beginning(name: str) -> Inventory:
    """Return an inventory that others are mutations of."""
    parts = copy.deepcopy(BEGINNINGS[name])
    return inventory(parts["mesh"], parts["hosts"], parts["groups"], parts.get("hidden", ()))


def places(value: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Yield where in `value` there is something, from the outside in."""
    inner: Any = ()
    if isinstance(value, Mapping):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    for key, item in inner:
        yield (*path, key)
        yield from places(item, (*path, key))


def rule_at(path: KeyPath) -> Schema:
    """Return what the schema says of the place `path`; {} where it says nothing."""
    rule: Schema = schema.load()
    for key in path:
        if isinstance(key, int):
            rule = schema.resolved(rule.get("items", {}))
            continue
        others = rule.get("additionalProperties")
        inner = rule.get("properties", {}).get(key, others if isinstance(others, Mapping) else {})
        rule = schema.resolved(inner)
    return rule


def fitting(draw: Draw, rule: Schema, key: str = "") -> Any:
    """Return something that the schema takes where it has `rule`, below the key `key`."""
    rule = schema.resolved(rule)
    kinds = rule.get("type", ())
    kind = kinds if isinstance(kinds, str) else draw(st.sampled_from(kinds)) if kinds else None
    if key in _REFERENCES and kind != "object":
        return draw(st.sampled_from(_REFERENCES[key]))
    if "enum" in rule:
        return draw(st.sampled_from(rule["enum"]))
    if kind == "object":
        return _fitting_mapping(draw, rule, key)
    if kind == "array":
        few = rule.get("minItems", 0)
        items = [fitting(draw, rule["items"]) for _ in range(draw(st.integers(few, few + 2)))]
        return [each for n, each in enumerate(items) if each not in items[:n]]
    return draw(_scalars(rule, kind, key))


def _scalars(rule: Schema, kind: Any, key: str) -> st.SearchStrategy[Any]:
    if key == "to":
        return st.sampled_from(SERVICES)
    low, high = rule.get("minimum", 0), rule.get("maximum", 10**6)
    simple: dict[Any, st.SearchStrategy[Any]] = {
        "integer": st.one_of(st.sampled_from([low, high]), st.integers(int(low), int(high))),
        "number": st.one_of(st.sampled_from([low, high]), st.floats(low, high)),
        "boolean": st.booleans(),
        "null": st.none(),
    }
    return simple[kind] if kind in simple else _texts(rule)


def _texts(rule: Schema) -> st.SearchStrategy[str]:
    if "format" in rule:
        return st.sampled_from(_BY_FORMAT[rule["format"]])
    accepts = schema.validator().evolve(schema=rule).is_valid
    texts = st.sampled_from([text for text in ODD_TEXTS if accepts(text)] or ["x"])
    if "pattern" not in rule:
        return texts
    shaped = st.from_regex(rule["pattern"], fullmatch=True).map(lambda text: text[:200])
    return st.one_of(texts, shaped.filter(accepts))


def _fitting_mapping(draw: Draw, rule: Schema, key: str) -> dict[str, Any]:
    properties: Mapping[str, Schema] = rule.get("properties", {})
    others = rule.get("additionalProperties")
    if isinstance(others, Mapping):
        names = st.sampled_from(SERVICES) if key in {"to", "calls"} else _names(rule)
        return {
            name: fitting(draw, others)
            for name in draw(st.lists(names, min_size=1, max_size=3, unique=True))
        }
    if others is True and not properties:
        return {}
    wanted = set(rule.get("required", ()))
    taken = draw(st.lists(st.sampled_from(sorted(properties)), max_size=4, unique=True))
    wanted |= set(taken)
    for group in [rule, *rule.get("allOf", ())]:
        choices = [each["required"][0] for each in group.get("oneOf", group.get("anyOf", ()))]
        if choices:
            wanted -= set(choices)
            wanted.add(draw(st.sampled_from(choices)))
    if rule.get("maxProperties") == 1 or (rule.get("minProperties") and not wanted):
        wanted = {draw(st.sampled_from(sorted(properties)))}
    if {"merge", "patch"} <= properties.keys():
        # Only an empty patch fits whatever it meets.
        wanted = (wanted - {"patch"}) | {"merge"}
    for name, needs in rule.get("dependentRequired", {}).items():
        if name in wanted and not wanted.issuperset(needs):
            wanted.discard(name)
    return {name: fitting(draw, properties[name], name) for name in sorted(wanted)}


def _names(rule: Schema) -> st.SearchStrategy[str]:
    names = schema.resolved(rule["propertyNames"])
    accepts = schema.validator().evolve(schema=names).is_valid
    return st.from_regex(names["pattern"], fullmatch=True).filter(accepts)


@st.composite
def fitting_inventories(draw: Draw) -> Inventory:
    """Give inventories that compile: what does not fit to the rest is taken back."""
    given = beginning(draw(st.sampled_from(["rich", "rich", "rich", "base"])))
    for _ in range(draw(st.integers(1, 8))):
        mesh = copy.deepcopy(given.mesh)
        path = draw(st.sampled_from([each for each in places(mesh) if len(each) > 1]))
        _fit(draw, mesh, path)
        changed = dataclasses.replace(given, mesh=mesh)
        if compiles(changed):
            given = changed
    return given


def compiles(given: Inventory) -> bool:
    """Tell whether nothing is wrong with an inventory."""
    try:
        compile_mesh(given)
    except Problems:
        return False
    return True


def _fit(draw: Draw, mesh: Any, path: KeyPath) -> None:
    """Put something fitting at `path`, or add something to what is there."""
    parent, key = _inner(mesh, path)
    rule = rule_at(path)
    if not rule:
        return
    value, properties = parent[key], rule.get("properties", {})
    lacking = sorted(set(properties) - set(value)) if isinstance(value, dict) else []
    if lacking and draw(st.booleans()):
        name = draw(st.sampled_from(lacking))
        value[name] = fitting(draw, properties[name], name)
    elif isinstance(value, list) and draw(st.booleans()):
        value.append(fitting(draw, rule["items"]))
    elif len(path) > 2 or draw(st.integers(0, 9)) == 0:
        parent[key] = fitting(draw, rule, str(key))


def _inner(tree: Any, path: KeyPath) -> tuple[Any, Any]:
    for key in path[:-1]:
        tree = tree[key]
    return tree, path[-1]


@st.composite
def wild_inventories(draw: Draw) -> Inventory:
    """Give inventories in which anything may stand anywhere."""
    parts = copy.deepcopy(BEGINNINGS["rich"])
    parts["mesh"]["mesh_services"]["shop"]["app"]["environment"]["DB_PASSWORD"] = SECRET
    for _ in range(draw(st.integers(1, 5))):
        part = draw(st.sampled_from(["mesh", "mesh", "mesh", "hosts"]))
        tree = parts[part]
        # Hosts are always mappings of variables, as Ansible has them.
        shallow = 0 if part == "mesh" else 1
        known = [path for path in places(tree) if len(path) > shallow]
        if known:
            _mutate(draw, tree, draw(st.sampled_from(known)), known)
    return inventory(parts["mesh"], parts["hosts"], parts["groups"])


def _mutate(draw: Draw, tree: Any, path: KeyPath, known: list[KeyPath]) -> None:
    parent, key = _inner(tree, path)
    ways = ["set", "set", "delete", "rename", "copy", "wrap", "add", "fit"]
    way = draw(st.sampled_from(ways))
    if way == "delete":
        del parent[key]
    elif way == "rename" and isinstance(parent, dict):
        names = ["quux", f"{key}s", str(key)[:-1], str(key).upper(), 404, None, True, 1.5]
        parent[draw(st.sampled_from(names))] = parent.pop(key)
    elif way == "copy":
        other, name = _inner(tree, draw(st.sampled_from(known)))
        value = other[name]
        # What is copied out of the environment is no secret any more.
        parent[key] = None if _holds(value, SECRET) else copy.deepcopy(value)
    elif way == "wrap":
        parent[key] = draw(st.sampled_from([[parent[key]], {"a": parent[key]}]))
    elif way == "add" and isinstance(parent[key], dict):
        name = draw(st.sampled_from(sorted(_every_key())))
        parent[key][name] = copy.deepcopy(draw(st.sampled_from(WILD)))
    elif way == "fit" and (rule := rule_at(path)):
        parent[key] = fitting(draw, rule, str(key))
    else:
        parent[key] = copy.deepcopy(draw(st.sampled_from(WILD)))


def _holds(value: Any, text: str) -> bool:
    if isinstance(value, Mapping):
        return any(_holds(each, text) for each in value.values())
    return any(_holds(each, text) for each in value) if isinstance(value, list) else value == text


def _every_key(rule: Any = None) -> set[str]:
    """Return every key that the schema knows anywhere."""
    rule = schema.load() if rule is None else rule
    if isinstance(rule, list):
        return {key for each in rule for key in _every_key(each)}
    if not isinstance(rule, Mapping):
        return set()
    found = (
        set(rule.get("properties", ())) if isinstance(rule.get("properties"), Mapping) else set()
    )
    return found.union(*(_every_key(each) for each in rule.values()))
