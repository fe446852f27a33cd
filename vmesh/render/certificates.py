"""Certificates among a proxy's files: secrets that Envoy reads from a file that it watches.

https://www.envoyproxy.io/docs/envoy/latest/configuration/security/secret
"""

from __future__ import annotations

import base64
import datetime
import functools
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from vmesh.base.problems import HIDDEN
from vmesh.compile.host_spec import View

SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"


def secret(name: str, certificate: View, chain: str | None) -> dict[str, Any]:
    """Return the secret `name`; `chain` is the text of a certificate from the controller.

    certificate: an item of edge_tls_views.certificates
    """
    if chain is not None:
        pair: dict[str, Any] = _pair(chain, certificate["key"])
    else:
        path = certificate["certificate_on_host"]
        # Both are read again when either of them is moved into this folder.
        pair = {
            "certificate_chain": {"filename": path},
            "private_key": {"filename": certificate["key_on_host"]},
            "watched_directory": {"path": str(PurePosixPath(path).parent)},
        }
    return {"@type": SECRET, "name": name, "tls_certificate": pair}


def bundle(name: str, trusted: View) -> dict[str, Any]:
    """Return the secret `name` that says whom a proxy trusts.

    trusted: an item of security_views.Trust
    """
    names = [{"san_type": "URI", "matcher": {"exact": each}} for each in trusted["identities"]]
    context = {
        "trusted_ca": {"inline_string": "".join(trusted["anchors"].values())},
        **({"match_typed_subject_alt_names": names} if names else {}),
        **({"allow_expired_certificate": True} if trusted["accept_expired"] else {}),
    }
    return {"@type": SECRET, "name": name, "validation_context": context}


def without_key(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document of a file with secrets without the keys in it."""
    return {
        **document,
        "resources": [
            {**each, "tls_certificate": _without_key(each["tls_certificate"])}
            for each in document["resources"]
        ],
    }


def _without_key(pair: Mapping[str, Any]) -> dict[str, Any]:
    if "inline_string" not in pair["private_key"]:
        return dict(pair)
    return {**pair, "private_key": {"inline_string": HIDDEN}}


@functools.cache
def throw_away() -> dict[str, Any]:
    """Return a pair that nobody has ever used, for an Envoy that only looks at a configuration."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vmesh")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    # In base64, as whoever looks for private keys on the controller is to find none.
    texts = {"certificate_chain": certificate.public_bytes(pem), "private_key": private}
    return {name: {"inline_bytes": base64.b64encode(text).decode()} for name, text in texts.items()}


def _pair(chain: str, key: str) -> dict[str, Any]:
    return {
        "certificate_chain": {"inline_string": chain},
        "private_key": {"inline_string": key},
    }
