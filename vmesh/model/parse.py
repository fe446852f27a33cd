"""From the mesh_* variables to the classes of `vmesh.model.types`, and from layers to policies.

`parse` checks the variables against the schema (vmesh/model/explain.py), which also has every
default. What the names refer to (groups, hosts, other services) is checked by
`vmesh.compile.checks` and `vmesh.compile.places`, which see the whole.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from vmesh.base.formats import without_dot
from vmesh.base.problems import Problem
from vmesh.model import explain, schema
from vmesh.model.access_types import OFF, Firewall, Opening, Security
from vmesh.model.schema import KeyPath
from vmesh.model.types import (
    ADDRESS_KEYS,
    DEFAULT_JAEGER_GROUP,
    EXPORTS,
    FILTERS,
    HTTP1,
    MAIN,
    MATCH_KINDS,
    NONE,
    OTLP,
    OTLP_HTTP,
    Acme,
    Address,
    Call,
    Edge,
    EdgeTls,
    ExternalApp,
    ExternalAuthorization,
    FlaskApp,
    Given,
    Jwt,
    Match,
    Mesh,
    MeshTracing,
    Patch,
    Policies,
    Retries,
    RolloutPolicy,
    Route,
    Service,
    Tls,
    Tracing,
    VirtualHost,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Made = TypeVar("Made", bound="DataclassInstance")

# Exclusive alternatives inside: the nearer one counts as a whole.
_NOT_MERGED = ("hash_on",)


def parse(variables: Given, problems: list[Problem]) -> Mesh:
    """Return the mesh that `variables` (mesh_services, mesh_edges, ...) describe.

    Mistakes are appended to `problems`; with any there, the result is for
    `vmesh.compile.checks` only.
    """
    variables, unreadable = explain.readable(variables)
    found, wrong = explain.check(variables)
    problems += [*unreadable, *found]
    mesh = schema.filled(dict(variables), schema.load(), wrong)
    services, edges = mesh["mesh_services"] or {}, mesh["mesh_edges"]
    return Mesh(
        services={
            name: _service(name, service, _given(variables, "mesh_services", name), wrong)
            for name, service in services.items()
        },
        edges={
            name: _edge(name, edge, _given(variables, "mesh_edges", name), wrong)
            for name, edge in edges.items()
        },
        tracing=_mesh_tracing(mesh["mesh_tracing"], _given(variables, "mesh_tracing")),
        rollout=RolloutPolicy(**mesh["mesh_rollout"]),
        firewall=_firewall(mesh["mesh_firewall"]),
        security=_security(mesh["mesh_security"]),
        patches=_patches(variables.get("mesh_patches"), wrong),
        operator_bind=mesh["mesh_operator_bind"],
        envoy_version=mesh["mesh_envoy_version"],
        given=variables,
    )


def _firewall(given: Given) -> Firewall:
    """Return the firewall; openings that are not well formed are left out."""
    return _made(
        Firewall,
        given,
        ssh_from=tuple(given["ssh_from"] or ()),
        operators=tuple(given["operators"] or ()),
        open=tuple(
            Opening(each["port"], each["protocol"], tuple(each["from"]))
            for each in given["open"] or ()
            if each and each["port"] and each["from"]
        ),
    )


def _security(value: Given) -> Security:
    # YAML reads `off` without quotes as false.
    mode, revoked = value["mtls"] or OFF, tuple(value["revoked"] or ())
    return _made(Security, value, mtls=mode, revoked=revoked)


def _patches(given: Any, wrong: frozenset[KeyPath]) -> tuple[Patch, ...]:
    """Return the patches that are well formed; each keeps its number in the user's list."""
    found = []
    for number, value in enumerate(given if isinstance(given, list) else ()):
        place: KeyPath = ("mesh_patches", number)
        if any(path[:2] == place for path in wrong):
            continue
        filled = schema.filled(value, schema.load()["$defs"]["mesh_patch"])
        proxies = filled["proxy"] if isinstance(filled["proxy"], list) else [filled["proxy"]]
        found.append(_made(Patch, filled, variable=schema.where(place), proxies=tuple(proxies)))
    return tuple(found)


def seconds(said: float | str) -> float | None:
    """Return a timeout as a number of seconds; None where it is said to be NONE."""
    return None if said == NONE else float(said)


