# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""A run on one host: begin, then commit the new state, or restore the one from before.

playbooks/tasks/transaction.yml calls these steps by the module host_snapshot.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import firewall
from .host_parts import app_folders
from .leave import leave
from .machine import Machine
from .releases import SHARED_RELEASES, remove_unneeded, sweep
from .restore import FAULTS, Restore
from .snapshot_store import Line, SnapshotStore, now
from .snapshots import (
    capture,
    changed_parts,
    merged,
    parts_of,
    same,
    what_changed,
)

APPLIED, RESTORED, ROLLED_BACK = "applied", "restored", "rolled back"


class NoSuchSnapshot(Exception):  # noqa: N818 - says what is missing
    """The host keeps no snapshot that is old enough; the text names those that are kept."""


class NotRestored(Exception):  # noqa: N818 - says what happened
    """A restoration that did not succeed. `result` is what `restore` returned."""

    def __init__(self, result: Mapping[str, Any]) -> None:
        self.result = result
        super().__init__(not_restored(result))


# What `perform` raises.
FAILURES = (*FAULTS, NoSuchSnapshot, NotRestored)


@dataclass(frozen=True)
class MeshRun:
    """A run: its number, who runs it, what was asked for."""

    number: int
    who: str = ""
    note: str = ""


def begin(machine: Machine, run: MeshRun) -> dict[str, Any]:
    """Keep a snapshot from before the run, unless that of an interrupted run is there.

    Returns `newest`, and `interrupted` in the second case. Raises OSError, Unreadable.
    """
    store = SnapshotStore(machine.root)
    store.make()
    store.mend_history()
    result: dict[str, Any] = {"newest": store.newest()}
    if interrupted := store.interrupted():
        store.hold(run.who)
        return {**result, "interrupted": interrupted.run}
    store.keep_pending(capture(machine.root, machine.run), run.number, run.who)
    return result


