# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""The protocol ACME (RFC 8555): signed requests to an authority, and what it refuses.

`Client` speaks for one account. What is said in an order is in `acme_order`.
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import http.client
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import acme_openssl

# A request is sent again with the nonce that comes with each refusal (section 6.5).
_NONCES = 5
_SECONDS = 30
_ERROR = "urn:ietf:params:acme:error:"
# The authority knows no such account, or it was deactivated: section 7.3.6 and 6.7.
ACCOUNT_IS_GONE = ("accountDoesNotExist", "unauthorized")


class AcmeFailed(Exception):  # noqa: N818 - an answer of the authority, not a fault of ours
    """The authority cannot be reached, or refuses; the text says what it said.

    kind: the type of error in ACME's words, e.g. rateLimited; empty where it named none
    wait: seconds for which the authority wants no other request, 0 where it does not say
    """

    def __init__(self, text: str, kind: str = "", wait: float = 0) -> None:
        super().__init__(text)
        self.kind, self.wait = kind, wait


@dataclass(frozen=True)
class Reply:
    """An answer; `headers` have names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def document(self) -> dict[str, Any]:
        """Return the JSON object in it; raises AcmeFailed where it has none."""
        try:
            found = json.loads(self.body)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise AcmeFailed(f"the authority answered {self.status} without a JSON object")
        return found


def encoded(data: bytes) -> str:
    """Return base64url without padding (RFC 7515, section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def wait_of(headers: Mapping[str, str], now: float) -> float:
    """Return the seconds that `retry-after` asks for, as a number or a date; 0 without it."""
    said = headers.get("retry-after", "").strip()
    if said.isdigit():
        return float(said)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - now)
    except (TypeError, ValueError):
        return 0.0


def refusal(url: str, reply: Reply, now: float) -> AcmeFailed:
    """Return what an answer that is an error says (RFC 8555, section 6.7)."""
    try:
        said = reply.document()
    except AcmeFailed:
        said = {}
    kind = str(said.get("type", "")).removeprefix(_ERROR)
    words = [f"{url} answered {reply.status}", problem_text(said)]
    return AcmeFailed(": ".join(filter(None, words)), kind, wait_of(reply.headers, now))


def problem_text(problem: Mapping[str, Any]) -> str:
    """Return what an error document says, with the errors of single names in it."""
    kind = str(problem.get("type", "")).removeprefix(_ERROR)
    parts = [" ".join(filter(None, [kind, str(problem.get("detail", ""))]))]
    for each in problem.get("subproblems") or ():
        name = str((each.get("identifier") or {}).get("value", ""))
        parts.append(f"{name}: {problem_text(each)}")
    return "; ".join(filter(None, parts))


class Client:
    """Speaks to the authority whose directory is at the URL `directory`.

    key_file: the account's private key
    authorities: PEM of those that may have signed the directory's own certificate, None for those
        of the host
    """

    def __init__(self, directory: str, key_file: Path, authorities: str | None = None) -> None:
        self.key_file = key_file
        context = ssl.create_default_context(cadata=authorities)
        # No proxy, whatever the environment says: a host reaches the authority directly.
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        x, y = acme_openssl.public_point(key_file)
        self._public = {"crv": "P-256", "kty": "EC", "x": encoded(x), "y": encoded(y)}
        self._nonce = ""
        self._account = ""
        self.urls = self._get(directory)
        if not all(isinstance(self.urls.get(key), str) for key in ("newNonce", "newOrder")):
            raise AcmeFailed(f"{directory} is no directory of ACME: it names no newOrder")

    def thumbprint(self) -> str:
        """Return the thumbprint of the account's key (RFC 7638)."""
        # The members are in the order that it asks for.
        text = json.dumps(self._public, sort_keys=True, separators=(",", ":"))
        return encoded(hashlib.sha256(text.encode()).digest())

    def register(self, contact: str | None) -> None:
        """Make the account, or find it by its key; agrees to the authority's terms of service."""
        said: dict[str, Any] = {"termsOfServiceAgreed": True}
        if contact:
            said["contact"] = [f"mailto:{contact}"]
        self._account = ""
        self._account = self.post(self.urls["newAccount"], said).headers.get("location", "")

    def post(self, url: str, said: Mapping[str, Any] | None) -> Reply:
        """Send a signed request, `None` to read a resource; raises AcmeFailed on an error."""
        for _ in range(_NONCES):
            nonce = self._nonce or self._new_nonce()
            self._nonce = ""
            reply = self._ask(url, self._signed(url, nonce, said))
            if reply.status < http.client.BAD_REQUEST:
                return reply
            failed = refusal(url, reply, time.time())
            if failed.kind != "badNonce":
                raise failed
        raise failed

    def _signed(self, url: str, nonce: str, said: Mapping[str, Any] | None) -> bytes:
        """Return the flattened JWS of a request (RFC 7515; RFC 8555, section 6.2)."""
        who: dict[str, Any] = {"kid": self._account} if self._account else {"jwk": self._public}
        head = encoded(json.dumps({"alg": "ES256", "nonce": nonce, "url": url, **who}).encode())
        body = "" if said is None else encoded(json.dumps(said).encode())
        signed = acme_openssl.signature(self.key_file, f"{head}.{body}".encode())
        parts = {"protected": head, "payload": body, "signature": encoded(signed)}
        return json.dumps(parts).encode()

    def _new_nonce(self) -> str:
        self._ask(self.urls["newNonce"])
        if not self._nonce:
            raise AcmeFailed(f"{self.urls['newNonce']} gave no nonce")
        return self._nonce

    def _get(self, url: str) -> dict[str, Any]:
        reply = self._ask(url)
        if reply.status >= http.client.BAD_REQUEST:
            raise refusal(url, reply, time.time())
        return reply.document()

    def _ask(self, url: str, body: bytes | None = None) -> Reply:
        """Send a request, a GET without `body`; keeps the nonce that comes back."""
        headers = {"User-Agent": "vmesh-acme", "Content-Type": "application/jose+json"}
        request = urllib.request.Request(url, body, headers)
        try:
            try:
                response = self._opener.open(request, timeout=_SECONDS)
            except urllib.error.HTTPError as error:
                response = error
            with response:
                found = {name.lower(): value for name, value in response.headers.items()}
                reply = Reply(response.status, found, response.read())
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "reason", None) or error
            raise AcmeFailed(f"{url} cannot be reached: {why}") from error
        self._nonce = reply.headers.get("replay-nonce", "")
        return reply
