# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""What renews identities on a host, installed and removed: user, settings, folders, units."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .certificates import CertificateError
from .envoy_admin import Admin
from .file_writing import write_whole
from .host_anchor import (
    FOLDER,
    anchors_of,
    ensure_anchor,
    forget_former,
    take_next,
    voucher,
)
from .host_files import set_owner
from .host_kit import missing_users
from .host_parts import IDENTITY, UNITS
from .identities import SETTINGS, STATE, USER, Settings, report
from .systemd import CommandFailed, Run, journal, show_one, systemctl
from .unix_http import FAULTS

SERVICE, TIMER = "vmesh-certs.service", "vmesh-certs.timer"
USERS = "etc/systemd/vmesh-certs-users.conf"
UNIT_FILES = (f"{UNITS}{SERVICE}", f"{UNITS}{TIMER}")
# All of it on a host, besides the proxies' folders and the command, which is of the host kit.
FILES = (*UNIT_FILES, USERS, SETTINGS)
FOLDERS = (FOLDER, STATE)
# Envoy sees a new leaf at once; a host under load may take a while.
SERVED_SECONDS = 30.0


@dataclass(frozen=True)
class Owners:
    """Whose the folders are; `group` is that of a proxy, and has its name in braces."""

    root: str = "root"
    signer: str = USER
    group: str = "envoy-{proxy}"


@dataclass(frozen=True)
class Wanted:
    """What a host shall have; `files` are the texts of USERS and UNIT_FILES by path."""

    settings: Settings
    files: Mapping[str, str]

    def texts(self) -> dict[str, str]:
        """Return the text of each of FILES by path."""
        return {**self.files, SETTINGS: self.settings.text()}


def install(  # noqa: PLR0913 - how, and in a test where
    root: Path,
    wanted: Wanted,
    run: Run,
    clock: float,
    owners: Owners = Owners(),
    *,
    dry: bool = False,
) -> list[str]:
    """Have the host renew the identities of its proxies, and see each proxy with a good leaf.

    Returns what was changed, or with `dry` would be, a line each. Raises CertificateError,
    CommandFailed, OSError, ValueError.
    """
    changed = list(_differing(root, wanted, run, owners, clock))
    if dry or not changed:
        return changed
    written = [path for path, text in wanted.texts().items() if _text(root / path) != text]
    for path in written:
        if not (root / path).parent.exists():
            (root / path).parent.mkdir(parents=True)
            (root / path).parent.chmod(0o755)
        write_whole(root / path, wanted.texts()[path], 0o644)
    _command(run, "systemd-sysusers", f"/{USERS}")
    ensure_anchor(root, wanted.settings.name, clock)
    _set_up_folders(root, wanted.settings, owners)
    if set(written) & set(UNIT_FILES):
        systemctl("daemon-reload", run=run)
    systemctl("enable", TIMER, run=run)
    systemctl("restart", TIMER, run=run)
    if _not_good(root, clock):
        _renew(root, run, clock)
    return changed


def remove(root: Path, run: Run, *, dry: bool = False) -> list[str]:
    """Remove all keys, leaves and units; return the paths. The user stays until `./mesh remove`.

    The folder of an identity stays, empty. An Envoy that drains a listener with mTLS still watches
    it, and shares what it has read with the listener that needs an identity next; of a folder in
    its place Envoy would hear nothing.

    Raises CommandFailed, OSError. Another try removes what is left.
    """
    there = [name for name in (*FILES, *FOLDERS, *leaves(root)) if (root / name).exists()]
    if dry or not there:
        return there
    if any((root / path).exists() for path in UNIT_FILES):
        systemctl("disable", "--now", TIMER, run=run)
        systemctl("stop", SERVICE, run=run)
    for name in there:
        if (root / name).is_dir():
            shutil.rmtree(root / name)
        else:
            (root / name).unlink()
    systemctl("daemon-reload", run=run)
    return there


def in_use(root: Path) -> list[str]:
    """Return the proxies whose files name their identity: without it they would not come up."""
    return sorted(
        {
            path.parent.parent.name
            for kind in ("listeners", "clusters")
            for path in root.glob(f"etc/envoy/*/{kind}/{kind}.json")
            if f"/{IDENTITY}/" in path.read_text(encoding="utf-8")
        }
    )


def leaves(root: Path) -> list[str]:
    """Return the files of all identities on the host, relative to `root`."""
    return [str(path.relative_to(root)) for path in sorted(root.glob(f"etc/envoy/*/{IDENTITY}/*"))]


def is_there(root: Path) -> bool:
    """Tell whether the host has something of identities that going back to none removes."""
    return any((root / name).exists() for name in (*FILES, *FOLDERS))


