"""The views of an edge whose certificate comes from an authority by ACME.

The authority asks any host of the edge for the answer that the helper of one host has
(https://www.rfc-editor.org/rfc/rfc8555#section-8.3). So a host looks at its own helper and at the
other hosts, and these look at their own helpers alone, under another path: nothing goes in circles.
"""

from __future__ import annotations

from collections.abc import Sequence

from vmesh.compile.cluster_views import APP_IDLE, cluster, endpoint
from vmesh.compile.host_spec import View
from vmesh.compile.route_views import forward
from vmesh.model.types import Acme

# Names that no service can have, as those in cluster_views.
ANYWHERE, HERE = "acme_challenges", "acme_helper"
HTTP, TLS_ALPN = "http-01", "tls-alpn-01"
CHALLENGES = "/.well-known/acme-challenge/"
CHALLENGES_HERE = "/.well-known/vmesh-acme-challenge/"

# Nobody waits longer for an answer of some bytes.
_TIMEOUT = 10.0


def settings(proxy: str, acme: Acme, challenge: str, listens: str | None) -> View:
    """Return what the helper is told: acme_store.Settings in the host kit, but for the text of
    `directory_ca_file`.

    challenge: HTTP or TLS_ALPN
    listens: where the edge answers challenges on this host, None where the helper cannot ask there
    """
    return {
        "email": acme.email,
        "domains": list(acme.domains),
        "directory": acme.directory,
        "directory_ca_file": acme.directory_ca_file,
        "challenge": challenge,
        "certificate": certificate(proxy),
        "socket": _socket(proxy),
        "listens": listens,
    }


def certificate(proxy: str) -> str:
    """Return the SDS file that the helper of an edge writes."""
    return f"/var/lib/vmesh-acme/{proxy}/certificate/certificate.json"


def _socket(proxy: str) -> str:
    """Return the unix socket where the helper of an edge answers, while it has an order."""
    return f"/run/vmesh-acme/{proxy}/challenges.sock"


def clusters(proxy: str, others: Sequence[tuple[str, int]]) -> list[View]:
    """Return where challenges go; `others` are where the edge's other hosts answer them."""
    here: View = {"pipe": _socket(proxy)}
    found = [cluster(HERE, [here], idle_timeout=APP_IDLE)]
    if others:
        everywhere = [here, *(endpoint(address, port) for address, port in others)]
        found.append(cluster(ANYWHERE, everywhere, idle_timeout=APP_IDLE))
    return found


def routes(others: int) -> list[View]:
    """Return the routes of challenges on an edge with so many other hosts."""
    if not others:
        return [_route(CHALLENGES, HERE)]
    anywhere = {
        **_route(CHALLENGES, ANYWHERE),
        "rewrite": {"prefix": CHALLENGES_HERE},
        # A host whose helper has another challenge answers 404, one without an order 503.
        "retry": {
            "on": "connect-failure,reset,retriable-status-codes",
            "statuses": [404, 503],
            "attempts": others,
            "per_try_timeout": None,
        },
    }
    return [_route(CHALLENGES_HERE, HERE), anywhere]


def _route(prefix: str, to: str) -> View:
    match = {"prefix": prefix, "headers": [{"name": ":method", "exact": "GET"}]}
    return forward(to, "acme", match=match, timeout=_TIMEOUT)
