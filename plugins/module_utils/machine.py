# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""The host on which the code runs, as the operations on it take it: a folder in a test."""

from __future__ import annotations

import grp
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import systemd
from .envoy_apply import Proxy, installed_proxy
from .envoy_unit import LEAVING
from .releases import KIT_PATH

# Has proxies serve with the binary and bootstrap that are there now; a command of the host kit.
RENEW = ("envoy-control", "renew")
# Starts a program of the host kit, whose name follows; the module host_kit installs the kit.
KIT = ("/usr/bin/python3", KIT_PATH)


@dataclass(frozen=True)
class Machine:
    """The host.

    root: of its files; run: how commands are run
    proxy: takes the name of a proxy and the group of its files; raises KeyError without that group
    renew: command that renews the processes of the proxies whose names it is given
    leaving: has a file for each unit that has left the mesh and only finishes its requests
    kit: command that starts a program of the host kit
    """

    root: Path
    run: systemd.Run
    proxy: Callable[[str, str], Proxy]
    renew: Sequence[str] = RENEW
    leaving: Path = LEAVING
    kit: Sequence[str] = KIT

    def systemctl(self, *arguments: str) -> None:
        """Run systemctl; raises systemd.CommandFailed with what it says."""
        systemd.systemctl(*arguments, run=self.run)

    def admin_socket(self, proxy: str) -> str:
        """Return the path of the unix socket of a proxy's admin interface."""
        return str(self.root / "run/envoy" / proxy / "admin.sock")


def this_host(timeout: float) -> Machine:
    """Return the host on which this runs; `timeout` is how long an Envoy may take for each step."""

    def proxy(name: str, group: str) -> Proxy:
        return installed_proxy(name, grp.getgrnam(group).gr_gid, timeout)

    return Machine(Path("/"), systemd.run, proxy)
