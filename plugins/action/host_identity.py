"""Sends the sources of the host kit to a host that lacks them, for the module host_identity."""

from __future__ import annotations

from . import host_kit


class ActionModule(host_kit.ActionModule):
    """Runs the module host_identity; once more, with the sources, where the host lacks them."""

    MODULE = "vmesh.mesh.host_identity"
    _VALID_ARGS = frozenset({"name", "identities", "leaf_hours", "users", "service", "timer"})
