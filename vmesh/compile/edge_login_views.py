"""The views of an edge's logins: who gets through a route, and what the app is told of them."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from vmesh.base.formats import without_dot
from vmesh.compile import cluster_views
from vmesh.compile.edge_tls_views import HTTPS_PORT
from vmesh.compile.host_spec import View
from vmesh.model.types import Address, Edge, Jwt, Tls

# Tells the app who has logged in.
USER_HEADER = "x-user"

# Every how many seconds an Envoy fetches an issuer's keys. An issuer publishes a new key long
# before it signs with it; a key that it takes back counts for that long at most.
REFRESH = 300
# For how many seconds a request waits for the keys of an issuer that has told none yet.
FETCH_TIMEOUT = 5


def host_filters(edge: Edge) -> View:
    """Return what each virtual host of `edge` has: no client says by itself who it is."""
    proves = edge.users or edge.external_authorization or edge.jwt
    told = {header for issuer in edge.jwt.values() for header in issuer.claims.values()}
    return {"identity_headers": sorted({USER_HEADER, *told})} if proves else {}


def jwt(edge: Edge) -> View:
    """Return the issuers of tokens by name.

    Each has `jwks_file`, a path on the controller, or `jwks_url`, which is asked by way of
    `cluster` every `refresh` seconds, for `timeout` seconds at most.
    """
    return {
        name: {
            "issuer": each.issuer,
            "audiences": list(each.audiences),
            **_keys(name, each),
            "claims": dict(sorted(each.claims.items())),
        }
        for name, each in sorted(edge.jwt.items())
    }


def _keys(name: str, issuer: Jwt) -> View:
    """Return where the keys of the issuer `name` are."""
    if issuer.jwks_url is None:
        return {"jwks_file": issuer.jwks_file}
    cluster = cluster_views.keys_of(name)
    asked = {"cluster": cluster, "refresh": REFRESH, "timeout": FETCH_TIMEOUT}
    return {"jwks_url": issuer.jwks_url, **asked}


def clusters(edge: Edge) -> list[View]:
    """Return the clusters of the servers from which keys of issuers are fetched."""
    return [
        cluster_views.outside(
            cluster_views.keys_of(name),
            _server(each.jwks_url, each.jwks_ca_file),
            None,
            cluster_views.keys_headers(),
        )
        for name, each in sorted(edge.jwt.items())
        if each.jwks_url is not None
    ]


def _server(url: str, ca_file: str | None) -> Address:
    """Return the server of a URL with https."""
    parts = urlsplit(url)
    assert parts.hostname is not None, "the schema refuses URLs without a host"
    host = without_dot(parts.hostname)
    return Address(host, parts.port or HTTPS_PORT, Tls(None, verify=True, ca_file=ca_file))


def route_filters(edge: Edge, require: Any) -> View:
    """Return the filter of a route with this `require`, in the form of the schema.

    None and the text none let everybody through.
    """
    if not isinstance(require, dict):
        return {}
    if require["jwt"] is not None:
        return {"jwt": {"issuer": require["jwt"]}}
    if require["external"] is not None:
        asked = edge.external_authorization[require["external"]]
        return {
            "authorization": {
                "cluster": asked.to,
                "path": asked.path,
                "timeout": asked.timeout,
                "forward": list(asked.forward),
            }
        }
    group = require["users"]
    # https://httpd.apache.org/docs/2.4/programs/htpasswd.html
    lines = [f"{name}:{digest}" for name, digest in sorted(edge.users[group].items())]
    return {"login": {"group": group, "htpasswd": "\n".join(lines)}}
