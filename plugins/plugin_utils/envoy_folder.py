"""The folder on the controller that has the configuration of one Envoy: what must be in it.

The README of the role envoy describes the folder. A folder that vmesh has rendered and one that a
person has written are checked alike, before a host is touched. What the files mean is for Envoy to
check; here is what the module envoy_config needs to place them and to see them accepted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

from ..module_utils.acme_store import Settings
from ..module_utils.edge_certificate import Local
from ..module_utils.envoy_documents import Document
from ..module_utils.envoy_files import (
    ACME,
    BOOTSTRAP,
    CERTIFICATES,
    CLUSTERS,
    FILTERS,
    LISTENERS,
    LOCAL,
    TRUST,
)

_TYPE = "type.googleapis.com/envoy.config."


@dataclass(frozen=True)
class Kind:
    """The resources of one folder: their type in Envoy's API, and the field with their name."""

    type: str
    key: str = "name"


_SECRET = Kind("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret")
KINDS = {
    "listeners": Kind(f"{_TYPE}listener.v3.Listener"),
    "clusters": Kind(f"{_TYPE}cluster.v3.Cluster"),
    "routes": Kind(f"{_TYPE}route.v3.RouteConfiguration"),
    "endpoints": Kind(f"{_TYPE}endpoint.v3.ClusterLoadAssignment", "cluster_name"),
    FILTERS: Kind(f"{_TYPE}core.v3.TypedExtensionConfig"),
    CERTIFICATES: _SECRET,
    TRUST: _SECRET,
}
# What is said of a certificate that the host makes; Envoy does not read it.
_SETTINGS = {
    name: {field.name for field in fields(kind)}
    for name, kind in ((ACME, Settings), (LOCAL, Local))
}
# Of these a file has one resource, whose name is the file's.
_ONE_A_FILE = ("routes", "endpoints", CERTIFICATES, FILTERS, TRUST)
# Each host makes it for its proxies (plugins/module_utils/identities.py).
_IDENTITY = "identity/identity.json"


class FolderError(Exception):
    """The folder cannot be applied; the text has a line for each thing that is wrong with it."""


def read(folder: Path, path: str, admin_socket: str) -> dict[str, Document]:
    """Return the document of each file by its path below `folder`.

    path: the proxy's folder on the host, by which the configuration names its own files
    admin_socket: the proxy's admin socket on the host

    Raises FolderError, which names every file that is wrong and what to do.
    """
    if not folder.is_dir():
        raise FolderError(
            f"{folder} is no folder. Name the folder with the files of one Envoy (config_dir)."
        )
    texts = {
        str(file.relative_to(folder)): file.read_text(encoding="utf-8", errors="replace")
        for file in sorted(folder.rglob("*"))
        if not file.is_dir()
    }
    documents, problems = _parsed(texts)
    problems += _wrong(documents, path, admin_socket)
    if problems:
        lines = "".join(f"\n- {problem}" for problem in problems)
        raise FolderError(
            f"{len(problems)} problem(s) in {folder}; the proxy was not changed:{lines}"
        )
    return documents


def _parsed(texts: Mapping[str, str]) -> tuple[dict[str, Document], list[str]]:
    """Return the documents of the files, and which files are missing, unknown or no documents."""
    documents: dict[str, Document] = {}
    problems = [
        f"{name} is missing. The README of the role envoy has an example."
        for name in (BOOTSTRAP, LISTENERS, CLUSTERS)
        if name not in texts
    ]
    for name, text in texts.items():
        if not _is_known(name):
            problems.append(
                f"{name} is none of an Envoy's files. Remove it; the files are {BOOTSTRAP},"
                f" {LISTENERS}, {CLUSTERS}, routes/<name>.json, endpoints/<cluster>.json,"
                f" {CERTIFICATES}/<name>.json, {TRUST}/<name>.json and {FILTERS}/<name>.json."
            )
            continue
        try:
            document = json.loads(text)
        except ValueError as error:
            problems.append(f"{name} is not JSON: {error}. Correct it there.")
            continue
        if isinstance(document, dict):
            documents[name] = document
        else:
            problems.append(f"{name} is not a JSON object. Put its content between braces.")
    return documents, problems


def _wrong(documents: Mapping[str, Document], path: str, admin_socket: str) -> Iterator[str]:
    """Yield what is wrong in the documents, with the file's name and the remedy."""
    for name, document in documents.items():
        if name == BOOTSTRAP:
            yield from _wrong_bootstrap(document, path, admin_socket)
        elif name in _SETTINGS:
            yield from _wrong_settings(name, document)
        else:
            yield from _wrong_resources(name, document)
    yield from _wrong_places(documents, path)


