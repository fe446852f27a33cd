# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""When an edge's certificate is renewed, and how often an authority is asked at most."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.client
import secrets
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from . import acme_openssl, acme_order
from .acme_client import ACCOUNT_IS_GONE, AcmeFailed, Client
from .acme_openssl import Certificate, OpensslFailed
from .acme_responder import PREFIX, responder
from .acme_store import Attempts, Settings, Store
from .acme_tls_responder import PROTOCOL, tls_responder
from .file_writing import reason

TLS_ALPN = "tls-alpn-01"
HOUR, DAY = 3600.0, 86400.0
# After so many failures in a row the next order waits so long. Let's Encrypt lets five fail in an
# hour for each name (https://letsencrypt.org/docs/rate-limits/).
_WAITS = (HOUR, 2 * HOUR, 4 * HOUR, 8 * HOUR, 12 * HOUR, DAY)
# The authority's own wish counts up to here. A longer wait is one of a clock that was set back.
_LONGEST = 7 * DAY
# How long Envoy may take to answer challenges: a run of site.yml is changing it just now.
_ENVOY_SECONDS = 60.0


class Failed(Exception):  # noqa: N818 - what an authority or a host forbids, not a fault of ours
    """There is no new certificate; the text says why, and what happens next."""


FAULTS = (AcmeFailed, OpensslFailed, OSError, KeyError, TypeError, ValueError)


def reason_to_order(
    certificate: Certificate | None, settings: Settings, directory: str, now: float
) -> str | None:
    """Return why a certificate must be ordered, None where it need not.

    directory: that of the certificate; now: Unix seconds
    """
    if certificate is None or certificate.self_signed:
        return "there is none yet"
    if certificate.names != {domain.lower() for domain in settings.domains}:
        return f"it is for {', '.join(sorted(certificate.names))}"
    if directory != settings.directory:
        return f"it is from {directory or 'another authority'}"
    left = certificate.ends - now
    if left < (certificate.ends - certificate.begins) / 3:
        return f"it ends in {left / DAY:.1f} days" if left > 0 else "it has ended"
    return None


def after_failure(attempts: Attempts, order: str, now: float, wait: float, error: str) -> Attempts:
    """Return the attempts with one failure more.

    order: digest of the settings; wait: seconds that the authority asks for, 0 for none
    """
    failures = 1 + (attempts.failures if attempts.order == order else 0)
    own = _WAITS[min(failures, len(_WAITS)) - 1]
    return Attempts(order, failures, now + min(max(own, wait), _LONGEST), error)


def held_for(attempts: Attempts, order: str, now: float) -> float:
    """Return the seconds for which an order with these settings must wait."""
    left = attempts.not_before - now
    return left if attempts.order == order and 0 < left <= _LONGEST else 0.0


def renew(
    settings: Settings, say: Callable[[str], None], clock: Callable[[], float] = time.time
) -> None:
    """Order a certificate where one is due, and hand it to Envoy; raises Failed."""
    store, names = Store(settings), ", ".join(settings.domains)
    chain, now = store.chain(), clock()
    try:
        certificate = acme_openssl.read(chain) if chain else None
    except OpensslFailed as failed:
        raise Failed(str(failed)) from failed
    due = reason_to_order(certificate, settings, store.directory(), now)
    if due is None and certificate is not None:
        say(f"{names}: the certificate is good for {(certificate.ends - now) / DAY:.1f} days")
        return
    before, order = store.attempts(), settings.digest()
    held = held_for(before, order, now)
    if held:
        raise Failed(
            f"{names}: {before.failures} order(s) failed, the next one is in {held / HOUR:.1f}"
            f" hours. The last one: {before.error}"
        )
    # An attempt counts before it is made: one that is killed must not be repeated at once.
    failing = after_failure(before, order, now, 0, "the helper was stopped")
    try:
        store.note(failing)
        store.sweep()
        say(f"{names}: ordering a certificate of {settings.directory}, as {due}")
        chain, key = _ordered(settings, store)
        store.install(chain, key, settings.directory)
    except FAULTS as fault:
        raise Failed(f"{names}: {_noted(store, before, failing, fault, now)}") from fault
    ends = acme_openssl.read(chain).ends
    say(f"{names}: a certificate for {(ends - now) / DAY:.1f} days is in place")


