"""An issuer of tokens (JWT, RFC 7519): its keys, and what it signs."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

ISSUER, AUDIENCE = "https://login.example.com", "shop"


class Issuer:
    """Signs with RS256; `jwks` is the text of its public keys."""

    def __init__(self, key_id: str = "one") -> None:
        self.key_id = key_id
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        numbers = self._key.public_key().public_numbers()
        key = {"kty": "RSA", "alg": "RS256", "use": "sig", "kid": key_id}
        key |= {"n": _encoded(_bytes(numbers.n)), "e": _encoded(_bytes(numbers.e))}
        self.jwks = json.dumps({"keys": [key]})

    def write(self, folder: Path) -> Path:
        """Write the public keys to a file of `folder`; return it."""
        file = folder / f"{self.key_id}.json"
        file.write_text(self.jwks)
        return file

    def token(self, **claims: Any) -> str:
        """Return a token of anna for the shop that is good for a minute, with these claims."""
        said = {"iss": ISSUER, "aud": AUDIENCE, "sub": "anna", "exp": int(time.time()) + 60}
        signed = f"{_part({'alg': 'RS256', 'kid': self.key_id})}.{_part({**said, **claims})}"
        signature = self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{_encoded(signature)}"

    def unsigned(self) -> str:
        """Return a token without a signature, which says so."""
        said = {"iss": ISSUER, "aud": AUDIENCE, "sub": "anna", "exp": int(time.time()) + 60}
        return f"{_part({'alg': 'none'})}.{_part(said)}."


def bearer(token: str) -> dict[str, str]:
    """Return the header with which a client shows a token."""
    return {"authorization": f"Bearer {token}"}


def _part(value: Any) -> str:
    return _encoded(json.dumps(value).encode())


def _encoded(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def _bytes(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")
