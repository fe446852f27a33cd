# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""Asking a proxy of this host as a proxy of the mesh would: with its own identity.

A service may always call itself (vmesh.compile.security_views).
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Below the folder of a proxy: its identity, and whom its listener trusts.
IDENTITY = "identity/identity.json"
CALLERS = "trust/callers.json"
TIMEOUT = 30.0


def connection_to(folder: Path, address: str, port: int) -> http.client.HTTPConnection:
    """Return a connection to the listener of the proxy whose files are in `folder`.

    It is with mTLS where that proxy knows whom it trusts, else in plaintext. Raises OSError and
    ValueError where its identity or its bundle cannot be read.
    """
    if not (folder / CALLERS).exists():
        return http.client.HTTPConnection(address, port, timeout=TIMEOUT)
    # The host's own anchor, which has signed what the listener shows, is among those of callers.
    trusted = secret(folder / CALLERS)["validation_context"]["trusted_ca"]["inline_string"]
    context = context_of(secret(folder / IDENTITY), trusted)
    return http.client.HTTPSConnection(address, port, timeout=TIMEOUT, context=context)


def secret(path: Path) -> Mapping[str, Any]:
    """Return the one secret in a file for Envoy; raises OSError, ValueError."""
    try:
        (only,) = json.loads(path.read_text("utf-8"))["resources"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no secret") from error
    found: Mapping[str, Any] = only
    return found


def context_of(identity: Mapping[str, Any], anchors: str) -> ssl.SSLContext:
    """Return how a proxy with this identity speaks to whom these anchors (PEM) have signed for.

    Raises OSError, ValueError; ssl.SSLError is one of the first.
    """
    context = ssl.create_default_context(cadata=anchors)
    context.check_hostname = False  # it is asked by its address, and has none in its leaf
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    pair = identity["tls_certificate"]
    texts = [pair[part]["inline_string"] for part in ("certificate_chain", "private_key")]
    # ssl takes files alone; this one is in memory, so that no disk has another copy of the key.
    handle = os.memfd_create("vmesh-identity", os.MFD_CLOEXEC)
    try:
        os.write(handle, "".join(texts).encode())
        context.load_cert_chain(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)
    return context
