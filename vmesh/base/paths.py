"""Where vmesh keeps things. Every path that is not a user's choice is written here, once."""

from __future__ import annotations

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


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
