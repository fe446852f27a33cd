"""The views of an edge's logins: who gets through a route, and what the app is told of them."""

from __future__ import annotations

from typing import Any

from vmesh.compile.host_spec import View
from vmesh.model.types import Edge

# Tells the app who has logged in.
USER_HEADER = "x-user"


def host_filters(edge: Edge) -> View:
    """Return what each virtual host of `edge` has: no client says by itself who it is."""
    proves = edge.users or edge.external_authorization or edge.jwt
    told = {header for issuer in edge.jwt.values() for header in issuer.claims.values()}
    return {"identity_headers": sorted({USER_HEADER, *told})} if proves else {}


def jwt(edge: Edge) -> View:
    """Return the issuers of tokens by name; `jwks_file` is a path on the controller."""
    return {
        name: {
            "issuer": each.issuer,
            "audiences": list(each.audiences),
            "jwks_file": each.jwks_file,
            "claims": dict(sorted(each.claims.items())),
        }
        for name, each in sorted(edge.jwt.items())
    }


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
