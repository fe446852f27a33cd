"""Checks of apps: the variables in their environments, and the time a release leaves requests."""

from __future__ import annotations

import math
from collections.abc import Iterator

from vmesh.base.problems import WARNING, Problem
from vmesh.base.secret_patterns import Hidden, variable_looks_secret
from vmesh.compile.edge_route_views import route_timeout
from vmesh.compile.host_spec import url_variable
from vmesh.model.parse import policies
from vmesh.model.types import FlaskApp, Mesh, Service

# What vmesh itself passes to an app; the role flask_service adds gunicorn's settings.
OWN_ENVIRONMENT = ("MESH_ADDRESS", "SERVICE_NAME")
GUNICORN_ENVIRONMENT = (
    "WSGI_APP",
    "WORKERS",
    "THREADS",
    "PRELOAD",
    "WORKER_CLASS",
    "GRACEFUL_TIMEOUT_SECONDS",
    "KEEP_ALIVE_SECONDS",
    "LOG_LEVEL",
    "ACCESS_LOG",
    "CONFIG_ID",
    "PYTHONPATH",
)


def _app_variables(mesh: Mesh) -> Iterator[tuple[Service, str]]:
    """Yield every environment variable that the user sets, with the service it is for."""
    for service in mesh.services.values():
        if isinstance(service.app, FlaskApp):
            for name in service.app.environment:
                yield service, name


def check_environments(mesh: Mesh) -> Iterator[Problem]:
    """Find variables of apps that vmesh sets itself."""
    for service, name in _app_variables(mesh):
        yield from check_own_name(service, name, f"mesh_services.{service.name}.app.environment")


def check_own_name(service: Service, name: str, place: str) -> Iterator[Problem]:
    """Find the environment variable `name` of an app, set at `place`, that vmesh sets itself."""
    urls = {url_variable(call.upstream) for call in service.calls}
    if name in urls or name in OWN_ENVIRONMENT or name in GUNICORN_ENVIRONMENT:
        yield Problem(place, name, "is a variable that vmesh sets itself", "Use another name")


def check_plain_secrets(mesh: Mesh, hidden: Hidden) -> Iterator[Problem]:
    """Find variables that look like secrets and are not encrypted."""
    for service, name in _app_variables(mesh):
        place = ("mesh_services", service.name, "app", "environment", name)
        if variable_looks_secret(name) and place not in hidden:
            yield Problem(
                f"mesh_services.{service.name}.app.environment",
                name,
                "looks like a secret and stands in the inventory in plain text",
                "Encrypt it: `ansible-vault encrypt_string`, and put its output here",
                WARNING,
            )


def check_grace(mesh: Mesh) -> Iterator[Problem]:
    """Find the services whose releases cut off requests that their callers would wait for.

    Answers without an end are cut off by any release, so nothing is said of them.
    """
    for service in mesh.services.values():
        if not isinstance(service.app, FlaskApp):
            continue
        seconds, where = max(_waits(mesh, service), default=(0.0, ""))
        if seconds > service.app.grace:
            yield Problem(
                f"mesh_services.{service.name}.app.grace",
                service.app.grace,
                f"is less than the {seconds:g} seconds that {where} gives a request: a new release"
                " cuts off those that run longer",
                f"Set it to {math.ceil(seconds)}, or lower that timeout",
                WARNING,
            )


def _waits(mesh: Mesh, service: Service) -> Iterator[tuple[float, str]]:
    """Yield the seconds that each caller waits for `service`, and what says so."""
    for caller in mesh.services.values():
        for call in caller.calls:
            if call.upstream == service.name and call.address is None:
                timeout = policies(service.given, call.given).timeout
                if timeout is not None:
                    yield timeout, f"mesh_services.{caller.name}.calls.{service.name}"
    for edge in mesh.edges.values():
        for route in edge.routes:
            if service.name in route.to:
                given = route_timeout(mesh, edge, route)
                if given is not None:
                    yield given, f"a route of {edge.name}, {route.match.kind} {route.match.value},"
