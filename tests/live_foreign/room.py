"""Runs on a VM, as root: notes what is there, and later takes away what came since.

Standard library of Python 3.11 only. Arguments: `note`, or `clean` and the units that came since.
`clean` prints what still differs from the note, as a JSON list. `note-bare` and `compare-bare` do
the same with a note of its own, which outlives a reboot, and remove nothing.
"""

from __future__ import annotations

import grp
import hashlib
import json
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

NOTE = Path("/run/vmesh-test-room.json")
BARE = Path("/root/vmesh-test-bare.json")
TREES = ("/etc", "/opt", "/usr/local")
# Folders in places that other programs use, too.
FOLDERS = ("/run/envoy", "/run/flask", "/run/vmesh", "/var/lib/jaeger", "/var/lib/vmesh")
# Every new user changes these; the users themselves are compared.
ACCOUNTS = ("passwd", "group", "shadow", "gshadow", "subuid", "subgid")
# The role envoy sets it.
SETTING = Path("/proc/sys/net/ipv4/tcp_migrate_req")


def paths() -> set[str]:
    """Return all files and folders that a role may make."""
    found = {folder for folder in FOLDERS if Path(folder).exists()}
    for tree in TREES:
        found |= {str(path) for path in Path(tree).rglob("*")}
    return found


def digests() -> dict[str, str]:
    """Return path -> hash of each file below /etc, but for those of the accounts."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in Path("/etc").rglob("*")
        if path.is_file() and path.name.rstrip("-") not in ACCOUNTS
    }


def state() -> dict[str, Any]:
    """Return what `clean` brings back or compares, as JSON has it."""
    return {
        "paths": sorted(paths()),
        "digests": digests(),
        "users": sorted(user.pw_name for user in pwd.getpwall()),
        "groups": sorted(group.gr_name for group in grp.getgrall()),
        "setting": SETTING.read_text() if SETTING.exists() else "",
    }


def clean(before: dict[str, Any], units: Iterable[str]) -> None:
    """Stop the units, and remove the paths and users that are not in `before`."""
    # A run that has failed may not have made all of them; `differences` tells what stays.
    subprocess.run(["systemctl", "disable", "--now", "--quiet", *units], check=False)
    for path in map(Path, sorted(paths() - set(before["paths"]))):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            # It may have been in a folder that is gone by now.
            path.unlink(missing_ok=True)
    for user in pwd.getpwall():
        if user.pw_name not in before["users"]:
            subprocess.run(["userdel", user.pw_name], check=True)
    for group in grp.getgrall():
        if group.gr_name not in before["groups"]:
            subprocess.run(["groupdel", group.gr_name], check=True)
    if before["setting"]:
        SETTING.write_text(before["setting"])
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    # A unit without a file is known to systemd as long as it counts as failed.
    subprocess.run(["systemctl", "reset-failed", *units], check=False, capture_output=True)


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return what is there and was not, what was there and is not, and which files changed."""
    told = []
    for key in ("paths", "users", "groups"):
        old, new = set(before[key]), set(after[key])
        # userdel leaves backups of the accounts: /etc/passwd-.
        told += [f"new: {each}" for each in sorted(new - old) if not each.endswith("-")]
        told += [f"gone: {each}" for each in sorted(old - new)]
    old, new = before["digests"], after["digests"]
    told += [f"changed: {each}" for each in sorted(old.keys() & new) if old[each] != new[each]]
    return told


def main(operation: str, *units: str) -> None:
    if operation in {"note", "note-bare"}:
        (NOTE if operation == "note" else BARE).write_text(json.dumps(state()))
        return
    if operation == "compare-bare":
        print(json.dumps(differences(json.loads(BARE.read_text()), state())))
        return
    before = json.loads(NOTE.read_text())
    clean(before, units)
    print(json.dumps(differences(before, state())))
    NOTE.unlink()


if __name__ == "__main__":
    main(*sys.argv[1:])
