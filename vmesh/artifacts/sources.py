"""What the inventory names on the controller: folders of Flask apps, files with authorities.

Compile reads no file; this looks whether they are there and what they should be.
"""

from __future__ import annotations

import ast
import datetime
import json
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

from vmesh.artifacts import app_folder, certificates, pins
from vmesh.artifacts.app_folder import AppFolder
from vmesh.base import paths, wsgi
from vmesh.base.problems import Problem
from vmesh.compile.host_spec import MeshSpec
from vmesh.model.types import Address, FlaskApp, Mesh


def check_sources(spec: MeshSpec) -> list[Problem]:
    """Return what is wrong with the folders and files that the mesh of `spec` names.

    What is only to be told has the severity WARNING.
    """
    found = [*_apps(spec.mesh), *_envoy(spec.mesh)]
    now = datetime.datetime.now(datetime.UTC)
    for edge in spec.mesh.edges.values():
        for name, issuer in edge.jwt.items():
            where = f"mesh_edges.{edge.name}.jwt.{name}"
            if issuer.jwks_file is not None:
                found += _keys(f"{where}.jwks_file", issuer.jwks_file)
            if issuer.jwks_ca_file is not None:
                found += _authorities(f"{where}.jwks_ca_file", issuer.jwks_ca_file)
        found += certificates.check(edge, now)
        if edge.tls and edge.tls.acme and edge.tls.acme.directory_ca_file:
            where = f"mesh_edges.{edge.name}.tls.acme.directory_ca_file"
            found += _authorities(where, edge.tls.acme.directory_ca_file)
    for where, address in _addresses(spec.mesh):
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
    found = app_folder.look(folder)
    for refusal in (*found.refusals, *app_folder.look_at_lock(folder)):
        yield Problem(f"{where}.flask", app.source, refusal.message, refusal.remedy)
    yield from _module(f"{where}.wsgi", app, folder, found)


def _module(where: str, app: FlaskApp, folder: Path, found: AppFolder) -> Iterator[Problem]:
    target = wsgi.parse(app.wsgi)
    assert target is not None, "the schema refuses what cannot be read"
    module = target.module.replace(".", "/")
    files = (f"{module}.py", f"{module}/__init__.py")
    file = next((name for name in files if name in found.files), None)
    if file is None:
        left_out = any((folder / name).is_file() for name in files)
        yield Problem(
            where,
            app.wsgi,
            f"names a module of {app.source} that stays on the controller, by the default patterns"
            f" or {app_folder.IGNORE_FILE}"
            if left_out
            else f"names a module that is not in {app.source}: there is no {module}.py",
            f"Take it in by a line in {app_folder.IGNORE_FILE}, as in `!/{files[0]}`"
            if left_out
            else "Name the module and the Flask app in it, as in `app:app`",
        )
    elif not target.called and _makes_apps(found.files[file], target.name):
        yield Problem(
            where,
            app.wsgi,
            f"is a function in {file} and no WSGI app: those are called with two arguments",
            f"If it makes the app, have it called: `{app.wsgi}()`",
        )


def _makes_apps(file: Path, name: str) -> bool:
    """Tell whether `name` is a function of `file` that gunicorn cannot call as a WSGI app."""
    try:
        module = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return False
    bound = [each for each in module.body if name in _names(each)]
    function = bound[-1] if bound else None
    if not isinstance(function, ast.FunctionDef) or function.decorator_list:
        return False
    given = function.args
    needed = len(given.posonlyargs) + len(given.args) - len(given.defaults)
    return needed != 2 and not (given.vararg and not given.defaults)


def _names(statement: ast.stmt) -> set[str]:
    """Return the names that a statement of a module may bind."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    return {
        each.id if isinstance(each, ast.Name) else (each.asname or each.name)
        for each in ast.walk(statement)
        if isinstance(each, ast.alias)
        or (isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store))
    }


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
    return _file(where, name, "Name a PEM file with certificates", _no_authorities)


def _keys(where: str, name: str) -> Iterator[Problem]:
    return _file(where, name, "Save the issuer's JWKS there", _no_jwks)


def _file(
    where: str, name: str, remedy: str, wrong: Callable[[str], str | None]
) -> Iterator[Problem]:
    """Look at a text file on the controller; `wrong` takes its text, and says what is wrong."""
    text = _text(paths.PROJECT / name)
    message = "is not a text file that can be read" if text is None else wrong(text)
    if message is not None:
        remedy = f"{remedy}; a relative path begins at {paths.PROJECT}"
        yield Problem(where, name, message, remedy)


def _no_authorities(text: str) -> str | None:
    try:
        # Without such a line Python takes the text for nothing at all, and is content.
        begins = "-----BEGIN CERTIFICATE-----" in text
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError):
        begins = False
    return None if begins else "holds no certificate that can be read"


def _no_jwks(text: str) -> str | None:
    """See https://www.rfc-editor.org/rfc/rfc7517#section-5."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    keys = found.get("keys") if isinstance(found, dict) else None
    right = isinstance(keys, list) and keys and all(map(_is_public_key, keys))
    return None if right else "is no JWKS: it lacks a list `keys` of public keys"


def _is_public_key(key: object) -> bool:
    """Tell whether a key of a JWKS has a kind, and no private part (`d`) and no secret (`k`)."""
    return isinstance(key, dict) and "kty" in key and not {"d", "k"} & key.keys()


def _text(file: Path) -> str | None:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError):
        return None