def facts(
    root: Path, clock: float, run: Run | None, admin: Callable[[str], Admin]
) -> dict[str, Any]:
    """Return what identities.report does, and what else there is of identities on the host.

    run: how systemd is asked; None asks no process
    admin: takes the path of an admin socket, returns the admin interface there
    voucher: what proves to the controller that the host has made its next anchor, "" without one
    installed: whether there is something that going back to none removes
    timer: state of the timer; served: of each leaf, whether Envoy serves that one: True, False (an
    earlier one), or None (none, or Envoy does not answer)
    Raises CertificateError, OSError, ValueError.
    """
    found = {**report(root, clock), "installed": is_there(root), "voucher": voucher(root)}
    if run is None:
        return found
    found["timer"] = show_one(TIMER, "ActiveState", run=run).get("ActiveState", "")
    for proxy, leaf in found["leaves"].items():
        try:
            served = admin(str(root / "run/envoy" / proxy / "admin.sock")).leaves()
        except (*FAULTS, ValueError, KeyError):
            served = {}
        serial = served.get(leaf.get("identity", ""))
        leaf["served"] = None if serial is None else serial == leaf["serial"].lstrip("0")
    return found


def roll_over(  # noqa: PLR0913 - how, and in a test how long
    root: Path,
    run: Run,
    clock: float,
    admin: Callable[[str], Admin],
    sleep: Callable[[float], None] = time.sleep,
    *,
    dry: bool = False,
) -> bool:
    """Have the host sign by its next anchor, and its Envoys show that; tell whether it had one.

    Whoever trusts this host must trust both anchors by now. The former one is told no more only
    when no Envoy shows a leaf of it. Another try goes on where one has failed. Raises
    CertificateError, CommandFailed, OSError, ValueError.
    """
    under_way = len(anchors_of(root)) > 1
    if dry or not under_way:
        return under_way
    take_next(root)
    if _not_good(root, clock):
        _renew(root, run, clock)
    for _ in range(int(SERVED_SECONDS)):
        leaves = facts(root, clock, run, admin)["leaves"].items()
        late = [proxy for proxy, leaf in leaves if leaf["served"] is False]
        if not late:
            forget_former(root)
            return True
        sleep(1)
    raise CertificateError(
        f"{', '.join(late)}: Envoy still shows a leaf of the former anchor, so both stay trusted"
    )


def _differing(root: Path, wanted: Wanted, run: Run, owners: Owners, clock: float) -> Iterator[str]:
    """Yield what the host lacks, a line each."""
    for path, text in wanted.texts().items():
        if _text(root / path) != text:
            yield f"/{path}"
    groups = [owners.group.format(proxy=proxy) for proxy in wanted.settings.identities]
    yield from (f"user {name}" for name in missing_users([owners.signer, *groups]))
    for proxy in wanted.settings.identities:
        folder = root / "etc/envoy" / proxy / IDENTITY
        if not folder.is_dir() or folder.stat().st_mode & 0o7777 != 0o2750:
            yield str(folder)
    timer = show_one(TIMER, "ActiveState", "UnitFileState", run=run)
    if (timer.get("ActiveState"), timer.get("UnitFileState")) != ("active", "enabled"):
        yield f"{TIMER} is not running"
    if _text(root / SETTINGS) == wanted.settings.text():
        yield from (f"leaf of {line}" for line in _not_good(root, clock))


def _not_good(root: Path, clock: float) -> list[str]:
    """Return the proxies, of those in the settings, that have no good leaf, and why."""
    found = report(root, clock)
    if found["anchor"] is None:
        return ["all proxies: the host has no anchor"]
    return [f"{name}: {leaf['why']}" for name, leaf in found["leaves"].items() if leaf["why"]]


def _set_up_folders(root: Path, settings: Settings, owners: Owners) -> None:
    """Make the folder of each identity, and that of its proxy as the module envoy_config has it."""
    for proxy in settings.identities:
        group = owners.group.format(proxy=proxy)
        folder = root / "etc/envoy" / proxy
        (folder / IDENTITY).mkdir(parents=True, exist_ok=True)
        set_owner(folder, {"owner": owners.root, "group": group, "mode": "0750"})
        # With the group of the folder, by its mode, each leaf is for the proxy and nobody else.
        set_owner(folder / IDENTITY, {"owner": owners.signer, "group": group, "mode": "2750"})


def _renew(root: Path, run: Run, clock: float) -> None:
    """Have the unit renew what is due; raises CertificateError where a leaf is not good then."""
    done = run(["systemctl", "start", SERVICE])
    bad = _not_good(root, clock)
    if done.code != 0 or bad:
        lines = journal([SERVICE], clock - 5, run=run)
        raise CertificateError(
            f"{SERVICE} has not renewed the identities: {'; '.join(bad) or done.err.strip()}"
            + "".join(f"\n  {line}" for line in lines)
        )


def _command(run: Run, *arguments: str) -> None:
    done = run(arguments)
    if done.code != 0:
        raise CommandFailed(done.err.strip() or f"{arguments[0]} failed")


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
