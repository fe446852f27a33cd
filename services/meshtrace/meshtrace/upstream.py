"""Calls to another service, through this service's own Envoy."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from http.cookiejar import DefaultCookiePolicy

import requests
from requests.adapters import HTTPAdapter

from meshtrace.answers import UpstreamFailed, UpstreamTimedOut

# To the Envoy on the same machine: either it accepts at once or it is not there.
CONNECT_TIMEOUT_SECONDS = 1.0


def _session(pool_size: int) -> requests.Session:
    """Return a session that adds nothing of its own to a call."""
    session = requests.Session()
    # Proxy variables and ~/.netrc have no say in the mesh, and looking them up costs
    # half a millisecond a call.
    session.trust_env = False
    # The session serves many users' requests: a cookie answered to one is nobody else's.
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.mount("http://", HTTPAdapter(pool_connections=1, pool_maxsize=pool_size))
    return session


class Upstream:
    """One service that this one calls."""

    def __init__(self, name: str, url: str, *, timeout_seconds: float, pool_size: int = 8) -> None:
        """Take the service's name (for messages), its address as given to this app, the
        longest silence to wait through, and how many connections to keep open.
        """
        self.name = name
        self._url = url.rstrip("/")
        self._timeout = (CONNECT_TIMEOUT_SECONDS, timeout_seconds)
        self._pool_size = pool_size
        self._session = _session(pool_size)
        # With `app.preload` gunicorn imports the app before it forks: no two workers may share a
        # connection.
        os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._session = _session(self._pool_size)

    def get(self, path: str, headers: Mapping[str, str]) -> requests.Response:
        """GET a path with exactly these headers beside those HTTP needs.

        Returns the response, whatever its status below 500.
        Raises UpstreamTimedOut when it is too slow (or the Envoy on the way says so, 504)
        and UpstreamFailed when it cannot be reached or answers with another 5xx.
        """
        call = requests.Request("GET", f"{self._url}{path}", headers=dict(headers)).prepare()
        started = time.monotonic()
        try:
            response = self._session.send(
                call, timeout=self._timeout, allow_redirects=False, proxies={}
            )
        except requests.Timeout as error:
            waited = time.monotonic() - started
            raise UpstreamTimedOut(f"{self.name} did not answer within {waited:.1f} s") from error
        except requests.RequestException as error:
            raise UpstreamFailed(f"{self.name} cannot be reached") from error
        if response.status_code == requests.codes.gateway_timeout:
            raise UpstreamTimedOut(f"{self.name} did not answer in time")
        if response.status_code >= requests.codes.internal_server_error:
            raise UpstreamFailed(f"{self.name} failed with status {response.status_code}")
        return response