def commit(
    machine: Machine, run: MeshRun, result: str = APPLIED, more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """End the run with what is on the host now; raises OSError where that cannot be kept.

    more: what the line of the history says besides
    Returns `number` and `from` (snapshots), `parts` that differ, `removed` releases.
    """
    store = SnapshotStore(machine.root)
    store.make()
    store.mend_history()
    after = capture(machine.root, machine.run)
    if not store.numbers():
        store.keep_found()
    newest = store.newest()
    # A run may come to a host more than once; what it changed counts from before its first time.
    earlier = max((number for number in store.numbers() if number != run.number), default=0)
    written, parts = newest, list[str]()
    if not same(store.read_or_empty(newest), after):
        before = store.read_or_empty(earlier)
        written, parts = run.number, changed_parts(before, after)
        what = what_changed(before, after)
        store.keep(
            run.number,
            after,
            {**_line(run, earlier, run.number, what, result), **(more or {})},
        )
    store.drop_pending()
    # The snapshot is kept: what is left to do can wait for the next run.
    store.mend_history()
    names = store.prune(written)
    removed = remove_unneeded(machine.root, names, store.releases())
    return {"number": written, "from": earlier, "parts": parts, "removed": removed}


def _line(run: MeshRun, before: int, after: int, what: Mapping[str, Any], result: str) -> Line:
    """Return a line of the history: from which snapshot to which, what changed, the result."""
    return {
        "run": run.number,
        "when": now(),
        "who": run.who,
        "note": run.note,
        "from": before,
        "to": after,
        "what": what,
        "result": result,
    }


def remove(
    machine: Machine, run: MeshRun, parts: Sequence[str], drain_seconds: int, *, dry: bool = False
) -> dict[str, Any]:
    """Take parts away that are there, and keep what is left as the snapshot of the run.

    Returns `removed`, and `leaving`, those that still finish their requests. Raises CommandFailed,
    OSError. With the last part goes the firewall.
    """
    there = set(parts_of(capture(machine.root, machine.run)))
    gone = sorted(set(parts) & there)
    if dry or not gone:
        return {"removed": gone, "leaving": []}
    leaving = leave(machine, gone, drain_seconds)
    if there == set(gone):
        firewall.remove(firewall.Host(machine.root, machine.run, None))
    return {**commit(machine, run), "removed": gone, "leaving": leaving}


def restore(  # noqa: PLR0913 - what was asked for
    machine: Machine,
    run: MeshRun,
    *,
    to: int | None,
    cause: str = "",
    parts: Sequence[str] = (),
    drain_seconds: int = 600,
    dry: bool = False,
) -> dict[str, Any]:
    """Bring the host to the snapshot from before the run (`to` is None), or to a kept one.

    A number stands for the newest snapshot that is not newer; `parts` are all that is brought
    back of it, everything when there are none. Returns `restored` and `errors` by part, the
    numbers `from` and `number`. Raises OSError, Unreadable, NoSuchSnapshot.
    """
    if to is None:
        return _restore_pending(machine, run, cause, drain_seconds, dry=dry)
    store = SnapshotStore(machine.root)
    number = max((each for each in store.numbers() if each <= to), default=None)
    if number is None:
        kept = ", ".join(map(str, store.numbers())) or "none"
        raise NoSuchSnapshot(f"no state as old as {to} is kept on this host (kept: {kept})")
    wanted, newest = store.read(number), store.newest()
    if not dry:
        begin(machine, run)
    if parts:
        wanted = merged(capture(machine.root, machine.run), wanted, parts)
    work = Restore(machine, wanted, drain_seconds, dry)
    work.run()
    result: dict[str, Any] = {
        "restored": sorted(work.restored),
        "errors": work.errors,
        "from": newest,
        "number": newest,
        "state": number,
    }
    if dry:
        return result
    if work.errors:
        why = f"state {number} was not reached: {'; '.join(work.errors)}"
        back = _restore_pending(machine, run, why, drain_seconds)
        return {**result, "back": back["errors"]}
    more = {"state": number, **({"cause": cause} if cause else {})}
    return {**result, **commit(machine, run, ROLLED_BACK, more)}


def _restore_pending(
    machine: Machine, run: MeshRun, cause: str, drain_seconds: int, *, dry: bool = False
) -> dict[str, Any]:
    store = SnapshotStore(machine.root)
    pending, newest = store.pending(), store.newest()
    result: dict[str, Any] = {"restored": [], "errors": {}, "from": newest, "number": newest}
    if pending is None:
        return {**result, "begun": False}
    before, apps = capture(machine.root, machine.run), app_folders(machine.root)
    work = Restore(machine, pending.snapshot, drain_seconds, dry)
    work.run()
    result |= {"restored": sorted(work.restored), "errors": work.errors}
    if dry:
        return result
    if work.restored or work.errors:
        what = what_changed(before, pending.snapshot)
        line = {**_line(run, newest, newest, what, RESTORED), "cause": cause}
        if work.errors:
            line["errors"] = work.errors
        with contextlib.suppress(OSError):
            store.append(line)
    if work.errors:
        with contextlib.suppress(OSError):
            store.hold("")
    else:
        store.drop_pending()
        # The next run has need of a new release again; what a new app had is gone with it.
        remove_unneeded(machine.root, apps - pending.snapshot["links"].keys(), store.releases())
        _sweep(machine.root)
    return result


def _sweep(root: Path) -> None:
    """Remove what an interrupted run left of parts: files laid beside others, empty folders."""
    for name in (*SHARED_RELEASES, "jaeger", *app_folders(root)):
        sweep(root, name)
    for path in root.glob("etc/flask/*/*.next"):
        path.unlink(missing_ok=True)
    for folder in (*root.glob("etc/flask/*"), *root.glob("etc/envoy/*")):
        if folder.is_dir() and not any(path.is_file() for path in folder.rglob("*")):
            shutil.rmtree(folder, ignore_errors=True)


def not_restored(result: Mapping[str, Any]) -> str:
    """Return what to say of a restoration that did not succeed."""
    lines = [f"{part}: {text}" for part, text in result["errors"].items()]
    if "back" in result and not result["back"]:
        lines.append("All is as it was before.")
    elif "back" in result:
        lines += [f"Nor is {part} as it was before: {t}" for part, t in result["back"].items()]
    return "Not restored: " + "\n".join(lines)


def perform(machine: Machine, options: Mapping[str, Any], *, dry: bool) -> dict[str, Any]:
    """Do what the options of the module host_snapshot say; return what it returns.

    dry: only tell what would be done
    Raises what is in FAILURES.
    """
    operation, run = options["operation"], MeshRun(options["run"], options["who"], options["note"])
    if operation in {"begin", "commit"} and dry:
        newest = SnapshotStore(machine.root).newest()
        told = {"number": newest, "from": newest, "parts": [], "removed": []}
        return {"changed": False, **({"newest": newest} if operation == "begin" else told)}
    if operation == "begin":
        return {"changed": False, **begin(machine, run)}
    if operation == "commit":
        return {"changed": False, **commit(machine, run)}
    seconds = options["drain_seconds"]
    if operation == "remove":
        found = remove(machine, run, options["parts"], seconds, dry=dry)
        return {"changed": bool(found["removed"]), **found}
    found = restore(
        machine,
        run,
        to=None if options["to"] == "pending" else int(options["to"]),
        cause=options["cause"],
        parts=options["parts"],
        drain_seconds=seconds,
        dry=dry,
    )
    found["changed"] = bool(found["restored"])
    if found["errors"]:
        raise NotRestored(found)
    return found