def policies(*layers: Given) -> Policies:
    """Return the policies that `layers` say together, a later one over an earlier one."""
    merged: dict[str, Any] = {}
    for layer in layers:
        _lay_over(merged, layer)
    values = schema.filled(merged, schema.load()["$defs"]["policies"])
    retries = values["retries"]
    return _made(
        Policies,
        values,
        timeout=seconds(values["timeout"]),
        retries=_made(
            Retries,
            retries,
            retry_on=tuple(retries["retry_on"]),
            budget_percent=retries["budget"]["percent"],
            min_concurrent=retries["budget"]["min_concurrent"],
        ),
    )


def _made(kind: type[Made], value: Given, **own: Any) -> Made:
    """Return an object whose fields are the keys of `value` of the same names, but for `own`."""
    same = {field.name for field in fields(kind)} - own.keys()
    return kind(**own, **{name: value[name] for name in same})


def _lay_over(under: dict[str, Any], over: Given) -> None:
    for key, value in over.items():
        if isinstance(value, Mapping) and key not in _NOT_MERGED:
            inner = under.setdefault(key, {})
            _lay_over(inner, value)
        else:
            under[key] = copy.deepcopy(value)


def _given(variables: Any, *path: str) -> dict[str, Any]:
    """Return the mapping at `path` as the user wrote it; {} where there is none."""
    for key in path:
        variables = variables.get(key) if isinstance(variables, Mapping) else None
    return dict(variables) if isinstance(variables, Mapping) else {}


def _service(name: str, value: Given, given: Given, wrong: frozenset[KeyPath]) -> Service:
    place: KeyPath = ("mesh_services", name)
    return _made(
        Service,
        value,
        name=name,
        group=value["group"] or name,
        app=_app(value["app"]),
        operation=value["operation"] or name,
        calls=_calls(value["calls"], _given(given, "calls"), (*place, "calls"), wrong),
        given=_sound(_given(given, "policies"), (*place, "policies"), wrong),
        plaintext_from=tuple(value["plaintext_from"] or ()),
    )


def _sound(given: Given, place: KeyPath, wrong: frozenset[KeyPath]) -> Given:
    """Return what the user said of policies at `place`, or nothing when any of it is wrong."""
    if any(path[: len(place)] == place for path in wrong):
        return {}
    return given


def _app(value: Given | None) -> FlaskApp | ExternalApp | None:
    if value is None:
        return None
    if value["external"] is not None:
        return ExternalApp(value["external"])
    if value["flask"] is None:
        return None
    return _made(
        FlaskApp,
        value,
        source=value["flask"],
        environment={key: str(text) for key, text in value["environment"].items()},
    )


def _calls(
    calls: Given, given: Given, place: KeyPath, wrong: frozenset[KeyPath]
) -> tuple[Call, ...]:
    return tuple(
        Call(
            upstream=name,
            address=_address(call or {}),
            given={
                key: value
                for key, value in _sound(_given(given, name), (*place, name), wrong).items()
                if key not in ADDRESS_KEYS
            },
        )
        for name, call in {**dict.fromkeys(map(str, given)), **calls}.items()
    )


def _address(value: Given) -> Address | None:
    if value.get("host") is None or value.get("port") is None:
        return None
    tls = value["tls"]
    if tls is not None and tls["sni"] is not None:
        tls = {**tls, "sni": without_dot(tls["sni"])}
    return Address(
        without_dot(value["host"]),
        value["port"],
        None if tls is None else Tls(**tls),
        tuple(value.get("propagate_trace") or ()),
        value.get("protocol", HTTP1),
    )


def _tracing(value: Given) -> Tracing:
    return _made(Tracing, value)


def _match(value: Given) -> Match:
    kind = next((kind for kind in MATCH_KINDS if value[kind] is not None), "prefix")
    headers: dict[str, dict[str, str | bool]] = {
        name: {"exact": wanted} if isinstance(wanted, str) else _said(wanted) or {}
        for name, wanted in (value["headers"] or {}).items()
    }
    path = value[kind] or ""
    if path == "/" and kind == "path_prefix":
        kind = "prefix"  # every path is below this one
    return Match(kind, path, tuple(value["methods"] or ()), headers)


_MATCH_KEYS = (*MATCH_KINDS, "methods", "headers")


