"""Ansible callback: what each run of converge.yml did, one JSON object a line.

Ansible loads it by itself, as it lies beside the playbooks. tests/live/test_runs.py compares
the runs; create.yml begins a new record.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from ansible import context
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: vmesh_record
type: notification
short_description: records what runs of converge.yml did
description:
  - Appends a line to test-results/runs.jsonl for every run of converge.yml.
requirements: []
"""

RECORD = Path(__file__).resolve().parents[3] / "test-results" / "runs.jsonl"


class CallbackModule(CallbackBase):  # type: ignore[misc] # ansible ships no types
    """Keeps each task's outcome by host."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "vmesh_record"
    CALLBACK_NEEDS_ENABLED = False

    def __init__(self) -> None:
        super().__init__()
        self._began = time.monotonic()
        self._playbook = ""
        self._tasks: dict[str, list[tuple[str, str]]] = {}

    def v2_playbook_on_start(self, playbook: Any) -> None:
        self._playbook = Path(playbook._file_name).name
        if self._playbook == "create.yml":
            RECORD.unlink(missing_ok=True)

    def _note(self, result: Any, status: str) -> None:
        done = self._tasks.setdefault(result.host.get_name(), [])
        done.append((result.task.get_name(), status))

    def v2_runner_on_ok(self, result: Any) -> None:
        self._note(result, "changed" if result.result.get("changed") else "ok")

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._note(result, "skipped")

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._note(result, "failed")

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._note(result, "unreachable")

    def v2_playbook_on_stats(self, stats: Any) -> None:
        if self._playbook != "converge.yml":
            return
        RECORD.parent.mkdir(parents=True, exist_ok=True)
        with RECORD.open("a") as record:
            line = {
                "check": bool(context.CLIARGS["check"]),
                "seconds": round(time.monotonic() - self._began, 1),
                "tasks": self._tasks,
                "counts": {host: stats.summarize(host) for host in sorted(stats.processed)},
            }
            record.write(json.dumps(line) + "\n")
