# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""Anchors and leaves of the mesh, made and read by the host's `openssl`.

An anchor is the certificate authority of one host, and may sign for that host alone. A leaf
names one proxy of the host. Private keys go through pipes: no argument and no temporary file of
`openssl` ever holds one. Times are Unix seconds; certificates and keys are PEM.
"""

from __future__ import annotations

import calendar
import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Long before any clock that is wrong by a little, so that no certificate is "not yet valid".
NOT_BEFORE = calendar.timegm((2020, 1, 1, 0, 0, 0))
ANCHOR_SECONDS = 3652 * 86400
# A host label and a trust domain, as in web1.shop.mesh.
NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+")
IDENTITY = re.compile(rf"spiffe://{NAME.pattern}/[a-z0-9][a-z0-9-]*")
_PEM = re.compile(r"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----\n?", re.DOTALL)
_CURVE = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
# https://docs.openssl.org/3.0/man1/openssl-ca/: `openssl x509` knows whole days only, and no past.
_SIGNER = """[ca]
default_ca = signer
[signer]
database = {folder}/index
new_certs_dir = {folder}
rand_serial = yes
unique_subject = no
default_md = sha256
policy = subject
[subject]
commonName = optional
[req]
prompt = no
distinguished_name = name
[name]
{subject}
[extensions]
{extensions}
"""
# Every type of name that TLS knows is limited: a type that is not named here would be free.
# https://www.rfc-editor.org/rfc/rfc5280#section-4.2.1.10
_ANCHOR = """basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
nameConstraints = critical, permitted;URI:{name}, permitted;DNS:{name}, permitted;email:{name}, \
excluded;IP:0.0.0.0/0.0.0.0, excluded;IP:0:0:0:0:0:0:0:0/0:0:0:0:0:0:0:0
"""
# Without a subject, the alternative name is critical (RFC 5280, section 4.2.1.6).
_LEAF = """basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectAltName = critical, URI:{identity}
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


