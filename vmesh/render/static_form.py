"""The static form: one bootstrap that says the same as the watched files of a proxy.

`envoy --mode validate` opens no file that a path_config_source names, so faults in them would
pass; in this form it sees them all.

Replicas of a service share nearly all of it, and a large mesh has thousands of proxies, so each
listener and cluster is worked on once per StaticForms.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmesh.render.certificates import throw_away
from vmesh.render.shared import JsonTexts, Shared
from vmesh.render.templates import HOST_AUTHORITIES, is_ipv4

Document = dict[str, Any]
# The JSON of a part of a static form without IPv4 addresses, and these in order.
Anonymous = tuple[str, list[str]]

BOOTSTRAP = "bootstrap.json"
LISTENERS = "listeners/listeners.json"
CLUSTERS = "clusters/clusters.json"
# Not Envoy's: the helper reads it that orders the certificate.
ACME = "acme.json"
# Nor is this: the module envoy_config reads for what it is to make a certificate.
LOCAL = "local.json"
# Below them a file for each certificate of the proxy's own, and for each filter that comes by one.
CERTIFICATES = "certificates"
FILTERS = "filters"
# Below it a file for each bundle of those whom the proxy trusts.
TRUST = "trust"
STATIC_SUFFIX = ".static.json"


@dataclass(frozen=True)
class StaticForm:
    """A static form as a file.

    essence: the digest of all in it that Envoy could refuse
    patches: the patches that were applied, as in mesh_patches[2]
    """

    path: Path
    essence: str
    patches: tuple[str, ...] = ()


class StaticForms:
    """Makes static forms, of as many proxies as there are."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._texts = JsonTexts(shared, indent=0)

    def form(self, documents: Mapping[str, Document]) -> Document:
        """Return the static form of a proxy's `documents` (path -> content)."""
        form = _without(documents[BOOTSTRAP], "dynamic_resources")
        form["static_resources"] = {
            "listeners": [
                self._listener(listener, documents)
                for listener in documents[LISTENERS]["resources"]
            ],
            "clusters": [
                self._cluster(cluster, documents) for cluster in documents[CLUSTERS]["resources"]
            ],
        }
        return form

    def text(self, form: Document) -> str:
        """Return a static form as JSON."""
        return f"{self._texts.text(form)}\n"

    def essence(self, form: Document) -> str:
        """Return the digest of all in a static form that Envoy could refuse.

        Replicas of a service differ in their node's id and in addresses. To Envoy any address is
        as good as another, so what counts is only which of them are the same.
        """
        parts = [_without_addresses(_without_identity(form))]
        for listener in form["static_resources"]["listeners"]:
            head = functools.partial(_without_addresses, _without(listener, "filter_chains"))
            parts += [
                self._shared.once("anonymous", head, listener),
                self._anonymous(listener["filter_chains"]),
            ]
        parts += [self._anonymous(cluster) for cluster in form["static_resources"]["clusters"]]
        total, numbers = hashlib.sha256(), dict[str, int]()
        for text, addresses in parts:
            places = [numbers.setdefault(address, len(numbers)) for address in addresses]
            total.update(f"{text}{places}".encode())
        return total.hexdigest()

    def _anonymous(self, part: Any) -> Anonymous:
        return self._shared.once("anonymous", lambda: _without_addresses(part), part)

    def _listener(self, listener: Document, documents: Mapping[str, Document]) -> Document:
        """Return a listener with its route tables, and filters that come by files, in place."""
        chains = listener["filter_chains"]
        tables = {name: _only(documents[f"routes/{name}.json"]) for name in route_tables(chains)}
        filters = {
            name: _only(documents[f"{FILTERS}/{name}.json"])["typed_config"]
            for name in file_filters(chains)
        }
        static = self._shared.once(
            "static chains",
            lambda: [_without_secrets(_with_managers(chain, tables, filters)) for chain in chains],
            chains,
            *tables.values(),
            *filters.values(),
        )
        return self._shared.once(
            "static",
            lambda: {**_without(listener, "@type"), "filter_chains": static},
            listener,
            static,
        )

    def _cluster(self, cluster: Document, documents: Mapping[str, Document]) -> Document:
        """Return a cluster with its endpoints in place."""
        if cluster["type"] != "EDS":
            return self._shared.once("static", lambda: _without_files(cluster), cluster)
        endpoints = _only(documents[f"endpoints/{cluster['name']}.json"])

        def static() -> Document:
            inlined = {"type": "STATIC", "load_assignment": _without(endpoints, "@type")}
            kept = _without(cluster, "eds_cluster_config")
            return _without_files({**kept, **inlined})

        return self._shared.once("static", static, cluster, endpoints)


