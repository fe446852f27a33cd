# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""Order and renew the certificates of this host's edges by ACME (RFC 8555).

    vmesh-acme renew EDGE          ExecStart of vmesh-acme@EDGE: order a certificate if one is due
    vmesh-acme retry EDGE...       as root: order now, whatever has failed before
    vmesh-acme show [--json] EDGE...  as root: tell which certificates there are, and what failed

A certificate is renewed when a third of its life is left. After a failure the authority is left
alone, for an hour at first and for a day in the end. By asking, the host agrees to the authority's
terms of service. Every message begins with `vmesh-acme: `. Exit status: 0 done or nothing to do,
1 failed or waiting after a failure, 2 wrong arguments.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .acme_openssl import OpensslFailed
from .acme_renew import DAY, Failed, renew
from .acme_store import Settings, Store, report
from .envoy_files import ACME
from .file_writing import reason

DONE, FAILED, USAGE = 0, 1, 2
FOLDER = Path("/etc/envoy")


def say(text: str) -> None:
    """Write a line to the journal, or to whoever runs the command."""
    print(f"vmesh-acme: {text}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str], folder: Path = FOLDER) -> int:
    """Do what the command line says; return the exit status. `folder` has one for each proxy."""
    verb, names = "".join(arguments[:1]), [each for each in arguments[1:] if each != "--json"]
    if verb in {"-h", "--help"}:
        print(__doc__)
        return DONE
    if not names or any(name.startswith("-") for name in names) or verb not in _VERBS:
        print(__doc__, file=sys.stderr)
        return USAGE
    try:
        settings = {name: _settings(folder, name) for name in names}
        return _do(verb, settings, as_json="--json" in arguments)
    except (Failed, OpensslFailed, OSError, KeyError) as fault:
        say(reason(fault))
        return FAILED


_VERBS = ("renew", "retry", "show")


def _settings(folder: Path, name: str) -> Settings:
    file = folder / name / ACME
    try:
        return Settings.of(file.read_text())
    except FileNotFoundError as error:
        raise Failed(f"{name} is no edge with tls.acme: {file} is missing") from error


def _do(verb: str, settings: dict[str, Settings], *, as_json: bool) -> int:
    if verb == "show":
        found = {name: dict(report(each)) for name, each in settings.items()}
        print(json.dumps(found, indent=2) if as_json else "\n".join(map(_line, found.items())))
        return DONE
    if verb == "retry":
        for each in settings.values():
            Store(each).forget_attempts()
        units = [f"vmesh-acme@{name}.service" for name in settings]
        if subprocess.run(["systemctl", "start", *units], check=False).returncode != 0:
            raise Failed(f"it failed again: journalctl -u {' -u '.join(units)}")
        return DONE
    for each in settings.values():
        renew(each, say)
    return DONE


def _line(told: tuple[str, dict[str, Any]]) -> str:
    name, found = told
    left = f"{(found['ends'] - time.time()) / DAY:.1f} days left" if found["issued"] else ""
    text = f"{name}: {', '.join(found['domains'])}: {left or 'no certificate of an authority yet'}"
    failed = f"; {found['failures']} order(s) failed: {found['error']}"
    return text + (failed if found["error"] else "")
