"""The spans in Jaeger's answer to a question for a trace."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vmesh.compile.cluster_views import LOCAL_APP

# What the libraries of OpenTelemetry and older ones of Jaeger call the machine. Addresses do not
# tell machines apart: the lab's VMs have one in common.
_MACHINE_TAGS = ("host.id", "host.name", "hostname")


@dataclass(frozen=True)
class Span:
    """One span as Jaeger stored it; times in microseconds since the epoch.

    host: the inventory's name of the host, which the mesh's own Envoys tell; None of others
    machine: what the process calls its machine, if it does
    process: all that Jaeger knows of the process, replicas of a service may have it in common
    to_own_app: it is the span of an Envoy that passed the request to the app on its own host
    """

    trace_id: str
    span_id: str
    parent_id: str | None
    service: str
    operation: str
    start: int
    duration: int
    kind: str = ""
    error: bool = False
    host: str | None = None
    machine: str | None = None
    process: str = ""
    to_own_app: bool = False

    @property
    def end(self) -> int:
        return self.start + self.duration


def parse(answer: dict[str, Any]) -> list[Span]:
    """Return the spans in an answer of Jaeger's `/api/traces/<id>`; [] when it holds none."""
    spans = []
    for trace in answer.get("data") or []:
        processes = trace.get("processes") or {}
        for raw in trace.get("spans") or []:
            tags = {tag["key"]: tag.get("value") for tag in raw.get("tags") or []}
            process = raw.get("process") or processes.get(raw.get("processID"), {})
            about = {tag["key"]: tag.get("value") for tag in process.get("tags") or []}
            spans.append(
                Span(
                    trace_id=raw["traceID"],
                    span_id=raw["spanID"],
                    parent_id=_parent(raw),
                    service=process.get("serviceName", "?"),
                    operation=raw.get("operationName", "?"),
                    start=int(raw["startTime"]),
                    duration=int(raw["duration"]),
                    kind=str(tags.get("span.kind", "")),
                    error=tags.get("error") in (True, "true"),
                    host=_host(tags),
                    machine=next((str(about[key]) for key in _MACHINE_TAGS if key in about), None),
                    process=json.dumps([process.get("serviceName"), about], sort_keys=True),
                    to_own_app=tags.get("upstream_cluster.name") == LOCAL_APP,
                )
            )
    return spans


def _host(tags: Mapping[str, Any]) -> str | None:
    """Return the host in Envoy's node id, which is `<proxy>@<host>`."""
    return str(tags.get("node_id", "")).partition("@")[2] or None


def _parent(raw: dict[str, Any]) -> str | None:
    for reference in raw.get("references") or []:
        if reference.get("refType") == "CHILD_OF" and reference.get("traceID") == raw["traceID"]:
            return str(reference["spanID"])
    return raw.get("parentSpanID") or None


def whole(spans: Sequence[Span]) -> bool:
    """Tell whether there is a root and every other span's parent is among `spans`."""
    known = {span.span_id for span in spans}
    roots = [span for span in spans if span.parent_id is None]
    return bool(roots) and all(s.parent_id is None or s.parent_id in known for s in spans)
