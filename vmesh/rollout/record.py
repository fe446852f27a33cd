"""The state last applied to each host: where its record is kept.

`site.yml` ends with it: one JSON file a host below `applied/<inventory>/`, made to be committed.
`vmesh.rollout.description` makes what is in it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from vmesh.base import paths
from vmesh.base.files import write_whole

FORMAT = 1

HostRecord = dict[str, Any]


class RecordError(Exception):
    """A recorded state cannot be read; `remedy` says what to do."""

    def __init__(self, message: str, remedy: str) -> None:
        self.remedy = remedy
        super().__init__(f"{message}. {remedy}")


def folder(*sources: Path) -> Path:
    """Return where the states of an inventory are kept, which is made of files or folders.

    Of one that is part of the project the name is its place there, of any other its own name.
    """
    return applied() / "+".join(map(_name, sources))


def applied() -> Path:
    """Return the folder of all records: $VMESH_APPLIED, or `applied/` in the project."""
    return Path(os.environ.get("VMESH_APPLIED") or paths.PROJECT / "applied")


def _name(source: Path) -> str:
    if paths.is_host_list(source):
        return "hosts"
    resolved = source.resolve()
    resolved = resolved.with_suffix("") if resolved.is_file() else resolved
    for base in (paths.PROJECT / "inventory", paths.PROJECT):
        if resolved != base and resolved.is_relative_to(base):
            return "-".join(resolved.relative_to(base).parts)
    return resolved.name


def read(place: Path) -> dict[str, HostRecord]:
    """Return host -> state of every record in the folder `place`; {} without one.

    Raises RecordError when a file is no record that this version understands.
    """
    return {unquote(path.stem): _read(path) for path in sorted(place.glob("*.json"))}


def earlier(place: Path, host: str) -> HostRecord | None:
    """Return the record of `host`; None when there is none, or none that can be used."""
    try:
        return _read(_path(place, host))
    except (RecordError, OSError):
        return None


def earlier_of(place: Path, hosts: Iterable[str]) -> dict[str, HostRecord]:
    """Return the records of those of `hosts` that have one that can be used."""
    return {host: state for host in hosts if (state := earlier(place, host))}


def _path(place: Path, host: str) -> Path:
    return place / f"{quote(host, safe='')}.json"


def _read(path: Path) -> HostRecord:
    try:
        state: HostRecord = json.loads(path.read_text(encoding="utf-8"))
        version = state["format"]
    except (ValueError, TypeError, KeyError) as error:
        raise RecordError(
            f"{path} is not the record of a host ({type(error).__name__})",
            "Take it from version control again, or delete it; the next site.yml writes it",
        ) from error
    if version != FORMAT:
        raise RecordError(
            f"{path} has format {version}, and this version of vmesh knows format {FORMAT}",
            "Use the version that wrote it, or delete it; the next site.yml writes it",
        )
    return state


def write(place: Path, host: str, state: HostRecord) -> bool:
    """Write the record of `host`, as `write_file` does."""
    return write_file(_path(place, host), state)


def write_file(path: Path, state: HostRecord) -> bool:
    """Write a record, complete or not at all; tell whether it was another; raises OSError."""
    # To read a record takes a tenth of the time that it takes to make its text.
    with contextlib.suppress(OSError, ValueError):
        if json.loads(path.read_text(encoding="utf-8")) == state:
            return False
    text = json.dumps(state, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    write_whole(path, text)
    return True


def forget(place: Path, hosts: Iterable[str]) -> None:
    """Remove the records of `hosts`, which are not there any more."""
    for host in hosts:
        _path(place, host).unlink(missing_ok=True)


def parts_of(state: HostRecord) -> list[str]:
    """Return the units that a state has on its host, by the names `./mesh ps` shows."""
    host = state["host"]
    parts = [f"envoy@{proxy['name']}" for proxy in host["proxies"]]
    parts += [f"flask@{service['name']}" for service in host["flask_services"]]
    return [*parts, *(["jaeger"] if host["jaeger"] else [])]


def left_behind(old: HostRecord | None, new: HostRecord) -> list[str]:
    """Return the units of the host that `new` has no more, and that nothing has removed."""
    known = {*parts_of(old), *old["left"]} if old else set()
    return sorted(known - set(parts_of(new)))
