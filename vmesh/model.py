"""The mesh as the user describes it: the inventory's mesh_* variables, typed.

`parse` turns the plain variables into these classes and collects every mistake in their
form on the way. What the names refer to (groups, hosts, other services) is checked by
`vmesh.compile`, which sees the whole inventory.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from vmesh.problems import Problem

Value = TypeVar("Value")

# A name becomes a DNS label, a systemd instance and, with a prefix of six characters
# ("envoy-", "flask-"), a Linux user, which may have 32 characters.
NAME = re.compile(r"[a-z]([a-z0-9-]{0,24}[a-z0-9])?")
RESERVED_NAMES = ("envoy", "jaeger", "localhost")  # folders below /opt, groups of Ansible


@dataclass(frozen=True)
class FlaskApp:
    """A Flask application that gunicorn serves. `source` is a folder, relative to the project."""

    source: str
    wsgi: str = "app:app"
    workers: int = 1
    threads: int = 8
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """How one service calls another. `timeout` is in seconds, for the whole call."""

    upstream: str
    timeout: float = 10.0


@dataclass(frozen=True)
class Service:
    """One service of the mesh; every host of `group` runs an instance of it."""

    name: str
    group: str
    port: int
    app: FlaskApp
    operation: str
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True)
class Route:
    """A path prefix of an edge and the service that answers it. `timeout` is in seconds."""

    prefix: str
    to: str
    timeout: float = 15.0


@dataclass(frozen=True)
class Edge:
    """An Envoy that takes requests from outside the mesh.

    Peers in `trusted_cidrs` may bring their own trace context and request id.
    `admin_port` serves the read-only admin pages on the operators' address.
    """

    name: str
    group: str
    port: int
    routes: tuple[Route, ...]
    address: str = "0.0.0.0"
    admin_port: int = 8001
    trusted_cidrs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tracing:
    """Where spans go and how many requests (percent) are traced."""

    group: str = "jaeger"
    sampling: float = 100.0


@dataclass(frozen=True)
class Mesh:
    """All that the mesh_* variables say."""

    services: dict[str, Service]
    edges: dict[str, Edge]
    tracing: Tracing
    operator_bind: str | None = None


class Reader:
    """Reads one mapping of the model and collects what is wrong with it.

    Each getter returns a usable value even for a wrong one, so that reading goes on and
    all problems are found in one run; the value is never used once there is a problem.
    """

    def __init__(self, where: str, value: Any, problems: list[Problem]) -> None:
        self.where, self.problems = where, problems
        self.known: list[str] = []
        if isinstance(value, Mapping):
            self.values: Mapping[str, Any] = value
        else:
            self.values = {}
            self.problem("", value, "must be a mapping", "Write it as `key: value` lines")

    def problem(self, key: str, value: Any, message: str, remedy: str) -> None:
        where = f"{self.where}.{key}" if key else self.where
        self.problems.append(Problem(where, value, message, remedy))

    def get(
        self,
        key: str,
        default: Value | None,
        check: Callable[[Any], bool],
        expected: str,
        fallback: Value,
    ) -> Value:
        """Return the checked value of `key`; `default` None means that the key is required."""
        self.known.append(key)
        if key not in self.values:
            if default is None:
                self.problem(key, None, "is missing", f"Set it to {expected}")
                return fallback
            return default
        value = self.values[key]
        if not check(value):
            self.problem(key, value, f"is not {expected}", f"Set it to {expected}")
            return fallback
        return value  # type: ignore[no-any-return]

    def text(self, key: str, default: str | None = None) -> str:
        return self.get(key, default, lambda v: isinstance(v, str) and v != "", "a text", "")

    def port(self, key: str, default: int | None = None) -> int:
        return self.get(
            key, default, lambda v: _is_int(v) and 1 <= v <= 65535, "a port from 1 to 65535", 0
        )

    def number(self, key: str, default: int, low: int, high: int) -> int:
        return self.get(
            key,
            default,
            lambda v: _is_int(v) and low <= v <= high,
            f"a whole number from {low} to {high}",
            default,
        )

    def seconds(self, key: str, default: float) -> float:
        return float(
            self.get(
                key,
                default,
                lambda v: _is_number(v) and 0 < v <= 3600,
                "a number of seconds above 0 and up to 3600",
                default,
            )
        )

    def percent(self, key: str, default: float) -> float:
        return float(
            self.get(
                key,
                default,
                lambda v: _is_number(v) and 0 <= v <= 100,
                "a percentage from 0 to 100",
                default,
            )
        )

    def finish(self) -> None:
        """Report the keys that nobody asked for, with the nearest known one."""
        for key in self.values:
            if key not in self.known:
                near = difflib.get_close_matches(str(key), self.known, n=1)
                remedy = f"Did you mean `{near[0]}`?" if near else f"Known: {_listed(self.known)}"
                self.problem(str(key), self.values[key], "is not a known key", remedy)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def is_ipv4(value: Any) -> bool:
    """Tell whether `value` is the text of an IPv4 address."""
    try:
        ipaddress.IPv4Address(value if isinstance(value, str) else "")
    except ValueError:
        return False
    return True


def _is_network(value: Any) -> bool:
    try:
        ipaddress.IPv4Network(value if isinstance(value, str) else "")
    except ValueError:
        return False
    return True


def _is_list_of(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple) and all(check(item) for item in value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(k, str) and isinstance(v, str | int | float) for k, v in value.items()
    )


def _check_name(where: str, name: str, problems: list[Problem]) -> None:
    if not NAME.fullmatch(name):
        problems.append(
            Problem(
                where,
                name,
                "is not a name that a host, a user and a URL can carry",
                "Use 1 to 26 characters: a-z, 0-9 and -, beginning with a letter, "
                "not ending with -",
            )
        )
    elif name in RESERVED_NAMES:
        problems.append(
            Problem(where, name, "is reserved for a part of vmesh", "Choose another name")
        )


def _app(where: str, value: Any, problems: list[Problem]) -> FlaskApp:
    reader = Reader(where, value, problems)
    environment: dict[str, Any] = reader.get(
        "environment", {}, _is_texts, "a mapping of names to texts", {}
    )
    app = FlaskApp(
        source=reader.text("flask"),
        wsgi=reader.get(
            "wsgi",
            FlaskApp.wsgi,
            lambda v: isinstance(v, str) and re.fullmatch(r"[\w.]+:\w+", v) is not None,
            "a module and a name as in `app:app`",
            FlaskApp.wsgi,
        ),
        workers=reader.number("workers", FlaskApp.workers, 1, 64),
        threads=reader.number("threads", FlaskApp.threads, 1, 256),
        environment={str(k): str(v) for k, v in environment.items()},
    )
    reader.finish()
    return app


def _call(where: str, upstream: str, value: Any, problems: list[Problem]) -> Call:
    reader = Reader(where, {} if value is None else value, problems)
    call = Call(upstream, timeout=reader.seconds("timeout", Call.timeout))
    reader.finish()
    return call


def _service(name: str, value: Any, problems: list[Problem]) -> Service:
    where = f"mesh_services.{name}"
    _check_name("mesh_services", name, problems)
    reader = Reader(where, value, problems)
    calls = Reader(f"{where}.calls", reader.values.get("calls", {}), problems)
    reader.known += ["calls", "app"]
    service = Service(
        name=name,
        group=reader.text("group", name),
        port=reader.port("port"),
        app=_app(f"{where}.app", reader.values.get("app"), problems),
        operation=reader.text("operation", name),
        calls=tuple(
            _call(f"{calls.where}.{upstream}", upstream, policies, problems)
            for upstream, policies in calls.values.items()
        ),
    )
    reader.finish()
    return service


def _route(where: str, value: Any, problems: list[Problem]) -> Route:
    reader = Reader(where, value, problems)
    route = Route(
        prefix=reader.get(
            "prefix",
            None,
            lambda v: isinstance(v, str) and v.startswith("/"),
            "a path that begins with /",
            "/",
        ),
        to=reader.text("to"),
        timeout=reader.seconds("timeout", Route.timeout),
    )
    reader.finish()
    return route


def _edge(name: str, value: Any, problems: list[Problem]) -> Edge:
    where = f"mesh_edges.{name}"
    _check_name("mesh_edges", name, problems)
    reader = Reader(where, value, problems)
    routes: list[Any] = reader.get(
        "routes", None, lambda v: isinstance(v, list | tuple) and len(v) > 0, "a list of routes", []
    )
    edge = Edge(
        name=name,
        group=reader.text("group", name),
        port=reader.port("port"),
        routes=tuple(
            _route(f"{where}.routes[{index}]", route, problems)
            for index, route in enumerate(routes)
        ),
        address=reader.get("address", Edge.address, is_ipv4, "an IPv4 address", Edge.address),
        admin_port=reader.port("admin_port", Edge.admin_port),
        trusted_cidrs=tuple(
            reader.get(
                "trusted_cidrs",
                (),
                _is_list_of(_is_network),
                "a list of IPv4 networks as in `10.0.0.0/8`",
                (),
            )
        ),
    )
    reader.finish()
    return edge


def _tracing(value: Any, problems: list[Problem]) -> Tracing:
    reader = Reader("mesh_tracing", value, problems)
    tracing = Tracing(
        group=reader.text("group", Tracing.group),
        sampling=reader.percent("sampling", Tracing.sampling),
    )
    reader.finish()
    return tracing


def parse(variables: Mapping[str, Any], problems: list[Problem]) -> Mesh:
    """Return the mesh that `variables` (mesh_services, mesh_edges, ...) describe.

    Mistakes are appended to `problems`; with any there, the result must not be used.
    """
    top = Reader("inventory", variables, problems)
    top.known += [
        "mesh_services",
        "mesh_edges",
        "mesh_tracing",
        "mesh_operator_bind",
        "mesh_address",
    ]
    top.finish()
    services = Reader("mesh_services", variables.get("mesh_services", {}), problems)
    edges = Reader("mesh_edges", variables.get("mesh_edges", {}), problems)
    if not services.values:
        services.problem("", None, "is missing or empty", "Describe at least one service")
    operator_bind = variables.get("mesh_operator_bind")
    if operator_bind is not None and not is_ipv4(operator_bind):
        problems.append(
            Problem(
                "mesh_operator_bind",
                operator_bind,
                "is not an IPv4 address",
                "Set an address of the VMs, or 0.0.0.0 for all; leave it out for the mesh address",
            )
        )
    for name in set(services.values) & set(edges.values):
        edges.problem(name, name, "is a service's name too", "Give the edge a name of its own")
    return Mesh(
        services={n: _service(str(n), v, problems) for n, v in services.values.items()},
        edges={n: _edge(str(n), v, problems) for n, v in edges.values.items()},
        tracing=_tracing(variables.get("mesh_tracing", {}), problems),
        operator_bind=operator_bind,
    )
