"""The views of route tables: their parts, and the routes that do not depend on the user.

The routes that the user gives an edge are in `vmesh.compile.edge_route_views`.
"""

from __future__ import annotations

from collections.abc import Iterable

from vmesh.compile.cluster_views import ADMIN, LOCAL_APP
from vmesh.compile.host_spec import View
from vmesh.model.parse import policies
from vmesh.model.types import Policies, Service

# The admin pages that only tell and never change anything, nor show the configuration:
# https://www.envoyproxy.io/docs/envoy/latest/operations/admin
ADMIN_PAGES = (
    "/",
    "/ready",
    "/server_info",
    "/stats",
    "/stats/prometheus",
    "/clusters",
    "/listeners",
    "/memory",
    "/hot_restart_version",
)

EDGE_TIMEOUT = 15.0

# In these cases an upstream has not begun to process a request.
_NOTHING_BEGUN = ("connect-failure", "refused-stream", "reset-before-request")


def table(routes: list[View], *, tell_client: str | None = None) -> View:
    """Return a route table with one virtual host for whatever comes.

    tell_client: when the upstream is told the client's address: "always", "if_absent" (where no
    Envoy before has told it) or None for never
    """
    hosts = [virtual_host("all", ["*"], routes)]
    return {"tell_trace": False, "tell_client": tell_client, "virtual_hosts": hosts}


def virtual_host(
    name: str, domains: Iterable[str], routes: list[View], filters: View | None = None
) -> View:
    """Return a virtual host; `filters` hold for its routes where they say nothing themselves."""
    return {"name": name, "domains": list(domains), "filters": filters or {}, "routes": routes}


def forward(  # noqa: PLR0913 - each is a fact of its own
    cluster_name: str,
    operation: str,
    *,
    match: View | None = None,
    timeout: float | None = None,
    idle_timeout: float | None = None,
    call: Policies | None = None,
    rewrite: View | None = None,
) -> View:
    """Return a route to one cluster; without `timeout` it ends when the caller gives up."""
    return {
        "match": match or {"prefix": "/", "headers": []},
        "cluster": cluster_name,
        "operation": operation,
        "timeout": timeout,
        "idle_timeout": idle_timeout,
        "retry": retry(call),
        "request_body_buffer_limit": call and call.request_body_buffer_limit,
        "rewrite": rewrite,
        "mirror": None,
        "hash_on": hash_on([call]) if call else [],
        "websocket": False,
        "tracing": None,
        "filters": {},
    }


def retry(call: Policies | None) -> View | None:
    """Return what is sent again, None for nothing."""
    if call is None or not call.retries.attempts:
        return None
    return {
        "on": ",".join(call.retries.retry_on),
        "attempts": call.retries.attempts,
        "per_try_timeout": call.retries.per_try_timeout,
    }


def hash_on(calls: Iterable[Policies]) -> list[View]:
    """Return what decides the instance, for each of `calls` that balances by a hash."""
    found: list[View] = []
    for call in calls:
        if call.load_balancing == "ring_hash" and call.hash_on:
            said = call.hash_on
            view = (
                {"header": said["header"]}
                if said.get("header")
                else {"cookie": said["cookie"], "ttl": said["ttl"]}
            )
            if view not in found:
                found.append(view)
    return found


def ingress_routes(service: Service) -> list[View]:
    """Return what a service's own Envoy does with requests: all of them are the app's."""
    # No end of its own to a silent stream: the caller's Envoy has one. What an app that is just
    # being renewed cannot have begun to process is sent to it again.
    retry = {"on": ",".join(_NOTHING_BEGUN), "attempts": 2, "per_try_timeout": None}
    own = {
        **forward(LOCAL_APP, service.operation, idle_timeout=0.0),
        "retry": retry,
        "request_body_buffer_limit": policies(service.given).request_body_buffer_limit,
    }
    return [own]


def admin_routes() -> list[View]:
    """Return the routes of the read-only admin pages."""
    pages: list[View] = [
        {
            **forward(ADMIN, "admin", timeout=EDGE_TIMEOUT),
            "match": {"path": page, "headers": [{"name": ":method", "exact": "GET"}]},
        }
        for page in ADMIN_PAGES
    ]
    refusal = "Only GET of " + ", ".join(ADMIN_PAGES) + " is allowed here.\n"
    return [*pages, _answer({"prefix": "/", "headers": []}, {"status": 403, "body": refusal})]


def _answer(match: View, answer: View) -> View:
    return {"match": match, "answer": answer, "operation": None, "filters": {}, "tracing": None}
