# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""The ssh connection by which a process was started, as the host sees it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

# Python, a shell, sudo and another shell are between a module and the login; some more may be.
_MOST_PARENTS = 16


@dataclass(frozen=True)
class Session:
    """A connection: the client's address and port, and the port of the host's sshd."""

    address: str
    client_port: int
    port: int

    def words(self) -> str:
        """Return what is different for another connection."""
        return f"{self.address} {self.client_port} {self.port}"


def session(proc: Path = Path("/proc"), pid: int | None = None) -> Session | None:
    """Return the connection by which the process `pid` was started, None without one.

    sudo takes SSH_CONNECTION from the environment, so this looks at the parents', too. Which
    process is a parent is in stat of proc(5), after the command in parentheses.
    """
    number = os.getpid() if pid is None else pid
    for _ in range(_MOST_PARENTS):
        try:
            variables = (proc / str(number) / "environ").read_bytes().split(b"\0")
            stat = (proc / str(number) / "stat").read_text(errors="replace")
        except OSError:
            return None
        for each in variables:
            name, _, value = each.decode(errors="replace").partition("=")
            words = value.split()
            # Address and port of the client, then of the server:
            # https://man.openbsd.org/ssh#SSH_CONNECTION
            if name == "SSH_CONNECTION" and len(words) == 4:
                # A link-local address of IPv6 has the interface after a %.
                return Session(words[0].partition("%")[0], int(words[1]), int(words[3]))
        number = int(stat.rpartition(")")[2].split()[1])
        if number <= 1:
            return None
    return None
