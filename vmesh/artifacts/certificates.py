"""What is in the certificates that the inventory names on the controller."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from vmesh.base import paths
from vmesh.base.formats import is_ipv4
from vmesh.base.problems import HIDDEN, WARNING, Problem
from vmesh.model.types import Edge

# A certificate of a public authority is renewed a month before its end at the latest.
SOON = datetime.timedelta(days=30)


def check(edge: Edge, now: datetime.datetime) -> Iterator[Problem]:
    """Find what is wrong with the certificate and the key of `edge` at the time `now` (aware)."""
    tls, where = edge.tls, f"mesh_edges.{edge.name}.tls"
    if tls is None or tls.certificate is None or tls.key is None:
        return
    remedy = "Name a PEM file: the edge's own certificate first, then those of its authorities"
    try:
        chain = x509.load_pem_x509_certificates(
            (paths.PROJECT / Path(tls.certificate)).read_bytes()
        )
    except OSError as error:
        yield Problem(
            f"{where}.certificate", tls.certificate, f"cannot be read: {error.strerror}", remedy
        )
        return
    except ValueError:
        yield Problem(
            f"{where}.certificate", tls.certificate, "holds no certificate that can be read", remedy
        )
        return
    yield from _key(where, chain[0], tls.key)
    yield from _dates(f"{where}.certificate", tls.certificate, chain, now)
    yield from _names(f"{where}.certificate", tls.certificate, chain[0], edge)


def _key(where: str, certificate: x509.Certificate, text: str) -> Iterator[Problem]:
    try:
        key = serialization.load_pem_private_key(text.encode(), None)
    except (ValueError, TypeError):
        yield Problem(
            f"{where}.key",
            HIDDEN,
            "is no private key in PEM that can be read without a password",
            "Take the text of the whole file, from -----BEGIN to its last line",
        )
        return
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != certificate.public_key().public_bytes(*form):
        yield Problem(
            f"{where}.key",
            HIDDEN,
            "is not the key of the certificate",
            "Take both from the same request; of a chain the edge's own certificate comes first",
        )


def _dates(
    where: str, path: str, chain: Iterable[x509.Certificate], now: datetime.datetime
) -> Iterator[Problem]:
    first = min(chain, key=lambda each: each.not_valid_after_utc)
    end, remedy = first.not_valid_after_utc, "Put a new certificate there, and apply"
    who = f"({first.subject.rfc4514_string() or 'no subject'})"
    if end <= now:
        yield Problem(where, path, f"has expired on {end:%Y-%m-%d} {who}", remedy)
    elif end - now < SOON:
        days = (end - now).days
        message = f"expires on {end:%Y-%m-%d}, in {days} days {who}"
        yield Problem(where, path, message, remedy, WARNING)


def _names(where: str, path: str, certificate: x509.Certificate, edge: Edge) -> Iterator[Problem]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = [name.lower() for name in found.get_values_for_type(x509.DNSName)]
    except x509.ExtensionNotFound:
        names = []
    domains = {domain for host in edge.virtual_hosts for domain in host.domains}
    lacking = sorted(each for each in domains if not _covers(names, each))
    if lacking:
        yield Problem(
            where,
            path,
            f"is not for {', '.join(lacking)}, which the edge answers for",
            f"Add them to the certificate, which is for {', '.join(names) or 'no name'}",
            WARNING,
        )


def _covers(names: Iterable[str], domain: str) -> bool:
    """Tell whether a certificate for `names` is one for `domain`; any will do for `*`."""
    if domain == "*" or is_ipv4(domain):
        return True
    return any(name in {domain, f"*.{domain.partition('.')[2]}"} for name in names)