class CertificateError(Exception):
    """A certificate cannot be made or read; the text says why."""


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key."""

    certificate: str
    key: str


@dataclass(frozen=True)
class Certificate:
    """What a certificate says.

    uris: of its alternative names; not_before, not_after: Unix seconds; serial: hexadecimal
    key_id: of its own key; issuer_key_id: of the key that signed it; "" where it names none
    signs_for: the host names that it may sign for, of an anchor
    """

    uris: tuple[str, ...]
    not_before: int
    not_after: int
    serial: str
    key_id: str
    issuer_key_id: str
    signs_for: tuple[str, ...] = ()


def new_anchor(name: str, now: float) -> Pair:
    """Return an anchor for the host `name` (web1.shop.mesh); raises CertificateError, OSError.

    All anchors of a mesh have one subject: a server names the subjects of all that it trusts in
    each handshake, and 301 different ones cost its callers 45 % more CPU (measured, Envoy 1.40).
    """
    if not NAME.fullmatch(name):
        raise CertificateError(f"{name!r} is no name of a host and its trust domain")
    key = _new_key()
    subject = f"CN = vmesh {name.partition('.')[2]}"
    end = int(now) + ANCHOR_SECONDS
    certificate = _sign(key, ["-selfsign"], Pair("", key), subject, _ANCHOR.format(name=name), end)
    return Pair(certificate, key)


def new_leaf(anchor: Pair, identity: str, not_after: int) -> Pair:
    """Return a leaf for `identity` (spiffe://...); raises CertificateError, OSError."""
    if not IDENTITY.fullmatch(identity):
        raise CertificateError(f"{identity!r} is no identity of a proxy")
    key = _new_key()
    extensions = _LEAF.format(identity=identity)
    return Pair(_sign(key, [], anchor, "", extensions, not_after), key)


def made_at(anchor: Certificate) -> int:
    """Return when an anchor was made; a clock that shows less is wrong."""
    return anchor.not_after - ANCHOR_SECONDS


def read(pem: str) -> Certificate:
    """Return what the first certificate of a PEM text says; raises CertificateError."""
    shown = "subjectAltName,subjectKeyIdentifier,authorityKeyIdentifier,nameConstraints"
    words = ["x509", "-noout", "-startdate", "-enddate", "-serial", "-dateopt", "iso_8601"]
    text = _openssl([*words, "-ext", shown], pem)
    fields = dict(re.findall(r"^(\w+)=(.+)$", text, re.MULTILINE))
    try:
        not_before, not_after = (_seconds(fields[name]) for name in ("notBefore", "notAfter"))
    except (KeyError, ValueError):
        raise CertificateError(f"openssl says {text!r} of a certificate") from None
    return Certificate(
        uris=_uris(_extension(text, "Subject Alternative Name")),
        not_before=not_before,
        not_after=not_after,
        serial=fields.get("serial", "").lower(),
        key_id=_extension(text, "Subject Key Identifier"),
        # OpenSSL 1.1 writes `keyid:` before it.
        issuer_key_id=_extension(text, "Authority Key Identifier").removeprefix("keyid:"),
        signs_for=_uris(_extension(text, "Name Constraints").partition("Excluded:")[0]),
    )


def belong_together(pair: Pair) -> bool:
    """Tell whether a key is that of a certificate; raises CertificateError where it is none."""
    of_key = _openssl(["pkey", "-pubout"], pair.key)
    return of_key == _openssl(["x509", "-noout", "-pubkey"], pair.certificate)


def signature(key: str, text: str) -> str:
    """Return a signature of a text (ECDSA with SHA-256, hexadecimal); raises CertificateError."""
    with tempfile.NamedTemporaryFile("w", prefix="vmesh-certs-") as file:
        file.write(text)
        file.flush()
        said = _openssl(["dgst", "-sha256", "-hex", "-sign", "/dev/stdin", file.name], key)
    return said.rpartition("= ")[2].strip()


def _new_key() -> str:
    return _openssl(["genpkey", *_CURVE])


def _sign(  # noqa: PLR0913, PLR0917 - what a certificate is made of
    key: str, how: Sequence[str], signer: Pair, subject: str, extensions: str, not_after: int
) -> str:
    """Return a certificate for `key`, signed by `signer`.

    how: words for `openssl ca`; a signer without a certificate signs its own (`-selfsign`)
    """
    with tempfile.TemporaryDirectory(prefix="vmesh-certs-") as name:
        folder = Path(name)
        config, request, issuer = folder / "config", folder / "request", folder / "issuer"
        config.write_text(_SIGNER.format(folder=name, subject=subject, extensions=extensions))
        (folder / "index").touch()
        words = ["-config", str(config)]
        subjects = [] if subject else ["-subj", "/"]
        request.write_text(_openssl(["req", "-new", *words, *subjects, "-key", "/dev/stdin"], key))
        if signer.certificate:
            issuer.write_text(signer.certificate)
            how = [*how, "-cert", str(issuer)]
        words += ["-batch", "-notext", "-extensions", "extensions", "-in", str(request)]
        words += ["-startdate", _time(NOT_BEFORE), "-enddate", _time(not_after)]
        signed = _openssl(["ca", *words, *subjects, *how, "-keyfile", "/dev/stdin"], signer.key)
    found = _PEM.search(signed)
    if not found:
        raise CertificateError("openssl ca has made no certificate")
    return found.group()


def _openssl(arguments: Sequence[str], given: str = "") -> str:
    """Run openssl with `given` on its standard input; return what it prints."""
    try:
        done = subprocess.run(
            ["openssl", *arguments], input=given, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise CertificateError(
            "openssl is not on this host. Install the package openssl there"
        ) from None
    if done.returncode != 0:
        why = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise CertificateError(f"openssl {arguments[0]}: {why[0]}")
    return done.stdout


def _time(seconds: int) -> str:
    return time.strftime("%Y%m%d%H%M%SZ", time.gmtime(seconds))


def _seconds(text: str) -> int:
    return calendar.timegm(time.strptime(text.strip(), "%Y-%m-%d %H:%M:%SZ"))


def _extension(text: str, title: str) -> str:
    """Return the lines below the title of an extension, without their indentation."""
    found = re.search(rf"^X509v3 {title}:.*\n((?: +.*\n)*)", text, re.MULTILINE)
    return "\n".join(line.strip() for line in found.group(1).splitlines()) if found else ""


def _uris(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"URI:([^,\s]+)", text))
