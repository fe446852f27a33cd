# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""Start, replace and renew the Envoy proxies of this host.

    envoy-control renew PROXY...   as root: bring proxies to the binary, the bootstrap and the
                                   unit that are on disk; start what is not running
    envoy-control start PROXY      ExecStart of envoy@PROXY: become Envoy, tell when it is ready
    envoy-control take-over PROXY  ExecReload of envoy@PROXY: let a new process take over, by a
                                   hot restart or, where that cannot be, beside the old one
    envoy-control stop PROXY       ExecStop of envoy@PROXY: let it serve what it has begun and send
                                   its last spans, before systemd ends it

Every message begins with `envoy-control: `. Exit status: 0 done, 1 failed, 2 wrong arguments.
The environment that a proxy's unit sets says with what it runs: ENVOY_CONCURRENCY (worker
threads), ENVOY_LOG_LEVEL, ENVOY_TIMEOUT and ENVOY_DRAIN_TIME_SECONDS.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from .envoy_process import Failure, Settings, say
from .envoy_renew import Systemd, renew_all
from .envoy_stop import stop
from .envoy_takeover import start, take_over

DONE, FAILED, USAGE = 0, 1, 2
ONE_PROXY = ("start", "take-over", "stop")


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says; return the exit status."""
    verb, names = "".join(arguments[:1]), list(arguments[1:])
    if verb in {"-h", "--help"}:
        print(__doc__)
        return DONE
    if not _is_command(verb, names):
        print(__doc__, file=sys.stderr)
        return USAGE
    # `systemctl stop` in the midst of a reload: what was begun is ended on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(FAILED))
    try:
        _do(verb, names)
    except Failure as failure:
        say(str(failure), *(f"  {line}" for line in failure.evidence))
        return FAILED
    return DONE


def _is_command(verb: str, names: Sequence[str]) -> bool:
    if any(name.startswith("-") for name in names):
        return False
    return bool(names) if verb == "renew" else verb in ONE_PROXY and len(names) == 1


def _do(verb: str, names: Sequence[str]) -> None:
    if verb == "renew":
        renew_all(names, Systemd(), lambda line: print(line, flush=True))
    elif verb == "start":
        start(Settings.of(names[0], os.environ))
    elif verb == "stop":
        stop(Settings.of(names[0], os.environ))
    else:
        take_over(Settings.of(names[0], os.environ), int(os.environ["MAINPID"]))
