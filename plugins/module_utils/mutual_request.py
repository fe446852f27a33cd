# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""A request by mTLS to another proxy, as a proxy of this host would make it, and what came of it.

Envoy tells a client little of why it failed. Python, with the same files, tells more: which of the
two ends refused the other, and why.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .mutual_tls import IDENTITY, context_of, secret

# A host that is there answers sooner, even a slow one; a firewall that drops packets never does.
SECONDS = 10.0
# In TLS 1.3 a server refuses a client's leaf after the client has ended its handshake
# (https://www.rfc-editor.org/rfc/rfc8446#section-4.4.2.4), so a refusal is waited for.
REFUSAL_SECONDS = 0.5
# https://github.com/openssl/openssl/blob/openssl-3.0/include/openssl/x509_vfy.h.in
_THEIR_LEAF = {
    7: "peer-unknown-authority",
    9: "peer-not-yet-valid",
    10: "peer-expired",
    18: "peer-unknown-authority",
    19: "peer-unknown-authority",
    20: "peer-unknown-authority",
    21: "peer-unknown-authority",
    47: "peer-foreign-name",
    48: "peer-foreign-name",
    51: "peer-foreign-name",
}
# Parts of OpenSSL's names for the alerts of https://www.rfc-editor.org/rfc/rfc8446#section-6.2
_OUR_LEAF = {
    "CERTIFICATE_EXPIRED": "expired",
    "UNKNOWN_CA": "unknown-authority",
    "CERTIFICATE_REQUIRED": "no-leaf",
}
# What RBAC answers: https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/rbac_filter
_FORBIDDEN = b"RBAC: access denied"

Target = Mapping[str, Any]


def ask(  # noqa: PLR0911 - a reason each
    folder: Path, target: Target, seconds: float = SECONDS
) -> dict[str, Any]:
    """Make a request to the listener of a service on a host, and return what came of it.

    folder: the files of the proxy that asks
    target: `service`, `address`, `port`; and, for a proxy that does not call it, `anchor` (PEM) and
    `identity` of the service there

    why: "" where the request was answered; else who refused it, as vmesh.cli.output.certs_verify
    puts it in words; said: the text of the error
    tls: version; identity: that the service has proven; status: of the answer. Each is None where
    it did not come to that.
    """
    found: dict[str, Any] = {"tls": None, "identity": None, "status": None, "said": ""}
    try:
        identity = secret(folder / IDENTITY)
        anchors, identities = _trusted(folder, target)
        if not anchors:
            return {**found, "why": "no-anchor"}
        context = context_of(identity, anchors)
    except (OSError, ValueError, KeyError) as error:
        return {**found, "why": "no-identity", "said": _text(error)}
    place = (target["address"], int(target["port"]))
    try:
        plain = socket.create_connection(place, timeout=seconds)
    except TimeoutError:
        return {**found, "why": "timeout"}
    except ConnectionRefusedError:
        return {**found, "why": "nobody-listens"}
    except OSError as error:
        return {**found, "why": "unreachable", "said": _text(error)}
    with plain:
        try:
            with context.wrap_socket(plain) as connection:
                found["tls"] = connection.version()
                names = _identities(connection)
                found["identity"] = ", ".join(names) or None
                if not set(names) & set(identities):
                    return {**found, "why": "peer-other-identity"}
                found["status"], forbidden = _answer(connection, target["service"])
                return {**found, "why": "forbidden" if forbidden else ""}
        except (OSError, http.client.HTTPException) as error:
            return {**found, "why": _reason(error), "said": _text(error)}


def _trusted(folder: Path, target: Target) -> tuple[str, list[str]]:
    """Return the anchors (PEM) and identities by which a proxy knows the service.

    Of a service that it calls, it has a file (vmesh.compile.security_views.upstream_bundle).
    """
    bundle = folder / "trust" / f"upstream_{target['service']}.json"
    if not bundle.exists():
        return target["anchor"], [target["identity"]]
    context = secret(bundle)["validation_context"]
    names = context.get("match_typed_subject_alt_names", [])
    return context["trusted_ca"]["inline_string"], [each["matcher"]["exact"] for each in names]


def _identities(connection: ssl.SSLSocket) -> list[str]:
    names: Any = (connection.getpeercert() or {}).get("subjectAltName", ())
    return [str(value) for kind, value in names if kind == "URI"]


def _answer(connection: ssl.SSLSocket, service: str) -> tuple[int, bool]:
    """Send a request; return the status, and whether Envoy itself has forbidden it."""
    seconds = connection.gettimeout()
    connection.settimeout(REFUSAL_SECONDS)
    with contextlib.suppress(TimeoutError):
        if not connection.recv(1):
            raise ConnectionResetError("it closed the connection after the handshake")
    connection.settimeout(seconds)
    # Not to be traced: nobody has asked for it.
    trace = "00-" + "1" * 32 + "-" + "1" * 16 + "-00"
    lines = ("GET / HTTP/1.1", f"Host: {service}", "User-Agent: vmesh-certs-verify")
    more = (f"traceparent: {trace}", "Connection: close", "", "")
    connection.sendall("\r\n".join((*lines, *more)).encode())
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer.status, answer.status == http.client.FORBIDDEN and answer.read(
        len(_FORBIDDEN)
    ) == _FORBIDDEN


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _THEIR_LEAF.get(error.verify_code, "peer-refused")
    if isinstance(error, ssl.SSLError):
        name = error.reason or ""
        if name in {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"}:
            return "plaintext"
        return next((why for part, why in _OUR_LEAF.items() if part in name), "refused")
    if isinstance(error, TimeoutError):
        return "no-answer"
    return "closed"


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__
