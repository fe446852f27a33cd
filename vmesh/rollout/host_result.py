"""What a run did to a host: the variable `vmesh_result` that the playbooks set, as data.

playbooks/tasks/transaction.yml, remove.yml and rollback.yml set it, and playbooks/README.md
describes its shape. A host without it did not take part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vmesh.base import failures
from vmesh.rollout import history

# Molecule has every run skip these (molecule/provisioner/ansible.py); no task of vmesh has one.
_OF_MOLECULE = frozenset({"molecule-notest", "notest"})


def skipped(tags: Iterable[str]) -> list[str]:
    """Return those of the `--skip-tags` of a run by which it leaves out tasks."""
    return [tag for tag in tags if tag not in _OF_MOLECULE]


def not_applied(hosts: Iterable[str], hostvars: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return those of `hosts` whose `vmesh_result` does not say that they have the run's state."""
    results = {host: hostvars[host].get("vmesh_result") or {} for host in hosts}
    return [host for host, result in results.items() if result.get("result") != history.APPLIED]


@dataclass(frozen=True)
class HostResult:
    """What a run did to a host.

    result: one of the words of vmesh.rollout.history
    before, after: numbers of the snapshots that the host was like before the run, and is like now
    cause: why it failed
    removed: whether the parts that left the inventory are gone
    snapshot: the number of the one that a rollback restored
    """

    result: str
    before: int = 0
    after: int = 0
    cause: str = ""
    removed: bool = False
    snapshot: int = 0

    @classmethod
    def of(
        cls, noted: Mapping[str, Any] | None, newest: int, run: int, *, alive: bool
    ) -> HostResult:
        """Return what became of a host in the run of the number `run`.

        noted: its `vmesh_result`; None without one
        newest: number of the newest snapshot that it had before the run
        alive: whether it can still be reached
        """
        noted = noted or {}
        before, after = int(noted.get("from", newest)), int(noted.get("number", newest))
        match noted.get("result"):
            case history.APPLIED:
                # The snapshot has the run's number when the run changed anything there.
                result = history.APPLIED if after == run else history.UNCHANGED
                return cls(result, before, after, removed=bool(noted.get("removed")))
            case history.ROLLED_BACK | history.UNCHANGED as result:
                return cls(result, before, after, snapshot=int(noted.get("snapshot", 0)))
            case history.FAILED:
                result = history.RESTORED if noted.get("restored") else history.FAILED
                return cls(result, after, after, str(noted.get("cause", "")))
        return cls(history.NOT_BEGUN if alive else history.UNREACHABLE, after, after)


def restoration(result: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return whether the previous state is back (`restored`), and a sentence on it (`told`).

    result: of host_snapshot's operation `restore`
    """
    if not result or result.get("skipped"):
        return {"restored": False, "told": "Nothing was put back."}
    if result.get("begun") is False:
        return {"restored": True, "told": "Nothing had been changed yet."}
    # `back`: what could not be put back after a restore to an earlier snapshot had failed.
    if (result.get("failed") or result.get("unreachable")) and result.get("back") != {}:
        why = failures.cause(result)
        return {"restored": False, "told": f"The state of before could not be put back: {why}"}
    return {"restored": True, "told": "The state of before is back, and serves."}


def summary_lines(noted: Mapping[str, Any], hosts: Mapping[str, Sequence[str]]) -> list[str]:
    """Return what to say at the end of a host that failed, and of the others.

    noted: the host's `vmesh_result`
    hosts: the hosts by what became of them, as mesh_record returns them
    """
    lines = [f"{noted['task']}: {noted['cause']}", noted.get("told", "")]
    for key, text in (
        ("applied", "With the new state"),
        ("not_begun", "Not begun, with the old state"),
    ):
        if names := hosts.get(key):
            lines.append(f"{text}: {', '.join(names)}.")
    lines.append("Mend the cause and run site.yml again: it goes on from here.")
    return [line for line in lines if line]
