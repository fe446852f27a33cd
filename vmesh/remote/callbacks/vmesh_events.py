"""Ansible callback: what happens, as one JSON object a line, in the file $VMESH_EVENTS.

`./mesh up` and `./mesh test` follow that file to show progress and to name what failed;
Ansible's own output stays as it is and goes to the log.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from vmesh.base.failures import cause

DOCUMENTATION = """
name: vmesh_events
type: notification
short_description: writes progress for ./mesh
description:
  - Appends one JSON object a line to the file named by the environment variable VMESH_EVENTS.
  - Does nothing without that variable.
requirements: []
"""


class CallbackModule(CallbackBase):  # type: ignore[misc] # ansible ships no types
    """Tells a follower which play and task run and how each host fares."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "vmesh_events"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        path = os.environ.get("VMESH_EVENTS")
        # Line-buffered, so that the follower never waits for a full buffer.
        self._file = open(path, "a", buffering=1) if path else None  # noqa: PTH123, SIM115
        if self._file is None:
            self.disabled = True

    def _say(self, event: str, **more: Any) -> None:
        if self._file is not None:
            line = json.dumps({"event": event, "at": round(time.time(), 3), **more}, default=str)
            self._file.write(f"{line}\n")

    def _result(self, event: str, result: Any, **more: Any) -> None:
        self._say(event, host=result.host.get_name(), task=result.task.get_name(), **more)

    def v2_playbook_on_play_start(self, play: Any) -> None:
        self._say("play", name=play.get_name())

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        self._say("task", name=task.get_name())

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        self._say("task", name=task.get_name())

    def v2_runner_on_ok(self, result: Any) -> None:
        self._result("changed" if result.result.get("changed") else "ok", result)

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._result("skipped", result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            self._result("failed", result, message=cause(result.result))

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._result("unreachable", result, message=cause(result.result))

    def v2_playbook_on_stats(self, stats: Any) -> None:
        hosts = {host: stats.summarize(host) for host in sorted(stats.processed)}
        self._say("stats", hosts=hosts)
