# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""Keys, signatures, requests and certificates, by the command openssl of the host.

A private key is in the memory of this program, in a pipe to openssl, or in a file that only its
owner may read. It never is an argument of a command, which every user of the host can see.
"""

from __future__ import annotations

import hashlib
import re
import ssl
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_STDIN = "/dev/stdin"
_CURVE = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
_ADDRESS = re.compile(r"[0-9]+([.][0-9]+){3}")
# As `openssl x509 -ext subjectAltName` shows it.
_NAME = re.compile(r"(?:DNS|IP Address):([^,\s]+)")
# Bytes of a coordinate of a point of the curve P-256.
_SIZE = 32
# 99991231235959Z: for a certificate without a good end (RFC 5280, section 4.1.2.5).
_FIRST_DAYS = 3650


class OpensslFailed(Exception):  # noqa: N818 - an answer of openssl, not a fault of ours
    """The command openssl is missing, or has failed; the text says what it said."""


@dataclass(frozen=True)
class Certificate:
    """What the first certificate of a chain says.

    begins, ends: Unix seconds; public_key: PEM
    self_signed: whether it names itself as its issuer, as the first one of a host does
    """

    names: frozenset[str]
    begins: float
    ends: float
    self_signed: bool
    public_key: str


def openssl(*arguments: str, given: bytes = b"") -> bytes:
    """Return what openssl writes when it reads `given`; raises OpensslFailed."""
    try:
        done = subprocess.run(["openssl", *arguments], input=given, capture_output=True, check=True)
    except FileNotFoundError as error:
        raise OpensslFailed("openssl is missing: install the package openssl") from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise OpensslFailed(f"openssl {arguments[0]} failed: {lines[-1]}") from error
    return done.stdout


def new_key() -> str:
    """Return a new private key of the curve P-256, as PEM."""
    return openssl("genpkey", *_CURVE).decode()


def public_key(key: str) -> str:
    """Return the public key that belongs to a private one; both are PEM."""
    return openssl("pkey", "-in", _STDIN, "-pubout", given=key.encode()).decode()


def public_point(key_file: Path) -> tuple[bytes, bytes]:
    """Return the coordinates x and y of the public key of the private key in a file."""
    # The point ends the DER of a public key of this curve (RFC 5480, section 2.2).
    encoded = openssl("pkey", "-in", str(key_file), "-pubout", "-outform", "DER")
    return encoded[-2 * _SIZE : -_SIZE], encoded[-_SIZE:]


def signature(key_file: Path, text: bytes) -> bytes:
    """Return the signature ES256 of `text`: r and s, 32 bytes each (RFC 7518, section 3.4)."""
    return _numbers(openssl("dgst", "-sha256", "-sign", str(key_file), given=text))


def _numbers(encoded: bytes) -> bytes:
    """Return r and s of SEQUENCE {INTEGER r, INTEGER s} in DER, where each has up to 33 bytes."""
    numbers, at = b"", 2
    for _ in range(2):
        size = encoded[at + 1]
        numbers += encoded[at + 2 : at + 2 + size].lstrip(b"\0").rjust(_SIZE, b"\0")
        at += 2 + size
    return numbers


def signing_request(key: str, domains: Sequence[str]) -> bytes:
    """Return the request (PKCS #10, DER) for a certificate of `key` that names `domains`."""
    return openssl(
        *("req", "-new", "-key", _STDIN, "-subj", "/", "-outform", "DER"),
        *("-addext", _alternative_names(domains)),
        given=key.encode(),
    )


def self_signed(names: Sequence[str]) -> tuple[str, str]:
    """Return a certificate that nobody trusts, and its private key; both are PEM.

    names: DNS names and IPv4 addresses
    """
    # Who comes to trust it trusts no other certificate that it might sign.
    return _own_certificate(_alternative_names(names), "basicConstraints=critical,CA:FALSE")


def challenge_certificate(domain: str, authorization: str) -> tuple[str, str]:
    """Return the certificate that answers a challenge tls-alpn-01, and its private key, as PEM.

    authorization: the key authorization, whose digest is in the extension id-pe-acmeIdentifier
        (https://www.rfc-editor.org/rfc/rfc8737#section-3)
    """
    digest = hashlib.sha256(authorization.encode()).hexdigest()
    return _own_certificate(
        _alternative_names([domain]), f"1.3.6.1.5.5.7.1.31=critical,DER:0420{digest}"
    )


def _own_certificate(*extensions: str) -> tuple[str, str]:
    key = new_key()
    certificate = openssl(
        *("req", "-x509", "-new", "-key", _STDIN, "-subj", "/CN=vmesh: signed by its host"),
        *("-days", str(_FIRST_DAYS)),
        *(part for extension in extensions for part in ("-addext", extension)),
        given=key.encode(),
    )
    return certificate.decode(), key


def _alternative_names(names: Sequence[str]) -> str:
    kinds = (f"{'IP' if _ADDRESS.fullmatch(name) else 'DNS'}:{name}" for name in names)
    return f"subjectAltName={','.join(kinds)}"


def read(chain: str) -> Certificate:
    """Return what the first certificate of a PEM chain says; raises OpensslFailed."""
    shown = openssl(
        *("x509", "-noout", "-subject", "-issuer", "-startdate", "-enddate", "-pubkey"),
        *("-ext", "subjectAltName"),
        given=chain.encode(),
    ).decode(errors="replace")
    said = dict(re.findall(r"^(subject|issuer|notBefore|notAfter)=(.*)$", shown, re.M))
    return Certificate(
        names=frozenset(name.lower() for name in re.findall(_NAME, shown)),
        begins=ssl.cert_time_to_seconds(said["notBefore"]),
        ends=ssl.cert_time_to_seconds(said["notAfter"]),
        self_signed=said["subject"] == said["issuer"],
        public_key=shown[shown.index("-----BEGIN") :].partition("-----END PUBLIC KEY-----")[0]
        + "-----END PUBLIC KEY-----\n",
    )
