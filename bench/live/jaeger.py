"""Asking Jaeger what it stored."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Collection, Mapping

from bench.live.waiting import until
from bench.live.web import request
from vmesh.traces.span import Span, parse

# A proxy sends its spans at least once a second.
SETTLE_SECONDS = 3.0


class Jaeger:
    """The query API that Jaeger's own web pages use."""

    def __init__(self, base: str) -> None:
        self.base = base

    def spans(self, trace_id: str) -> list[Span]:
        """Return the stored spans of a trace; [] when Jaeger knows none."""
        reply = request(self.base, f"/api/traces/{trace_id}")
        if reply.status == http.client.NOT_FOUND:
            return []
        assert reply.status == http.client.OK, f"Jaeger answers {reply.status}: {reply.body[:300]}"
        return parse(json.loads(reply.body))

    def services(self, timeout: float = 60.0) -> set[str]:
        """Return the names of the services that have spans; an error when Jaeger is away."""
        reply = request(self.base, "/api/services", timeout=timeout)
        assert reply.status == http.client.OK, f"Jaeger answers {reply.status}"
        return set(json.loads(reply.body)["data"] or [])

    def settled(self, sizes: Mapping[str, int], seconds: float = 60.0) -> dict[str, list[Span]]:
        """Return the spans of the traces `sizes` once each has at least so many.

        Waits for what is still on its way, then a little more, for what should not come.
        """
        missing = self._smaller(sizes, sizes)
        deadline = time.monotonic() + seconds
        while missing and time.monotonic() < deadline:
            time.sleep(1.0)
            missing = self._smaller(missing, sizes)
        time.sleep(SETTLE_SECONDS)
        return {trace_id: self.spans(trace_id) for trace_id in sizes}

    def _smaller(self, ids: Collection[str], sizes: Mapping[str, int]) -> list[str]:
        return [trace_id for trace_id in ids if len(self.spans(trace_id)) < sizes[trace_id]]

    def stored(self, trace_id: str, spans: int, seconds: float = 60.0) -> list[Span]:
        """Wait until a trace has `spans` spans; return them."""

        def enough() -> list[Span]:
            found = self.spans(trace_id)
            assert len(found) >= spans, f"{len(found)} of {spans} spans"
            return found

        return until(f"trace {trace_id} in Jaeger", enough, seconds)
