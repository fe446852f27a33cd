"""The inventory as plain data: the one thing that compile reads."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vmesh.base import paths
from vmesh.base.problems import Problem, Problems, without
from vmesh.model.ansible_values import plain
from vmesh.model.inventory_problems import remedy, why
from vmesh.model.inventory_reader import Reader

# The VMs in it are vmesh's own, on this machine.
LAB_GROUP = "lab"


@dataclass(frozen=True)
class Inventory:
    """Groups, each host's own variables, and the mesh_* variables that all hosts share.

    `hidden` tells which texts of `mesh` do not stand in the inventory in plain text, as they
    come from Ansible Vault or from a template. Each is the path to it, as in ("mesh_services",
    "shop", "app", "environment", "PASSWORD"); a place in a list is its number, as a text.

    `secrets` are the texts, of `mesh` and of the hosts' variables, that are known to come from
    Ansible Vault, inline or in an encrypted file, also by way of a template that is nothing but
    the variable's name.

    `environments` are those of apps by host and service, where a template gives a host another one
    than `mesh` has, which is that of the service's first host.

    `lacking` tells which hosts have something of `mesh`, but not all: variable -> a host that has
    it, and those that do not.
    """

    source: Path
    groups: dict[str, tuple[str, ...]]
    hosts: dict[str, dict[str, Any]]
    mesh: dict[str, Any]
    hidden: frozenset[tuple[str, ...]] = frozenset()
    secrets: frozenset[str] = frozenset()
    environments: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    lacking: Mapping[str, tuple[str, frozenset[str]]] = field(default_factory=dict)

    @property
    def lab(self) -> tuple[str, ...]:
        """The hosts that are the lab's VMs; none where others provide the hosts."""
        return self.groups.get(LAB_GROUP, ())


def from_hostvars(
    source: Path, groups: Mapping[str, Any], hostvars: Mapping[str, Mapping[str, Any]]
) -> Inventory:
    """Return the Inventory of `hostvars` (host -> its variables), as Ansible hands them out.

    Gathered facts are not among what it takes: compile must give the same for a host that
    cannot be reached. Of what all hosts share, only templates are resolved for each of them, so
    this takes time in proportion to the hosts, and no host a copy of the model.
    Raises Problems when a variable cannot be resolved, or hosts disagree on a shared one.
    """
    reader = Reader(groups, hostvars)
    hosts = {plain(host): reader.host(host) for host in sorted(hostvars)}
    mesh, hidden = reader.mesh()
    if reader.problems:
        raise Problems(without(problem, reader.secrets) for problem in reader.problems)
    return Inventory(
        source=source,
        groups={name: tuple(members) for name, members in plain(dict(groups)).items()},
        hosts=hosts,
        mesh=mesh,
        hidden=hidden,
        secrets=frozenset(reader.secrets - {""}),
        environments=reader.own_environments(mesh),
        lacking=reader.lacking(),
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


def load(*sources: Path) -> Inventory:
    """Read the inventory made of `sources` with Ansible's own loader: folders, files, host lists.

    Of what several say, the last one's counts, as for Ansible.
    Raises Problems when it cannot be read or has no host, and as from_hostvars does.
    """
    # Ansible takes half a second to import; commands that need no inventory do without.
    from ansible.cli import CLI  # noqa: PLC0415
    from ansible.errors import AnsibleError  # noqa: PLC0415
    from ansible.inventory.manager import InventoryManager  # noqa: PLC0415
    from ansible.parsing.dataloader import DataLoader  # noqa: PLC0415
    from ansible.vars.hostvars import HostVars  # noqa: PLC0415
    from ansible.vars.manager import VariableManager  # noqa: PLC0415

    missing = [each for each in sources if not each.exists() and not paths.is_host_list(each)]
    if missing:
        raise Problems(
            Problem("inventory", str(each), "does not exist", "Name a file or folder with -i")
            for each in missing
        )
    told = ", ".join(map(str, sources))
    try:
        loader = DataLoader()
        loader.set_vault_secrets(_vault_secrets())
        # What stands in group_vars beside site.yml counts wherever the command is run.
        loader.set_basedir(str(paths.playbook_folder()))
        manager = InventoryManager(
            loader=loader,
            sources=[str(each if paths.is_host_list(each) else each.resolve()) for each in sources],
        )
        variables = VariableManager(
            loader=loader, inventory=manager, version_info=CLI.version_info(gitinfo=False)
        )
        hostvars = HostVars(inventory=manager, variable_manager=variables, loader=loader)
        if not hostvars:
            raise Problems(
                [
                    Problem(
                        "inventory",
                        told,
                        "has no host",
                        "Name a folder with a hosts.yml in it; if there is one, Ansible's warnings"
                        " say what is wrong with it",
                    )
                ]
            )
        return from_hostvars(sources[-1], manager.get_groups_dict(), hostvars)
    except AnsibleError as error:
        raise Problems(
            [Problem("inventory", told, f"cannot be read: {why(error)}", remedy(error, None))]
        ) from error
