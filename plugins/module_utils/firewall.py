# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""The firewall of a host: vmesh's own table of nftables, and what of it is kept for the next boot.

A run first opens what is new, and at its end closes what is no longer needed. Rules that drop
anything count only once a new ssh connection has come through them: the host puts the earlier ones
back after REVERT_SECONDS otherwise, whatever becomes of the controller.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .file_writing import write_incoming, write_whole
from .firewall_rules import REPLACED, TABLE, Rule, ruleset, together, without
from .host_parts import UNITS
from .ssh_session import Session
from .systemd import CommandFailed, Done, Run, systemctl

OPEN, CLOSE, REOPEN, REMOVE = "open", "close", "reopen", "remove"
# Taken from /etc by the unit at boot; the second is what the next run reads.
RULESET, STATE = "etc/vmesh/firewall.nft", "etc/vmesh/firewall.json"
UNIT = "vmesh-firewall.service"
FILES = (RULESET, STATE, f"{UNITS}{UNIT}")
# What waits for a new connection: the way back, and the connection that is not a new one.
EARLIER, BY = "run/vmesh/firewall-earlier.nft", "run/vmesh/firewall-by"
REVERT_UNIT, REVERT_SECONDS = "vmesh-firewall-revert", 60
# A host keeps its last three states, so a rollback needs at most what the last three runs closed.
KEPT_CLOSED = 3
NFT = "/usr/sbin/nft"
DELETE = (NFT, "delete", "table", *TABLE)


class Refused(CommandFailed):
    """The firewall is not changed, or not confirmed; the text says why and what to do."""


@dataclass(frozen=True)
class Host:
    """The host: where its files are, how commands are run, by which connection it is changed."""

    root: Path
    run: Run
    session: Session | None

    def command(self, *arguments: str) -> Done:
        """Run a command; raises Refused with what it says when it fails."""
        done = self.run(arguments)
        if done.code != 0:
            raise Refused(f"{' '.join(arguments[:3])}: {done.err.strip() or 'failed'}")
        return done


def is_installed(root: Path) -> bool:
    """Tell whether a run has ever brought the firewall here."""
    return (root / UNITS / UNIT).is_file()


def has_nft(root: Path) -> bool:
    """Tell whether the package nftables is there."""
    return (root / NFT.lstrip("/")).exists()


def drops(run: Run) -> bool:
    """Tell whether the kernel has vmesh's table, and drops by it what no rule lets in."""
    return "policy drop" in _listed(run)


@dataclass(frozen=True)
class Target:
    """What is to be: the rules, whether all else is dropped, and which are kept for a rollback.

    more: whether something is left to close at the end of the run
    """

    rules: Sequence[Rule]
    ssh_port: int
    drop: bool
    closed: Sequence[Sequence[Rule]]
    more: bool

    def text(self) -> str:
        return ruleset(self.rules, self.ssh_port, drop=self.drop)

    def state(self) -> str:
        kept = {"rules": self.rules, "ssh_port": self.ssh_port, "closed": self.closed}
        return json.dumps(kept, indent=1) + "\n"


def target(host: Host, operation: str, rules: Sequence[Rule]) -> Target:
    """Return what `operation` makes of the rules that the host has, and those it should have.

    A host whose table does not drop anything yet begins with one that does not: what is connected
    to it by now stays connected when the table of the end of the run does.
    """
    state = _state(host.root)
    before: list[Rule] = state.get("rules", [])
    closed: list[list[Rule]] = state.get("closed", [])
    port = host.session.port if host.session else int(state.get("ssh_port", 22))
    if operation == REOPEN:
        for each in closed:
            before = together(before, each)
        return Target(before, port, drop=True, closed=[], more=False)
    if operation == OPEN:
        strict = bool(state) and drops(host.run)
        every = together(rules, before) if strict else rules
        more = not strict or bool(without(before, rules))
        return Target(every, port, drop=strict, closed=closed, more=more)
    gone = without(before, rules)
    kept = [gone, *closed][:KEPT_CLOSED] if gone else closed
    return Target(rules, port, drop=True, closed=kept, more=False)


def apply(host: Host, wanted: Target, *, dry: bool = False) -> dict[str, Any]:
    """Have the kernel take the rules; with `dry`, only tell whether that changes anything.

    Returns `changed`, `more` of the target, and `pending`: whether the rules wait for `confirm`
    from a new connection. Raises Refused, OSError; then the rules are those of before.
    """
    text = wanted.text()
    planned = _tried(host, text)
    _put_back_unconfirmed(host, dry=dry)
    before = _listed(host.run)
    changes = planned != before
    pending = changes and wanted.drop
    if wanted.drop and not changes:
        changes = _keep(host, wanted, dry=dry)
    elif changes and not dry:
        if pending:
            _promise_to_revert(host, before)
        _load(host, text)
    return {"changed": changes, "more": wanted.more, "pending": pending and not dry}


