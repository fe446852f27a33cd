"""Running site.yml against the mesh under test, as `./mesh up` does."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vmesh.base.progress import new_log
from vmesh.remote import playbook


@dataclass(frozen=True)
class Result:
    """How a run ended, what it told, and on which hosts which tasks changed something."""

    outcome: playbook.Outcome
    changed: dict[str, tuple[str, ...]]
    log: Path

    @property
    def summary(self) -> str:
        """What `./mesh up` prints at the end of such a run."""
        return "\n".join(playbook.summary(self.outcome))


def run_site(inventories: Sequence[Path], *arguments: str) -> Result:
    """Run site.yml with the inventories (later ones win) by the lab's fast strategy."""
    log = new_log("test-site")
    events_path = log.with_suffix(".events")
    command = ["ansible-playbook", "site.yml", *arguments]
    for inventory in inventories:
        command += ["--inventory", str(inventory)]
    # A scenario's own settings for Ansible are not this run's.
    base = {k: v for k, v in os.environ.items() if not k.startswith(("ANSIBLE_", "MOLECULE_"))}
    outcome = playbook.Outcome()
    outcome.code = playbook.follow(
        command, playbook.environment(base, events_path, fast=True), log, lambda: None
    )
    changed: dict[str, list[str]] = {}
    for event in map(json.loads, events_path.read_text().splitlines()):
        outcome.take(event)
        if event["event"] == "changed":
            changed.setdefault(event["host"], []).append(event["task"])
    return Result(outcome, {host: tuple(tasks) for host, tasks in changed.items()}, log)
