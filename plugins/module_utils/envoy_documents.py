# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""What is in an Envoy's configuration files, as data: versions, clusters, endpoints, secrets.

Each file is one JSON object, written by `text_of`. A watched file is a DiscoveryResponse
(https://www.envoyproxy.io/docs/envoy/latest/configuration/overview/xds_api): its `version_info`
and its `resources`. The bootstrap has its version in `node.metadata.bootstrap_version`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Document = dict[str, Any]

# Separates a version of the renderer from the endpoints that the host has marked as draining.
MARK = "+draining "
HIDDEN = "(hidden)"
# Where secrets stand: values of the headers that go to a collector of spans with each request, and
# hashes of passwords and the keys of certificates.
_HEADER = ("request_headers_to_add", "*", "header", "value")
SECRETS = (
    ("http_service", *_HEADER),
    ("collector_service", *_HEADER),
    ("grpc_service", "initial_metadata", "*", "value"),
    ("envoy.filters.http.basic_auth", "users", "inline_string"),
    ("tls_certificate", "private_key", "inline_string"),
)


def text_of(document: Mapping[str, Any]) -> str:
    """Return the text of the file that holds `document`, whose keys stay in their order."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def document_of(text: str) -> Document:
    """Return what is in a file; empty when that is no JSON object, as in an earlier release."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def version_of(text: str) -> str:
    """Return the version of a watched file or a bootstrap; empty when it has none."""
    document = document_of(text)
    metadata = document.get("node", {}).get("metadata", {})
    return str(document.get("version_info") or metadata.get("bootstrap_version", ""))


def union_of_clusters(old: str, new: str) -> str:
    """Return the clusters file with those of `new` and those that only `old` has."""
    before, after = document_of(old), document_of(new)
    staying = {each.get("name") for each in after.get("resources", [])}
    leaving = [each for each in before.get("resources", []) if each.get("name") not in staying]
    if not leaving:
        return new
    version = f"{version_of(old)}+{version_of(new)}"
    resources = [*after.get("resources", []), *leaving]
    return text_of({**after, "version_info": version, "resources": resources})


def union_of_issuers(old: str, new: str) -> str:
    """Return the file of the filter that checks tokens, with the issuers that only `old` has, too.

    A route that asks for an issuer that the filter does not know lets nobody through.
    """
    before, after = document_of(old), document_of(new)
    leaving = False
    pairs = zip(before.get("resources", ()), after.get("resources", ()), strict=False)
    for was, config in ((one["typed_config"], other["typed_config"]) for one, other in pairs):
        for key in ("providers", "requirement_map"):
            if was.get(key, {}).keys() - config.get(key, {}).keys():
                config[key] = {**was[key], **config.get(key, {})}
                leaving = True
    version = f"{version_of(old)}+{version_of(new)}"
    return text_of({**after, "version_info": version}) if leaving else new


# Endpoints that drain


def has_endpoint(text: str, address: str, port: int) -> bool:
    """Tell whether an endpoints file has the endpoint, draining or not."""
    return f"{address}:{port}" in map(_where, _endpoints(document_of(text)))


def draining(text: str, address: str, port: int) -> str:
    """Return the text of an endpoints file in which no new request goes to the endpoint.

    An endpoint whose `health_status` the configuration itself sets keeps that.
    """
    return _marked(text, {*_marks(version_of(text)), f"{address}:{port}"})


def serving(text: str, address: str, port: int) -> str:
    """Return the text as it was before `draining`."""
    return _marked(text, _marks(version_of(text)) - {f"{address}:{port}"})


def all_serving(text: str) -> str:
    """Return the text as it was before any endpoint was draining."""
    return _marked(text, set())


def _marks(version: str) -> set[str]:
    """Return the endpoints (`address:port`) that drain in the file with this version."""
    return set(filter(None, version.partition(MARK)[2].split(",")))


def _endpoints(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the LbEndpoints of a watched file of ClusterLoadAssignments."""
    for assignment in document.get("resources", []):
        for group in assignment.get("endpoints", []):
            yield from group.get("lb_endpoints", [])


def _where(endpoint: Mapping[str, Any]) -> str:
    """Return `address:port` of an endpoint; empty for one at a unix socket."""
    address = endpoint.get("endpoint", {}).get("address", {}).get("socket_address")
    return f"{address['address']}:{address['port_value']}" if address else ""


def _marked(text: str, wanted: set[str]) -> str:
    """Return the text of an endpoints file in which exactly the endpoints `wanted` drain."""
    document = document_of(text)
    version = version_of(text)
    before, marks = _marks(version), []
    for endpoint in _endpoints(document):
        where = _where(endpoint)
        if where in wanted and (where in before or "health_status" not in endpoint):
            endpoint["health_status"] = "DRAINING"
            marks.append(where)
        elif where in before:
            endpoint.pop("health_status", None)
    new = version.partition(MARK)[0] + (MARK + ",".join(marks) if marks else "")
    return text if new == version else text_of({**document, "version_info": new})


# Secrets


def hide_secrets(document: Document) -> tuple[Document, dict[str, str]]:
    """Return a document without the secrets in it, and these by JSON pointer (RFC 6901)."""
    secrets: dict[str, str] = {}

    def hide(pointer: str, value: str) -> str:
        secrets[pointer] = value
        return HIDDEN

    return _with_secrets(document, hide), secrets


def reveal_secrets(document: Document, secrets: Mapping[str, str]) -> Document:
    """Return a document with its secrets in place again."""
    found: Document = _with_secrets(document, secrets.get)
    return found


def shown(text: str) -> str:
    """Return a file as people may see it: one that is not JSON not at all, for its secrets."""
    document = document_of(text)
    if text and not document:
        return "(not shown: the file is of an earlier release, or not JSON)\n"
    return text_of(hide_secrets(document)[0]) if text else ""


def _with_secrets(
    value: Any, change: Callable[[str, str], str], at: tuple[str | int, ...] = ()
) -> Any:
    """Return a copy of a value in which `change` (pointer, secret) has made each secret anew."""
    if isinstance(value, dict):
        return {key: _with_secrets(each, change, (*at, key)) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_secrets(each, change, (*at, i)) for i, each in enumerate(value)]
    if isinstance(value, str) and _is_secret(at):
        return change(_pointer(at), value)
    return value


def _is_secret(at: tuple[str | int, ...]) -> bool:
    pattern = tuple("*" if isinstance(each, int) else each for each in at)
    return any(pattern[-len(place) :] == place for place in SECRETS)


def _pointer(at: tuple[str | int, ...]) -> str:
    return "".join("/" + str(each).replace("~", "~0").replace("/", "~1") for each in at)
