"""How the proxies of a mesh speak with each other at one time.

A run takes a mesh from one plan to the next in stages; `target` is the last one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

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
    still: service -> (host, proxy) of callers that the inventory has no more, and that are let in
    """

    anchors: Mapping[str, str] = field(default_factory=dict)
    accept: Mapping[str, str] = field(default_factory=dict)
    speak: Mapping[str, str] = field(default_factory=dict)
    still: Mapping[str, Collection[tuple[str, str]]] = field(default_factory=dict)


def target(mesh: Mesh, anchors: Mapping[str, str]) -> SecurityPlan:
    """Return how a mesh speaks when a run has brought it to its mode."""
    accept, speak = GOALS[mesh.security.mtls]
    return SecurityPlan(
        anchors, dict.fromkeys(mesh.services, accept), dict.fromkeys(mesh.services, speak)
    )
