"""How the proxies of a mesh speak with each other at one time.

A run takes a mesh from one plan to the next in stages; `target` is the last one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from vmesh.compile.cluster_views import COLLECTOR
from vmesh.compile.host_spec import JAEGER, View
from vmesh.model.access_types import OFF, PERMISSIVE, STRICT
from vmesh.model.types import Mesh

PLAINTEXT, MTLS, BOTH = "plaintext", "mtls", "both"
# What a service accepts in a mode, and what is spoken to it.
GOALS = {OFF: (PLAINTEXT, PLAINTEXT), PERMISSIVE: (BOTH, MTLS), STRICT: (MTLS, MTLS)}


@dataclass(frozen=True)
class SecurityPlan:
    """What is accepted and what is spoken; a service that is not named has plaintext.

    anchors: host -> its anchor (PEM), of the hosts whose anchor is known
    accept: service -> PLAINTEXT, MTLS or BOTH
    speak: service -> PLAINTEXT or MTLS, as its callers speak to it
    JAEGER counts as a service that all proxies call.
    still: service -> (host, proxy) of callers that the inventory has no more, and that are let in
    """

    anchors: Mapping[str, str] = field(default_factory=dict)
    accept: Mapping[str, str] = field(default_factory=dict)
    speak: Mapping[str, str] = field(default_factory=dict)
    still: Mapping[str, Collection[tuple[str, str]]] = field(default_factory=dict)


def target(mesh: Mesh, anchors: Mapping[str, str]) -> SecurityPlan:
    """Return how a mesh speaks when a run has brought it to its mode."""
    accept, speak = GOALS[mesh.security.mtls]
    called = callees(mesh)
    return SecurityPlan(anchors, dict.fromkeys(called, accept), dict.fromkeys(called, speak))


def callees(mesh: Mesh) -> list[str]:
    """Return all that proxies call inside the mesh: the services, and its own Jaeger."""
    return [*mesh.services, *([] if mesh.tracing.group is None else [JAEGER])]


def callee(cluster: View) -> str | None:
    """Return which of the `callees` a cluster leads to; None for any other cluster."""
    if cluster["type"] != "eds":
        return None
    if cluster["name"] == COLLECTOR:
        return JAEGER
    # A service's name is a DNS label; the mesh's own clusters have another.
    return None if "_" in cluster["name"] else str(cluster["name"])


def is_guarded(plan: SecurityPlan) -> bool:
    """Tell whether an Envoy stands before Jaeger: wherever it is to accept mTLS."""
    return plan.accept.get(JAEGER, PLAINTEXT) != PLAINTEXT