def _route(value: Given, given: Given, place: KeyPath, wrong: frozenset[KeyPath]) -> Route:
    to = value["to"] or {}
    sound = _sound(given, place, wrong) is given
    # What is wrong with the route itself may be a misspelt condition.
    unmatched = place in wrong or any(
        path[: len(place)] == place and path[len(place)] in _MATCH_KEYS
        for path in wrong
        if len(path) > len(place)
    )
    return _made(
        Route,
        value,
        match=Match("prefix", "", (), {}) if unmatched else _match(value),
        to={to: 1} if isinstance(to, str) else to,
        redirect=_with_host(_said(value["redirect"])),
        retries=_given(given, "retries") if sound and "retries" in given else None,
        rewrite=_with_host(_said(value["rewrite"])),
        filters=_filters(value, given),
        tracing=_tracing(value["tracing"]),
    )


def _said(value: Given | None) -> dict[str, Any] | None:
    """Return a mapping without the keys that nobody set."""
    if value is None:
        return None
    return {key: each for key, each in value.items() if each is not None}


def _with_host(value: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return what is said of a request with its new host, if it gets one, as HTTP writes it."""
    if value is None or "host" not in value:
        return value
    return {**value, "host": without_dot(value["host"])}


def _filters(value: Given, given: Given) -> dict[str, Any]:
    return {name: value[name] for name in FILTERS if name in given and value.get(name) is not None}


def _virtual_host(  # noqa: PLR0913, PLR0917 - what is said, and where it stands
    name: str,
    value: Given,
    given: Given,
    inherited: dict[str, Any],
    place: KeyPath,
    wrong: frozenset[KeyPath],
) -> VirtualHost:
    """Return a virtual host; `inherited` filters hold where it says nothing itself."""
    said = given.get("routes")
    kept = [
        (index, route)
        for index, route in enumerate(said if isinstance(said, list) else [])
        if isinstance(route, Mapping)
    ]
    return VirtualHost(
        name=name,
        domains=tuple(map(without_dot, value["domains"] or ())),
        routes=tuple(
            _route(route, route_said, (*place, "routes", index), wrong)
            for route, (index, route_said) in zip(value["routes"] or [], kept, strict=True)
        ),
        filters={**inherited, **_filters(value, given)},
        where=schema.where(place),
    )


def _edge(name: str, value: Given, given: Given, wrong: frozenset[KeyPath]) -> Edge:
    place: KeyPath = ("mesh_edges", name)
    filters = _filters(value, given)
    hosts = [_virtual_host(MAIN, value, given, filters, place, wrong)] if value["routes"] else []
    hosts += [
        _virtual_host(
            each,
            host,
            _given(given, "virtual_hosts", each),
            filters,
            (*place, "virtual_hosts", each),
            wrong,
        )
        for each, host in (value["virtual_hosts"] or {}).items()
    ]
    return _made(
        Edge,
        value,
        name=name,
        group=value["group"] or name,
        virtual_hosts=tuple(hosts),
        calls=_calls(value["calls"], _given(given, "calls"), (*place, "calls"), wrong),
        trusted_cidrs=tuple(value["trusted_cidrs"]),
        control_cidrs=tuple(value["control_cidrs"]),
        tls=_edge_tls(value["tls"]),
        tracing=_tracing(value["tracing"]),
        users=value["users"] or {},
        jwt={
            each: _made(Jwt, said, audiences=tuple(said["audiences"] or ()))
            for each, said in (value["jwt"] or {}).items()
        },
        external_authorization={
            name: _made(ExternalAuthorization, each, forward=tuple(each["forward"]))
            for name, each in (value["external_authorization"] or {}).items()
            if each["to"] is not None
        },
    )


def _edge_tls(value: Given | None) -> EdgeTls | None:
    if value is None:
        return None
    acme = value["acme"]
    given = acme and _made(Acme, acme, domains=tuple(map(without_dot, acme["domains"] or ())))
    return _made(EdgeTls, value, acme=given or None, local=bool(value["local"]))


def _mesh_tracing(value: Given, given: Given) -> MeshTracing:
    collector = value["collector"]
    export = value["export"] or (OTLP if "collector" in given else OTLP_HTTP)
    port, protocol, path = EXPORTS[export]
    if collector is not None and collector["host"] is not None:
        collector = {**collector, "port": collector["port"] or port, "protocol": protocol}
    address = None if collector is None else _address(collector)
    return _made(
        MeshTracing,
        value,
        group=value["group"] or (None if "collector" in given else DEFAULT_JAEGER_GROUP),
        collector=address,
        path=(collector or {}).get("path") or path,
        headers=(collector or {}).get("headers") or {},
        export=export,
        plaintext_from=tuple(value["plaintext_from"] or ()),
    )
