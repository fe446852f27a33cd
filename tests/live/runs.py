"""What runs of site.yml did, as the scenario's callback plugin recorded it. No I/O but reading."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

CHANGED, OK = "changed", "ok"


@dataclass(frozen=True)
class Run:
    """One run: what became of each task on each host, in order, and Ansible's own counts."""

    check: bool
    seconds: float
    tasks: dict[str, tuple[tuple[str, str], ...]]  # host -> (task, status)
    counts: dict[str, dict[str, int]]

    def numbered(self, host: str) -> dict[tuple[str, int], str]:
        """Return (task, how many times it came before on this host) -> status."""
        seen: Counter[str] = Counter()
        found = {}
        for task, status in self.tasks.get(host, ()):
            found[task, seen[task]] = status
            seen[task] += 1
        return found


def read_runs(path: Path) -> list[Run]:
    """Return the recorded runs, oldest first; [] when there is no record."""
    if not path.exists():
        return []
    return [
        Run(
            check=data["check"],
            seconds=data["seconds"],
            tasks={host: tuple(map(tuple, done)) for host, done in data["tasks"].items()},
            counts=data["counts"],
        )
        for data in map(json.loads, path.read_text().splitlines())
    ]


def untruths(check: Run, real: Run) -> list[str]:
    """Return where a check on the same VMs told something else than the run after it did.

    What the check calls changed must change, and what it calls unchanged must not. Of a task
    that it skips (it cannot know) it says nothing.
    """
    wrong = []
    for host in sorted(real.tasks.keys() | check.tasks.keys()):
        did = real.numbered(host)
        for (task, number), told in check.numbered(host).items():
            happened = did.get((task, number), "not run")
            if (told == CHANGED) != (happened == CHANGED) and told in (CHANGED, OK):
                wrong.append(f"{host}: {task}: check said {told}, the run then: {happened}")
        if real.counts[host]["changed"] and not check.counts.get(host, {}).get("changed"):
            wrong.append(f"{host}: check said that nothing would change")
    return wrong
