"""The inventory as plain data: the one thing that compile reads."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmesh.problems import Problem, Problems

# Host variables that vmesh reads; everything else in an inventory is the user's own.
PREFIXES = ("mesh_", "lab_", "jaeger_", "ansible_ssh_")
CONNECTION = ("ansible_connection", "ansible_host", "ansible_port", "ansible_user")


@dataclass(frozen=True)
class Inventory:
    """Groups, each host's variables, and the mesh_* variables that all hosts share."""

    source: Path
    groups: dict[str, tuple[str, ...]]
    hosts: dict[str, dict[str, Any]]
    mesh: dict[str, Any]


def plain(value: Any) -> Any:
    """Return `value` as builtin types: Ansible 2.19 hands out tagged subclasses of them."""
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    for builtin in (int, float):
        if isinstance(value, builtin):
            return builtin(value)
    return str(value).encode().decode()


def _wanted(variables: Mapping[str, Any]) -> list[str]:
    return [n for n in variables if n.startswith(PREFIXES) or n in CONNECTION]


def from_hostvars(
    source: Path, groups: Mapping[str, Any], hostvars: Mapping[str, Mapping[str, Any]]
) -> Inventory:
    """Return the Inventory of `hostvars` (host -> its resolved variables).

    Gathered facts are not among what it takes: compile must give the same for a host that
    cannot be reached.
    """
    hosts = {
        host: {name: plain(variables[name]) for name in _wanted(variables)}
        for host, variables in sorted(hostvars.items())
    }
    mesh: dict[str, Any] = {}
    for variables in hosts.values():
        for name, value in variables.items():
            if name.startswith("mesh_") and name != "mesh_address":
                mesh.setdefault(name, value)
    return Inventory(
        source=source,
        groups={name: tuple(members) for name, members in plain(dict(groups)).items()},
        hosts=hosts,
        mesh=mesh,
    )


@functools.cache
def _vault_secrets() -> Any:
    """Prepare Ansible's library, which it allows once in a process; return the vault's secrets."""
    from ansible import constants  # noqa: PLC0415
    from ansible.cli import CLI  # noqa: PLC0415
    from ansible.parsing.dataloader import DataLoader  # noqa: PLC0415
    from ansible.plugins.loader import init_plugin_loader  # noqa: PLC0415

    init_plugin_loader()
    return CLI.setup_vault_secrets(
        DataLoader(), vault_ids=constants.DEFAULT_VAULT_IDENTITY_LIST, auto_prompt=False
    )


def load(path: Path) -> Inventory:
    """Read the inventory at `path` (a folder or file) with Ansible's own loader.

    Raises Problems when there is no host in it or a variable cannot be resolved.
    """
    # Ansible takes half a second to import; commands that need no inventory do without.
    from ansible.errors import AnsibleError  # noqa: PLC0415
    from ansible.inventory.manager import InventoryManager  # noqa: PLC0415
    from ansible.parsing.dataloader import DataLoader  # noqa: PLC0415
    from ansible.template import Templar  # noqa: PLC0415
    from ansible.vars.manager import VariableManager  # noqa: PLC0415

    if not path.exists():
        raise Problems(
            [Problem("inventory", str(path), "does not exist", "Name a file or folder with -i")]
        )
    try:
        loader = DataLoader()
        loader.set_vault_secrets(_vault_secrets())
        manager = InventoryManager(loader=loader, sources=[str(path.resolve())])
        variables = VariableManager(loader=loader, inventory=manager)
    except AnsibleError as error:
        raise Problems(
            [Problem("inventory", str(path), f"cannot be read: {error}", "Mend the file")]
        ) from error

    problems: list[Problem] = []
    hostvars: dict[str, dict[str, Any]] = {}
    for host in manager.get_hosts():
        raw = variables.get_vars(host=host)
        templar = Templar(loader=loader, variables=raw)
        resolved: dict[str, Any] = {}
        for name in _wanted(raw):
            try:
                resolved[name] = templar.template(raw[name])
            except AnsibleError as error:
                problems.append(
                    Problem(f"{host.name}: {name}", str(raw[name]), str(error), "Mend the value")
                )
        hostvars[host.name] = resolved
    if not hostvars:
        problems.append(
            Problem("inventory", str(path), "has no host", "Name a folder with a hosts.yml in it")
        )
    if problems:
        raise Problems(problems)
    return from_hostvars(path, manager.get_groups_dict(), hostvars)