def _without(document: Mapping[str, Any], *keys: str) -> Document:
    return {key: value for key, value in document.items() if key not in keys}


def _only(document: Document) -> Document:
    """Return the one resource of a watched file."""
    (resource,) = document["resources"]
    only: Document = resource
    return only


def route_tables(chains: Sequence[Document]) -> list[str]:
    """Return the names of the route tables that a listener's filter chains ask for."""
    return [
        each["typed_config"]["rds"]["route_config_name"]
        for chain in chains
        for each in chain.get("filters", ())
        if "rds" in each.get("typed_config", {})
    ]


def file_filters(chains: Sequence[Document]) -> list[str]:
    """Return the names of the HTTP filters that a listener's filter chains take from files."""
    return [
        http_filter["name"]
        for chain in chains
        for each in chain.get("filters", ())
        for http_filter in each.get("typed_config", {}).get("http_filters", ())
        if "config_discovery" in http_filter
    ]


def _with_managers(
    chain: Document, tables: Mapping[str, Document], filters: Mapping[str, Document]
) -> Document:
    """Return a filter chain with what its HTTP connection managers ask for in place."""
    return {
        **chain,
        "filters": [
            {**each, "typed_config": _manager(each["typed_config"], tables, filters)}
            if "rds" in each.get("typed_config", {})
            else each
            for each in chain.get("filters", ())
        ],
    }


def _manager(
    manager: Document, tables: Mapping[str, Document], filters: Mapping[str, Document]
) -> Document:
    table = tables[manager["rds"]["route_config_name"]]
    http_filters = [
        {**_without(each, "config_discovery"), "typed_config": filters[each["name"]]}
        if "config_discovery" in each
        else each
        for each in manager["http_filters"]
    ]
    return {
        **_without(manager, "rds"),
        "route_config": _without(table, "@type"),
        "http_filters": http_filters,
    }


def _without_secrets(part: Document) -> Document:
    """Return a filter chain or a cluster whose TLS, if it has any, needs no file of a secret.

    Whose certificate the real one is, and whom it trusts, does not matter here:
    vmesh.artifacts.sources looks at an edge's own, and each host makes those of the mesh.
    """
    socket = part.get("transport_socket", {})
    config = socket.get("typed_config", {})
    common = config.get("common_tls_context", {})
    found = _without(
        common, "tls_certificate_sds_secret_configs", "validation_context_sds_secret_config"
    )
    if "tls_certificate_sds_secret_configs" in common:
        found["tls_certificates"] = [throw_away()]
    if "validation_context_sds_secret_config" in common:
        found["validation_context"] = {"trusted_ca": throw_away()["certificate_chain"]}
    if found == common:
        return part
    typed = {**config, "common_tls_context": found}
    return {**part, "transport_socket": {**socket, "typed_config": typed}}


def _without_files(cluster: Document) -> Document:
    """Return `cluster` without files of secrets, and without the host's file of authorities.

    The controller may lack that. A certificate's name cannot be checked without authorities, so
    that check goes as well.
    """
    cluster = _without_secrets(cluster)
    socket = cluster.get("transport_socket", {})
    config = socket.get("typed_config", {})
    common = config.get("common_tls_context", {})
    authorities = common.get("validation_context", {}).get("trusted_ca", {})
    if authorities.get("filename") != HOST_AUTHORITIES:
        return _without(cluster, "@type")
    config = {**config, "common_tls_context": _without(common, "validation_context")}
    return {**_without(cluster, "@type"), "transport_socket": {**socket, "typed_config": config}}


def _without_identity(form: Document) -> Document:
    """Return what a static form says beside its resources, but for what names its proxy."""
    node = _without(form["node"], "id")
    node["metadata"] = _without(node["metadata"], "bootstrap_version")
    return {**_without(form, "static_resources"), "node": node}


def _without_addresses(part: Any) -> Anonymous:
    addresses = []

    def anonymous(mapping: Document) -> Document:
        if "private_key" in mapping:
            return {}  # of a certificate that each run makes anew
        if mapping.get("trusted_ca") == throw_away()["certificate_chain"]:
            return {}  # likewise
        if "port_value" in mapping and is_ipv4(mapping["address"]):
            addresses.append(mapping["address"])
            return {**mapping, "address": None}
        return mapping

    return json.dumps(json.loads(json.dumps(part), object_hook=anonymous)), addresses
