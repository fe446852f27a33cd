"""Where vmesh keeps things. Every path that is not a user's choice is written here, once."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
# Only the wheel has this folder: pyproject.toml copies there what stands beside the package in a
# checkout.
_SHIPPED = _PACKAGE / "_data"

# The checkout that this code runs in; None where the package is installed without one.
CHECKOUT = None if _SHIPPED.is_dir() else _PACKAGE.parent

# The product's own files, which are only read: templates, pins, Ansible's settings.
DATA = CHECKOUT or _SHIPPED

# The product's roles, plugins and playbooks: the collection vmesh.mesh.
COLLECTION = DATA / "collections" / "ansible_collections" / "vmesh" / "mesh"

# The user's folder: inventories, the folders of services, and what is written for the user (build/,
# applied/, test-results/). Relative paths in an inventory begin here.
PROJECT = CHECKOUT or Path.cwd()

# What a user types to run vmesh.
COMMAND = "./mesh" if CHECKOUT else "vmesh"


def playbook(name: str) -> str:
    """Return what ansible-playbook, run in PROJECT, calls the product's playbook `name`.

    A checkout's site.yml is called by its place, as the group_vars beside it count.
    """
    if CHECKOUT is None:
        return f"vmesh.mesh.{name}"
    return "site.yml" if name == "site" else f"playbooks/{name}.yml"


def playbook_folder() -> Path:
    """Return the folder whose group_vars Ansible reads for the playbook `site`."""
    return CHECKOUT or COLLECTION / "playbooks"


def _xdg(variable: str, fallback: str) -> Path:
    """Return the XDG base directory named by `variable`, or `~/fallback`.

    The specification asks for relative values to be ignored:
    https://specifications.freedesktop.org/basedir-spec/latest/
    """
    value = os.environ.get(variable, "")
    return Path(value) if value.startswith("/") else Path.home() / fallback


def cache_dir() -> Path:
    """Things that can be made again: artifacts, VM images, booted states."""
    return _xdg("XDG_CACHE_HOME", ".cache") / "vmesh"


def state_dir() -> Path:
    """Things that belong to running labs: disks, pid files, monitor sockets."""
    return _xdg("XDG_STATE_HOME", ".local/state") / "vmesh"


def log_dir() -> Path:
    """The full output of long commands."""
    return state_dir() / "logs"


def lab_key() -> Path:
    """The private ssh key that opens this user's lab VMs (made on first use)."""
    return cache_dir() / "lab" / "id_ed25519"


def is_host_list(source: Path) -> bool:
    """Tell whether an inventory source is a list of hosts, as Ansible takes `web1,web2`."""
    return "," in str(source) and not source.exists()


def build_dir(inventory: Path) -> Path:
    """Where the rendered configuration of `inventory` goes: a folder, a file, a list of hosts."""
    if is_host_list(inventory):
        return PROJECT / "build" / "hosts"
    resolved = inventory.resolve()
    name = resolved.stem if resolved.is_file() else resolved.name
    return PROJECT / "build" / name
