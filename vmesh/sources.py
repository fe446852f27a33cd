"""What the inventory names on the controller: folders of Flask apps, files with authorities.

Compile reads no file; this looks whether they are there and what they should be.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from pathlib import Path

from vmesh import paths
from vmesh.artifacts import pins
from vmesh.model import Address, FlaskApp, Mesh
from vmesh.plan import Plan
from vmesh.problems import Problem

LOCK = "requirements.txt"
_GUNICORN = re.compile(r"^gunicorn\b", re.MULTILINE | re.IGNORECASE)


def check_sources(plan: Plan) -> list[Problem]:
    """Return what is wrong with the folders and files that the mesh of `plan` names."""
    found = [*_apps(plan.mesh), *_envoy(plan.mesh)]
    for where, address in _addresses(plan.mesh):
        if address.tls is not None and address.tls.ca_file is not None:
            found += _authorities(f"{where}.tls.ca_file", address.tls.ca_file)
    return found


def _envoy(mesh: Mesh) -> Iterator[Problem]:
    known = pins.load().envoy.versions
    if mesh.envoy_version is not None and mesh.envoy_version not in known:
        yield Problem(
            "mesh_envoy_version",
            mesh.envoy_version,
            "is not a version whose hashes are known",
            f"Use one of {', '.join(sorted(known))}, or pin it in artifacts/pins.yml",
        )


def _apps(mesh: Mesh) -> Iterator[Problem]:
    for service in mesh.services.values():
        if isinstance(service.app, FlaskApp):
            yield from _app(f"mesh_services.{service.name}.app", service.app)


def _app(where: str, app: FlaskApp) -> Iterator[Problem]:
    folder = paths.PROJECT / app.source
    if not folder.is_dir():
        yield Problem(
            f"{where}.flask",
            app.source,
            "is not a folder" if folder.exists() else "is not there",
            f"Name the folder of a Flask app; a relative path begins at {paths.PROJECT}",
        )
        return
    module = app.wsgi.partition(":")[0].replace(".", "/")
    if not any((folder / file).is_file() for file in (f"{module}.py", f"{module}/__init__.py")):
        yield Problem(
            f"{where}.wsgi",
            app.wsgi,
            f"names a module that is not in {app.source}: there is no {module}.py",
            "Name the module and the Flask app in it, as in `app:app`",
        )
    yield from _lock(f"{where}.flask", app.source, folder / LOCK)


def _lock(where: str, source: str, lock: Path) -> Iterator[Problem]:
    remedy = f"Lock its libraries: `uv pip compile --generate-hashes requirements.in -o {LOCK}`"
    text = _text(lock)
    if text is None:
        yield Problem(where, source, f"has no {LOCK} that can be read", remedy)
    elif not _GUNICORN.search(text):
        yield Problem(
            where,
            source,
            f"has a {LOCK} without gunicorn, which runs the app",
            f"Add gunicorn. {remedy}",
        )


def _addresses(mesh: Mesh) -> Iterator[tuple[str, Address]]:
    """Yield the addresses outside the mesh, with the variables that name them."""
    for kind, members in (("mesh_services", mesh.services), ("mesh_edges", mesh.edges)):
        for member in members.values():
            for call in member.calls:
                if call.address is not None:
                    yield f"{kind}.{member.name}.calls.{call.upstream}", call.address
    if mesh.tracing.collector is not None:
        yield "mesh_tracing.collector", mesh.tracing.collector


def _authorities(where: str, name: str) -> Iterator[Problem]:
    remedy = f"Name a PEM file with certificates; a relative path begins at {paths.PROJECT}"
    text = _text(paths.PROJECT / name)
    if text is None:
        yield Problem(where, name, "is not a text file that can be read", remedy)
        return
    try:
        # Without such a line Python takes the text for nothing at all, and is content.
        begins = "-----BEGIN CERTIFICATE-----" in text
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError):
        begins = False
    if not begins:
        yield Problem(where, name, "holds no certificate that can be read", remedy)


def _text(file: Path) -> str | None:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError):
        return None
