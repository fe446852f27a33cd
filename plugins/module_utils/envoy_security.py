# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""How an Envoy of the mesh speaks with the others, as its files on the host say.

A listener is read as Envoy reads it (api/envoy/config/listener/v3/listener_components.proto): a
filter chain with a TLS context that asks for a certificate is mTLS, one without TLS is plaintext.
A plaintext chain for some source networks alone is for callers outside the mesh, and not counted.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from .envoy_documents import Document, document_of
from .envoy_files import CLUSTERS, EARLIER_FORMAT, LISTENERS, format_of

PLAINTEXT, MTLS, BOTH = "plaintext", "mtls", "both"
# Jaeger's name, and what proxies call the cluster that leads there.
_JAEGER, _COLLECTOR = "jaeger", "tracing_collector"
# The listener on which a service is called, and one on which Jaeger's guard is; the routes of a
# service, and the anchors of those who may call either.
_INGRESS, _GUARD = "ingress", "otlp_grpc"
_ROUTES, _CALLERS = "routes/ingress.json", "trust/callers.json"
_PEM = re.compile("-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)


def security_of(files: Mapping[str, str]) -> dict[str, Any]:
    """Return how the Envoy with these files speaks.

    files: text by path below its folder, those of the folder `trust` too

    accepts: plaintext, mtls or both; None where no other proxy calls it
    speaks: service -> plaintext or mtls
    knows: digests of the anchors of those who may call it by mTLS
    lets: names of these proxies; None where each that it knows may
    """
    if format_of(files) == EARLIER_FORMAT:
        return _of_an_earlier_release(files)
    trust = document_of(files.get(_CALLERS, ""))
    routes = document_of(files.get(_ROUTES, ""))
    listeners = document_of(files.get(LISTENERS, ""))
    names = {each.get("name") for each in listeners.get("resources", [])}
    return {
        "accepts": _accepts(listeners),
        "speaks": _speaks(document_of(files.get(CLUSTERS, ""))),
        "knows": sorted(
            digest for text in _values(trust, "inline_string") for digest in digests(text)
        ),
        # The guard reads no request, so it knows hosts alone.
        "lets": None
        if _GUARD in names
        else sorted(
            name["suffix"].removeprefix("/")
            for name in _values(routes, "principal_name")
            if isinstance(name, dict) and "suffix" in name
        ),
    }


def digests(bundle: str) -> list[str]:
    """Return what stands for each certificate of a PEM bundle: the first half of its SHA-256."""
    return [
        hashlib.sha256(base64.b64decode(each)).hexdigest()[:32] for each in _PEM.findall(bundle)
    ]


def _of_an_earlier_release(files: Iterable[str]) -> dict[str, Any]:
    """Return how an Envoy with YAML files speaks, from their paths: there was plaintext alone."""
    paths = [PurePosixPath(path) for path in files]
    is_called = any(str(path.with_suffix("")) == "routes/ingress" for path in paths)
    services = sorted(path.stem for path in paths if str(path.parent) == "endpoints")
    return {
        "accepts": PLAINTEXT if is_called else None,
        "speaks": {called: PLAINTEXT for name in services if (called := _callee(name))},
        "knows": [],
        "lets": [],
    }


def _accepts(listeners: Document) -> str | None:
    chains = [
        chain
        for listener in listeners.get("resources", [])
        if listener.get("name") in {_INGRESS, _GUARD}
        for chain in listener.get("filter_chains", [])
    ]
    ways = {
        way
        for chain in chains
        if not (
            (way := MTLS if _asks_for_a_certificate(chain) else PLAINTEXT) == PLAINTEXT
            and chain.get("filter_chain_match", {}).get("source_prefix_ranges")
        )
    }
    return BOTH if len(ways) > 1 else next(iter(ways), None)


def _asks_for_a_certificate(chain: Document) -> bool:
    context = chain.get("transport_socket", {}).get("typed_config", {})
    return context.get("require_client_certificate") is True


def _speaks(clusters: Document) -> dict[str, str]:
    return {
        called: MTLS if "transport_socket" in cluster else PLAINTEXT
        for cluster in clusters.get("resources", [])
        if cluster.get("type") == "EDS" and (called := _callee(cluster["name"]))
    }


def _callee(cluster: str) -> str | None:
    """Return the service that a cluster leads to, or Jaeger; None for the mesh's own clusters.

    A service's name is a DNS label, which those of the mesh's own are not.
    """
    if cluster == _COLLECTOR:
        return _JAEGER
    return None if "_" in cluster else cluster


def _values(value: Any, key: str) -> Iterator[Any]:
    """Yield what stands at `key`, at any depth."""
    if isinstance(value, list):
        for item in value:
            yield from _values(item, key)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name == key:
                yield item
            else:
                yield from _values(item, key)