def confirm(host: Host, wanted: Target) -> None:
    """Keep the rules for good; raises Refused where this is no new connection, OSError."""
    noted = _read(host.root / BY)
    if host.session is not None and noted == host.session.words():
        raise Refused(
            "This is the ssh connection that changed the rules, and no new one, so they are not"
            f" proven. The earlier rules come back within {REVERT_SECONDS} seconds. Run again with"
            " ANSIBLE_SSH_ARGS='-o ControlMaster=no'."
        )
    _stop_revert(host)
    if _listed(host.run) != _tried(host, wanted.text()):
        raise Refused(
            f"No new connection came within {REVERT_SECONDS} seconds, and the earlier rules are"
            " back. Either the new ones let none in from here (see mesh_firewall.ssh_from), or the"
            " host answered too slowly: then run again."
        )
    _keep(host, wanted)
    _forget_promise(host)


def remove(host: Host, *, dry: bool = False) -> bool:
    """Remove the table and all that would load it again; tell whether there was any.

    Raises Refused, OSError.
    """
    there = [path for name in FILES if (path := host.root / name).exists()]
    if dry or not there:
        return bool(there)
    _stop_revert(host)
    if (host.root / UNITS / UNIT).exists():
        host.command("systemctl", "disable", "--now", UNIT)
    if _listed(host.run):
        host.command(*DELETE)
    for path in there:
        path.unlink(missing_ok=True)
    systemctl("daemon-reload", run=host.run)
    _forget_promise(host)
    return True


def _listed(run: Run) -> str:
    """Return vmesh's table as the kernel has it, empty without one."""
    # -s: without what changes by itself, as counters do.
    done = run([NFT, "-s", "list", "table", *TABLE])
    return done.out if done.code == 0 else ""


def _tried(host: Host, text: str) -> str:
    """Return how the kernel will show the table of `text`; raises Refused where it takes it not.

    A network of its own has no packets, so the rules do nothing there.
    """
    path = write_incoming(_run_folder(host), text.encode())
    script = '"$0" -f "$1" && "$0" -s list table "$2" "$3"'
    try:
        return host.command("unshare", "--net", "sh", "-c", script, NFT, str(path), *TABLE).out
    finally:
        path.unlink(missing_ok=True)


def _load(host: Host, text: str) -> None:
    path = write_incoming(_run_folder(host), text.encode())
    try:
        host.command(NFT, "-f", str(path))
    finally:
        path.unlink(missing_ok=True)


def _promise_to_revert(host: Host, before: str) -> None:
    """Have systemd put the rules `before` back later, unless `confirm` stops that."""
    _run_folder(host)
    write_whole(host.root / EARLIER, f"{REPLACED}{before}")
    write_whole(host.root / BY, host.session.words() if host.session else "")
    command = ["systemd-run", "--quiet", "--collect", f"--unit={REVERT_UNIT}"]
    command += [f"--on-active={REVERT_SECONDS}", "--timer-property=AccuracySec=1s"]
    command += ["--description=Puts the earlier rules of the firewall back", "--"]
    host.command(*command, NFT, "-f", str(host.root / EARLIER))


def _put_back_unconfirmed(host: Host, *, dry: bool) -> None:
    """Put back at once what a run left unconfirmed, so that the way back is a proven one."""
    if dry or not (host.root / EARLIER).exists():
        return
    _stop_revert(host)
    host.command(NFT, "-f", str(host.root / EARLIER))
    _forget_promise(host)


def _stop_revert(host: Host) -> None:
    host.run(["systemctl", "stop", f"{REVERT_UNIT}.timer", f"{REVERT_UNIT}.service"])


def _forget_promise(host: Host) -> None:
    for name in (EARLIER, BY):
        (host.root / name).unlink(missing_ok=True)


def _keep(host: Host, wanted: Target, *, dry: bool = False) -> bool:
    """Write what is loaded at boot; tell whether anything was missing."""
    texts = {RULESET: wanted.text(), STATE: wanted.state()}
    stale = [name for name, text in texts.items() if _read(host.root / name) != text]
    disabled = host.run(["systemctl", "is-enabled", "--quiet", UNIT]).code != 0
    down = host.run(["systemctl", "is-active", "--quiet", UNIT]).code != 0
    if dry:
        return bool(stale or disabled or down)
    for name in stale:
        folder = (host.root / name).parent
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_whole(host.root / name, texts[name], 0o644)
    if disabled or down:
        systemctl("enable", "--now", UNIT, run=host.run)
    return bool(stale or disabled or down)


def _run_folder(host: Host) -> Path:
    folder = host.root / "run/vmesh"
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    return folder


def _state(root: Path) -> Mapping[str, Any]:
    try:
        found = json.loads((root / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
