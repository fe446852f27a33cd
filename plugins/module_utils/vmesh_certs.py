# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""Renew the identities of this host's proxies, and show them.

    vmesh-certs renew                  renew the leaves that have used a third of their life, or are
                                       missing or wrong; ExecStart of vmesh-certs.service
    vmesh-certs renew PROXY...         those of PROXY, whatever is left
    vmesh-certs renew --all            all, whatever is left
    vmesh-certs renew --from-clock     all, by the clock of this host: after it was ahead
    vmesh-certs show [--json]          the anchor and the leaves, without keys; as root

By hand, as root. Every message begins with `vmesh-certs: `. Exit status: 0 done or nothing to do,
1 failed, 2 wrong arguments.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from .certificates import CertificateError
from .file_writing import reason
from .host_anchor import KEY
from .identities import STATE, renew, report, settings_of

DONE, FAILED, USAGE = 0, 1, 2
ROOT = Path("/")


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says; return the exit status."""
    verb, words = "".join(arguments[:1]), list(arguments[1:])
    if verb in {"-h", "--help"}:
        print(__doc__)
        return DONE
    options = {word for word in words if word.startswith("-")}
    names = [word for word in words if word not in options]
    allowed = {"renew": {"--all", "--from-clock"}, "show": {"--json"}}
    if verb not in allowed or options - allowed[verb] or (names and (options or verb == "show")):
        print(__doc__, file=sys.stderr)
        return USAGE
    try:
        return _show(as_json=bool(options)) if verb == "show" else _renew(names, options)
    except OSError as error:
        _say(reason(error))
    except (CertificateError, ValueError) as error:
        _say(str(error))
    return FAILED


def _renew(names: Sequence[str], options: set[str]) -> int:
    settings = settings_of(ROOT)
    if unknown := [name for name in names if name not in settings.identities]:
        there = ", ".join(settings.identities) or "none"
        _say(f"no proxy of this host: {', '.join(unknown)}. There is: {there}")
        return USAGE
    # The unit's LoadCredential=: https://systemd.io/CREDENTIALS
    given = os.environ.get("CREDENTIALS_DIRECTORY")
    key = Path(given) / Path(KEY).name if given else ROOT / KEY
    (ROOT / STATE).mkdir(mode=0o700, exist_ok=True)
    which = None if options else names
    lines = renew(ROOT, key, time.time(), which=which, from_clock="--from-clock" in options)
    print("\n".join(lines or ["all leaves are good"]), flush=True)
    return DONE


def _show(*, as_json: bool) -> int:
    found = report(ROOT, time.time())
    if as_json:
        print(json.dumps(found, indent=2))
        return DONE
    for proxy, leaf in found["leaves"].items():
        until = time.strftime("%F %TZ", time.gmtime(leaf["not_after"])) if "serial" in leaf else "-"
        print(f"{proxy}: {leaf.get('identity', 'no leaf')}, until {until} {leaf['why']}".rstrip())
    if found["anchor"] is None:
        print("no anchor: nothing of vmesh has given this host identities")
    return DONE


def _say(text: str) -> None:
    print(f"vmesh-certs: {text}", file=sys.stderr, flush=True)
