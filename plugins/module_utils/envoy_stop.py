# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""An Envoy that is to end serves what it has begun and sends its last spans, which SIGTERM loses.

Envoy keeps spans until there are enough of them or a timer fires, and drops what it has when it
ends (Tracer in its source/extensions/tracers/opentelemetry/tracer.cc).
"""

from __future__ import annotations

import time

from .envoy_admin import Admin
from .envoy_process import Settings
from .systemd import wait_until
from .unix_http import FAULTS

# What is under way gets as long as an answer of an edge may take by default.
UNDER_WAY_SECONDS = 15
# How late a timer may be, and how long spans are on their way.
MARGIN_SECONDS = 0.2
# No collector may take longer to answer (`timeout` in files/envoy/tracing.j2).
EXPORT_SECONDS = 5
PAUSE_SECONDS = 0.1


def last_spans_seconds(admin: Admin) -> float:
    """Return how long after its last request an Envoy has sent all spans.

    For one that does not answer, that is what Envoy does by default.
    """
    try:
        return admin.flush_seconds() + MARGIN_SECONDS
    except (ValueError, *FAULTS):
        return Admin.DEFAULT_FLUSH_SECONDS + MARGIN_SECONDS


def stop(settings: Settings) -> None:
    """Take no more clients, serve those that are there, and wait until their spans are sent.

    SIGTERM loses nothing then but requests that take longer than UNDER_WAY_SECONDS. Returns at once
    where no Envoy answers: one that was killed has nothing to send.
    """
    admin = settings.admin
    try:
        # Connections close with their next answer. Apps still reach their upstreams, as requests
        # that are under way may need them.
        admin.post("/drain_listeners?graceful&skip_exit&inboundonly")
        admin.post("/drain_listeners?inboundonly")
        _wait_until_quiet(admin, last_spans_seconds(admin), UNDER_WAY_SECONDS)
        wait_until(lambda: admin.upstream_active() == 0, EXPORT_SECONDS, PAUSE_SECONDS)
    except (ValueError, *FAULTS):
        return


def _wait_until_quiet(admin: Admin, quiet: float, at_most: float) -> None:
    """Wait until there was no request for `quiet` seconds, or `at_most` and these have passed."""
    began = since = time.monotonic()
    was_busy, seen = True, 0
    while (now := time.monotonic()) < began + at_most + quiet:
        under_way, total = admin.served()
        # What was under way at the look before may have ended just now.
        if was_busy or total != seen:
            since = now
        elif now >= since + quiet:
            return
        was_busy, seen = under_way > 0, total
        time.sleep(PAUSE_SECONDS)