def _noted(store: Store, before: Attempts, failing: Attempts, fault: Exception, now: float) -> str:
    """Keep why an order has failed; return it with what happens next."""
    why = reason(fault)
    if isinstance(fault, _NotReached):
        # The authority was not asked, so it need not be spared.
        with contextlib.suppress(OSError):
            store.note(before)
        return f"{why}. The authority was not asked"
    if isinstance(fault, AcmeFailed):
        failing = after_failure(before, failing.order, now, fault.wait, why)
    with contextlib.suppress(OSError):
        store.note(replace(failing, error=why))
    return f"{why}. The next order is in {(failing.not_before - now) / HOUR:.1f} hours"


class _NotReached(AcmeFailed):
    """Envoy does not send challenges here."""


def _ordered(settings: Settings, store: Store) -> tuple[str, str]:
    """Return the chain and the private key of a new certificate."""
    answering = tls_responder if settings.challenge == TLS_ALPN else responder
    with answering(Path(settings.socket)) as answers:
        if settings.listens:
            _see_challenges_arrive(settings, settings.listens, answers)
        key = acme_openssl.new_key()
        request = acme_openssl.signing_request(key, settings.domains)

        def publish(domain: str, token: str, text: str) -> None:
            answers[domain if settings.challenge == TLS_ALPN else token] = text

        def obtained(*, new_account: bool) -> str:
            key_file = store.need_account_key(new=new_account)
            client = Client(settings.directory, key_file, settings.directory_ca)
            client.register(settings.email)
            return acme_order.obtain(client, settings.domains, request, settings.challenge, publish)

        try:
            chain = obtained(new_account=False)
        except AcmeFailed as failed:
            if failed.kind not in ACCOUNT_IS_GONE:
                raise
            chain = obtained(new_account=True)
    _check(chain, key, settings)
    return chain, key


def _check(chain: str, key: str, settings: Settings) -> None:
    """See that a chain is what was ordered, before Envoy gets it."""
    found = acme_openssl.read(chain)
    if found.public_key.split() != acme_openssl.public_key(key).split():
        raise AcmeFailed("the certificate that came is for another key")
    if found.names != {domain.lower() for domain in settings.domains}:
        raise AcmeFailed(f"the certificate that came is for {', '.join(sorted(found.names))}")


def _see_challenges_arrive(settings: Settings, listens: str, answers: dict[str, str]) -> None:
    """Wait until the edge's Envoy leads challenges here: an order would fail before that."""
    domain, text = settings.domains[0], secrets.token_urlsafe(16)
    address, _, port = listens.rpartition(":")
    place = (address, int(port))
    if settings.challenge == TLS_ALPN:
        probe, asked = domain, functools.partial(_shown, place, domain)
    else:
        probe = f"probe-{secrets.token_urlsafe(16)}"
        asked = functools.partial(_answered, place, domain, PREFIX + probe)
    answers[probe] = text
    deadline = time.monotonic() + _ENVOY_SECONDS
    while (fault := asked(text)) is not None:
        if time.monotonic() > deadline:
            raise _NotReached(f"Envoy at {listens} does not lead challenges here: {fault}")
        time.sleep(0.5)
    del answers[probe]


def _answered(place: tuple[str, int], domain: str, path: str, text: str) -> str | None:
    """Return why `path` of the edge does not answer with `text`, None if it does."""
    connection = http.client.HTTPConnection(*place, timeout=5)
    try:
        connection.request("GET", path, headers={"Host": domain})
        response = connection.getresponse()
        body = response.read(200).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return reason(error)
    finally:
        connection.close()
    return None if body == text else f"status {response.status}"


def _shown(place: tuple[str, int], domain: str, text: str) -> str | None:
    """Return why the edge does not show the certificate that proves `text`, None if it does."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([PROTOCOL])
    try:
        with (
            socket.create_connection(place, timeout=5) as plain,
            context.wrap_socket(plain, server_hostname=domain) as connection,
        ):
            shown = connection.getpeercert(binary_form=True) or b""
    except OSError as error:
        return reason(error)
    proves = hashlib.sha256(text.encode()).digest() in shown
    return None if proves else "it shows another certificate"
