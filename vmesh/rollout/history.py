"""What was done to the hosts of an inventory, run by run, as the controller knows it.

Beside the records (vmesh.rollout.record), in applied/<inventory>/:

  history.jsonl           a line for each run that changed something, or should have
  states/<host>/<N>.json  the record of a host after run N, the last three of each host

Like the records they hold no secret, nor a hash of one, and are made to be committed.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vmesh.rollout.record import HostRecord, write_file

FILE, STATES = "history.jsonl", "states"
KEPT = 3
# What became of a host in a run.
APPLIED, ROLLED_BACK, UNCHANGED = "applied", "rolled back", "unchanged"
# A run that was told to leave tasks out (--tags) changed the host: no record says what it has now.
PARTIAL = "partial"
RESTORED, FAILED, NOT_BEGUN, UNREACHABLE = "restored", "failed", "not begun", "unreachable"
# In a record: what of the host was brought to a state of which there is no record.
UNRECORDED = "rolled_back"
# For a host as a whole, in place of its parts.
EVERYTHING = "everything"

Line = dict[str, Any]


def read(place: Path) -> list[Line]:
    """Return the lines of an inventory's history, the oldest first; without lines in pieces."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for text in (place / FILE).read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                line = json.loads(text)
                if isinstance(line, dict) and isinstance(line.get("run"), int):
                    found.append({**line, "hosts": line.get("hosts") or {}})
    return found


def newest(place: Path) -> int:
    """Return the number of the last run, 0 without one."""
    return max((int(line["run"]) for line in read(place)), default=0)


def append(place: Path, line: Line) -> None:
    """Write the line of a run, and see it on the disk; raises OSError."""
    place.mkdir(parents=True, exist_ok=True)
    path = place / FILE
    text = json.dumps(line, sort_keys=True, ensure_ascii=False) + "\n"
    whole = not path.exists() or path.read_bytes()[-1:] in {b"", b"\n"}
    with path.open("a", encoding="utf-8") as file:
        # What a killed run wrote of its line stays a line of its own.
        file.write(text if whole else f"\n{text}")
        file.flush()
        os.fsync(file.fileno())


def keep(place: Path, host: str, number: int, state: HostRecord) -> None:
    """Keep the record of a host as that of its state `number`, and the two before; raises OSError.

    The host keeps as many.
    """
    folder = _folder(place, host)
    write_file(folder / f"{number}.json", state)
    for old in numbers(place, host)[:-KEPT]:
        (folder / f"{old}.json").unlink(missing_ok=True)


def numbers(place: Path, host: str) -> list[int]:
    """Return the numbers of the kept records of a host, the oldest first."""
    paths = _folder(place, host).glob("*.json")
    return sorted(int(path.stem) for path in paths if path.stem.isdigit())


def state(place: Path, host: str, number: int) -> HostRecord | None:
    """Return the kept record of a host's state, None when there is none that can be read."""
    try:
        found: HostRecord = json.loads((_folder(place, host) / f"{number}.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "host" in found else None


def forget(place: Path, hosts: Iterable[str]) -> None:
    """Remove the kept records of `hosts`, which keep no states any more; the lines stay."""
    for host in hosts:
        shutil.rmtree(_folder(place, host), ignore_errors=True)


def _folder(place: Path, host: str) -> Path:
    return place / STATES / quote(host, safe="")


def short(state: HostRecord) -> str:
    """Return the first digits of a hash of a record, in which no secret is."""
    text = json.dumps(state, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def versions(state: HostRecord) -> dict[str, str]:
    """Return the versions that a host has: of Envoy, Jaeger, and the apps' bundles."""
    return {**state["versions"], **state["bundles"]}


# Rolling back


def rolled_back(
    present: HostRecord, earlier: HostRecord | None, parts: Collection[str]
) -> HostRecord:
    """Return the record of a host after its `parts` (all without any) went back to `earlier`.

    Where there is no record of that state, the present one says so.
    """
    if earlier is None:
        known = set(present.get(UNRECORDED, ()))
        return {**present, UNRECORDED: sorted(known | (set(parts) or {EVERYTHING}))}
    if not parts:
        return {key: value for key, value in earlier.items() if key != UNRECORDED}
    return _with_parts(present, earlier, parts)


def _with_parts(present: HostRecord, earlier: HostRecord, parts: Iterable[str]) -> HostRecord:
    found: HostRecord = copy.deepcopy(present)
    for part in parts:
        kind, _, name = part.partition("@")
        if kind == "jaeger":
            found["host"]["jaeger"] = earlier["host"]["jaeger"]
            _take(found["versions"], earlier["versions"], "jaeger")
        elif kind == "envoy":
            _take_named(found["host"], earlier["host"], "proxies", name)
            _take(found["files"], earlier["files"], name)
        elif kind == "flask":
            _take_named(found["host"], earlier["host"], "flask_services", name)
            _take(found["bundles"], earlier["bundles"], name)
        elif kind == "env":
            _take_named(found["host"], earlier["host"], "external_apps", name)
    still = set(found.pop(UNRECORDED, ())) - set(parts)
    return {**found, UNRECORDED: sorted(still)} if still else found


def _take(found: dict[str, Any], earlier: Mapping[str, Any], name: str) -> None:
    found.pop(name, None)
    if name in earlier:
        found[name] = earlier[name]


def _take_named(found: dict[str, Any], earlier: Mapping[str, Any], key: str, name: str) -> None:
    """Put what `earlier` has under `name` in a list of mappings where `found` has it, or last."""
    coming = [each for each in earlier.get(key) or () if each["name"] == name]
    staying: list[Any] = []
    for each in found.get(key) or ():
        if each["name"] == name:
            staying += coming
            coming = []
        else:
            staying.append(each)
    found[key] = [*staying, *coming]


# Which run to go back to


def concerning(lines: Iterable[Line], hosts: Collection[str] | None) -> list[Line]:
    """Return the runs that changed any of `hosts` (of all without any), the oldest first.

    Of a run that stands there more than once, as one that was continued, the last line counts.
    """
    changed = {APPLIED, PARTIAL, ROLLED_BACK}
    found = {
        line["run"]: line
        for line in lines
        if any(
            each.get("result") in changed and (hosts is None or host in hosts)
            for host, each in line["hosts"].items()
        )
    }
    return [found[run] for run in sorted(found)]


def before_last(lines: Sequence[Line], hosts: Collection[str] | None) -> int | None:
    """Return the number that undoes the last run on `hosts`; None when there was none."""
    runs = concerning(lines, hosts)
    return int(runs[-1]["run"]) - 1 if runs else None
