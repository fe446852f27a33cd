# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""An order of a certificate from an authority that speaks ACME, from names to the chain."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .acme_client import AcmeFailed, Client, encoded, problem_text, wait_of

# How long the authority may take for each step, and how often it is asked.
_STEP_SECONDS, _PAUSE, _LONGEST_PAUSE = 120.0, 1.0, 15.0
# Answers a challenge: takes domain, token and key authorization (RFC 8555, section 8.1).
Publish = Callable[[str, str, str], None]


def obtain(
    client: Client, domains: Sequence[str], request: bytes, challenge: str, publish: Publish
) -> str:
    """Return the chain (PEM) of a certificate for `domains`.

    request: the signing request, DER; challenge: http-01 or tls-alpn-01
    publish: makes the answer of a challenge readable for the authority
    Raises AcmeFailed with what the authority said.
    """
    names = [{"type": "dns", "value": domain} for domain in domains]
    reply = client.post(client.urls["newOrder"], {"identifiers": names})
    where, order = reply.headers.get("location", ""), reply.document()
    for url in order["authorizations"]:
        _prove(client, url, challenge, publish)
    client.post(order["finalize"], {"csr": encoded(request)})
    order = _settled(client, where, ("ready", "pending", "processing"))
    if order.get("status") != "valid":
        raise AcmeFailed(f"the order is {order.get('status')}: {problem_text(_error_of(order))}")
    return client.post(order["certificate"], None).body.decode()


def _prove(client: Client, url: str, kind: str, publish: Publish) -> None:
    """Have the authority see that a name leads here."""
    authorization = client.post(url, None).document()
    name = str(authorization["identifier"]["value"])
    if authorization["status"] == "valid":
        return
    challenge = next((each for each in authorization["challenges"] if each["type"] == kind), None)
    if challenge is None:
        raise AcmeFailed(f"{name}: the authority offers no challenge {kind}")
    token = str(challenge["token"])
    publish(name, token, f"{token}.{client.thumbprint()}")
    client.post(challenge["url"], {})
    authorization = _settled(client, url, ("pending", "processing"))
    if authorization["status"] != "valid":
        why = [
            problem_text(_error_of(each)) for each in authorization["challenges"] if "error" in each
        ]
        text = "; ".join(filter(None, why)) or f"the authorization is {authorization['status']}"
        raise AcmeFailed(f"{name}: {text}", "refusedChallenge")


def _error_of(document: Mapping[str, Any]) -> Mapping[str, Any]:
    found = document.get("error")
    return found if isinstance(found, Mapping) else {}


def _settled(client: Client, url: str, waiting: Sequence[str]) -> dict[str, Any]:
    """Return an order or authorization when its status is none of `waiting` any more."""
    deadline = time.monotonic() + _STEP_SECONDS
    while True:
        reply = client.post(url, None)
        found = reply.document()
        if found.get("status") not in waiting:
            return found
        if time.monotonic() > deadline:
            raise AcmeFailed(
                f"{url} is still {found.get('status')} after {_STEP_SECONDS:.0f} seconds"
            )
        asked = wait_of(reply.headers, time.time()) or _PAUSE
        time.sleep(min(max(asked, _PAUSE), _LONGEST_PAUSE))
