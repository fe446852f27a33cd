"""What no record has: values from Ansible Vault, and values that look like secrets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vmesh.base.problems import LONG, hide
from vmesh.base.secret_patterns import may_be_secret
from vmesh.model.inventory import Inventory

# Keys of a view whose texts are names and addresses: a diff without them would say nothing.
_STRUCTURE = frozenset(
    {
        "name",
        "cluster",
        "collector",
        "service",
        "id",
        "zone",
        "address",
        "address_prefix",
        "direction",
        "type",
        "pipe",
        "kind",
        "user",
        "unit",
        "what",
        "socket",
        "socket_group",
        "load_balancing",
        "websocket",
        "export",
        "on",
    }
)


@dataclass(frozen=True)
class Secrets:
    """What of an inventory is not written down.

    values: texts that are hidden wherever they turn up
    environment: service -> names of the user's variables whose values are hidden
    kept: texts that the inventory keeps in Ansible Vault; no role's setting with one is shown
    """

    values: frozenset[str]
    environment: Mapping[str, frozenset[str]]
    kept: frozenset[str] = frozenset()

    @classmethod
    def of(cls, inventory: Inventory) -> Secrets:
        """Return the hidden texts of `inventory`, and what looks like a secret in plain text."""
        values = {
            text
            for way in inventory.hidden
            if isinstance(text := _at(inventory.mesh, way), str) and text
        }
        values |= _password_hashes(inventory.mesh.get("mesh_edges"))
        environment = {}
        services = inventory.mesh.get("mesh_services") or {}
        for service in services:
            way = ("mesh_services", str(service), "app", "environment")
            given = _at(inventory.mesh, way)
            names = set()
            for name, value in (given if isinstance(given, Mapping) else {}).items():
                if (*way, name) in inventory.hidden or may_be_secret(name, value):
                    names.add(name)
                    if len(str(value)) >= LONG:
                        values.add(str(value))
            # What a host has for itself comes from a template.
            own = (each.get(service, {}) for each in inventory.environments.values())
            environment[str(service)] = frozenset(names.union(*own))
        return cls(frozenset(values), environment, inventory.secrets)

    def masked(self, value: Any, key: str = "") -> Any:
        """Return `value` (of a view) with HIDDEN in place of what is hidden."""
        if isinstance(value, Mapping):
            return {name: self.masked(item, str(name)) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.masked(item, key) for item in value]
        if not isinstance(value, str) or key in _STRUCTURE:
            return value
        return hide(value, self.values)

    def settings(self, service: str, environment: Mapping[str, str]) -> dict[str, str | None]:
        """Return the environment of a service's app, with None for what is hidden."""
        hidden = self.environment.get(service, frozenset())
        return {
            name: None if name in hidden or self.masked(value) != value else value
            for name, value in environment.items()
        }


def _password_hashes(edges: Any) -> set[str]:
    """Return the hashes of the passwords of all users of edges, in plain text or not."""
    return {
        digest
        for edge in (edges or {}).values()
        for users in (edge.get("users") or {}).values()
        for digest in users.values()
    }


def _at(mesh: Any, way: Sequence[str]) -> Any:
    for step in way:
        if isinstance(mesh, Mapping):
            mesh = mesh.get(step)
        elif isinstance(mesh, list | tuple) and step.isdigit() and int(step) < len(mesh):
            mesh = mesh[int(step)]
        else:
            return None
    return mesh
