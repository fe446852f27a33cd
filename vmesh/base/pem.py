"""Texts with certificates in PEM (RFC 7468)."""

from __future__ import annotations

import base64
import hashlib
import re

_CERTIFICATE = re.compile(
    r"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----\n?", re.DOTALL
)


def certificates_in(text: str) -> list[str]:
    """Return the certificates of a text, each as a text of its own."""
    return [found.group() for found in _CERTIFICATE.finditer(text)]


def newest(anchor: str) -> str:
    """Return the anchor of a host that is to stay: in a rollover it has two, the older first."""
    return (certificates_in(anchor) or [anchor])[-1]


def digests_of(text: str) -> list[str]:
    """Return what stands for each certificate of a text: the first half of its SHA-256.

    A host tells the same (plugins/module_utils/envoy_security.py, which vmesh may not import).
    """
    ders = [base64.b64decode(each[1]) for each in _CERTIFICATE.finditer(text)]
    return [hashlib.sha256(der).hexdigest()[:32] for der in ders or [text.encode()]]