def _wrong_settings(name: str, document: Document) -> Iterator[str]:
    lacking = sorted(_SETTINGS[name] - document.keys())
    if lacking:
        yield f"{name} lacks {', '.join(lacking)}. vmesh writes them all: render the folder anew."


def _is_known(name: str) -> bool:
    if name in (*_SETTINGS, BOOTSTRAP, LISTENERS, CLUSTERS):
        return True
    folder, _, file = name.partition("/")
    return folder in _ONE_A_FILE and file.endswith(".json") and "/" not in file


def _wrong_bootstrap(document: Document, path: str, admin_socket: str) -> Iterator[str]:
    for field, wanted in (
        ("dynamic_resources.lds_config.path_config_source.path", f"{path}/{LISTENERS}"),
        ("dynamic_resources.cds_config.path_config_source.path", f"{path}/{CLUSTERS}"),
        ("admin.address.pipe.path", admin_socket),
    ):
        found = _field(document, field)
        if found != wanted:
            yield f"{BOOTSTRAP}: {field} is {json.dumps(found)}. Set it to {json.dumps(wanted)}."
    version = _field(document, "node.metadata.bootstrap_version")
    if not isinstance(version, str) or not version:
        yield (
            f"{BOOTSTRAP}: node.metadata.bootstrap_version is {json.dumps(version)}. Set it to a"
            " text, another one after each change: by it the role knows which bootstrap runs."
        )


def _wrong_resources(name: str, document: Document) -> Iterator[str]:
    folder = name.partition("/")[0]
    version, resources = document.get("version_info"), document.get("resources")
    if not isinstance(version, str) or not version:
        yield (
            f"{name}: version_info is {json.dumps(version)}. Set it to a text, another one after"
            " each change: by it the role sees that Envoy has accepted the file."
        )
    for key in sorted(document.keys() - {"version_info", "resources"}):
        yield f"{name}: {key} has no meaning there. Leave only version_info and resources."
    if not isinstance(resources, list):
        yield f"{name}: resources is {json.dumps(resources)}. Set it to a list of resources."
        return
    named = []
    for number, resource in enumerate(resources, 1):
        yield from _wrong_resource(f"{name}: resource {number}", resource, KINDS[folder])
        if isinstance(resource, dict):
            named.append(resource.get(KINDS[folder].key))
    if folder in _ONE_A_FILE:
        wanted = PurePosixPath(name).stem
        if named != [wanted]:
            yield (
                f"{name}: its resources are {json.dumps(named)}. Give the file one, with the"
                f" {KINDS[folder].key} {json.dumps(wanted)}, as the file is called."
            )
    else:
        for twice in sorted({str(each) for each in named if each and named.count(each) > 1}):
            yield f"{name}: {json.dumps(twice)} is there more than once. Rename all but one."


def _wrong_resource(where: str, resource: Any, kind: Kind) -> Iterator[str]:
    if not isinstance(resource, dict):
        yield f"{where} is {json.dumps(resource)}. Make it an object with {kind.key} and @type."
        return
    title = resource.get(kind.key)
    if not isinstance(title, str) or not title:
        yield f"{where} has no name. Set its {kind.key} to a text."
    if resource.get("@type") != kind.type:
        found = json.dumps(resource.get("@type"))
        yield f"{where}: @type is {found}. Set it to {json.dumps(kind.type)}."


def _wrong_places(documents: Mapping[str, Document], path: str) -> Iterator[str]:
    """Yield the files that the configuration names and that are missing, and those it never names.

    Envoy waits for a missing file, and its listeners with it; the start would time out. A file in
    another place on the host, with certificates for example, is not in this folder.
    """
    named: set[str] = set()
    own = f"{PurePosixPath(path).parent}/"
    for name, document in documents.items():
        for place in _sources(document):
            inside = place.removeprefix(f"{path}/")
            named.add(inside)
            if inside == _IDENTITY or name == BOOTSTRAP:
                continue
            if place.startswith(own) and inside not in documents:
                yield (
                    f"{name} names the file {json.dumps(place)}, which is not one of the folder."
                    f" Add it, or name one of the folder, whose place on the host is {path}."
                )
    for name in sorted(documents.keys() - named):
        if name.partition("/")[0] in _ONE_A_FILE:
            yield f"No path_config_source names {path}/{name}. Remove the file, or name it."


def _sources(value: Any) -> Iterator[str]:
    """Yield the path of every file that a resource names as its source, at any depth."""
    if isinstance(value, list):
        for item in value:
            yield from _sources(item)
    elif isinstance(value, dict):
        path = _field(value, "path_config_source.path")
        if isinstance(path, str):
            yield path
        for item in value.values():
            yield from _sources(item)


def _field(document: Any, dotted: str) -> Any:
    """Return a field inside mappings; None where there is none."""
    for key in dotted.split("."):
        document = document.get(key) if isinstance(document, dict) else None
    return document
