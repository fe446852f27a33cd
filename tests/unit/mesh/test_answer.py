"""What a host answers when it is asked what it is and what it has (playbooks/files/answer.py)."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vmesh.base import paths

PROGRAM = paths.PROJECT / "playbooks" / "files" / "answer.py"


def test_a_host_without_anything_of_vmesh_says_so() -> None:
    # As playbooks/prepare.yml starts it: the text of the file, by the host's own Python.
    command = [sys.executable, "-c", PROGRAM.read_text()]
    told = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    assert told["arch"] == platform.machine()
    assert told["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert (told["parts"], told["newest"], told["interrupted"]) == ([], 0, {})
    assert {"os", "os_version", "authorities"} <= told.keys()


@pytest.mark.parametrize(
    ("text", "run", "who"),
    [('{"run": 7, "who": "ann@tower"}', 7, "ann@tower"), ('{"run": 7}', 7, ""), ("{", 0, "")],
    ids=["by ann", "by an earlier version", "in pieces"],
)
def test_a_run_that_has_not_ended_is_told(tmp_path: Path, text: str, run: int, who: str) -> None:
    (tmp_path / "pending.json").write_text(text)
    begun = time.time() - 40
    os.utime(tmp_path / "pending.json", (begun, begun))
    program = PROGRAM.read_text().replace("/var/lib/vmesh", str(tmp_path))
    command = [sys.executable, "-c", program]
    told = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    seconds = told["interrupted"].pop("seconds")
    assert told["interrupted"] == {"run": run, "who": who}
    assert 40 <= seconds < 80
