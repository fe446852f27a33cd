"""The headers that carry a trace from one service to the next."""

from __future__ import annotations

from collections.abc import Iterable

TRACE_HEADERS = frozenset(
    {
        "x-request-id",
        "x-b3-traceid",
        "x-b3-spanid",
        "x-b3-parentspanid",
        "x-b3-sampled",
        "x-b3-flags",
        "b3",
        "x-ot-span-context",
        "traceparent",
        "tracestate",
    }
)


def trace_headers(incoming: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Pick the headers that must go along with every call made for a request.

    Takes the request's headers as pairs, such as `flask.request.headers.items()`.
    Returns those that carry the trace, with unchanged values; a header the
    request does not have is not made up, since half a trace context is worse than none.
    """
    return {name.lower(): value for name, value in incoming if name.lower() in TRACE_HEADERS}
