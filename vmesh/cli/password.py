"""`./mesh password NAME`: a password for a user of an edge."""

from __future__ import annotations

import argparse
import base64
import hashlib
import secrets
import string

from vmesh.base.exits import OK

# 119 bits. Envoy takes no other hash than SHA-1 without a salt, from which a password that people
# think up is soon found: https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/basic_auth_filter
LENGTH = 20


def run(arguments: argparse.Namespace) -> int:
    """Print a new password for NAME, and what the inventory gets of it. Nothing is kept."""
    password = new_password()
    print(f"password of {arguments.name}, shown this once: {password}")
    print("for `users` of the edge, by `ansible-vault encrypt_string`:")
    print(f"{arguments.name}: {password_hash(password)!r}")
    return OK


def new_password() -> str:
    """Return a random password of letters and digits."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(LENGTH))


def password_hash(password: str) -> str:
    """Return the hash of `password` as htpasswd -s writes it."""
    digest = hashlib.sha1(password.encode(), usedforsecurity=False).digest()
    return "{SHA}" + base64.b64encode(digest).decode()
