"""What a host answers when it is asked what it is and what it has (playbooks/files/answer.py)."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

from vmesh import paths

PROGRAM = paths.PROJECT / "playbooks" / "files" / "answer.py"


def test_a_host_without_anything_of_vmesh_says_so() -> None:
    # As playbooks/prepare.yml starts it: the text of the file, by the host's own Python.
    command = [sys.executable, "-c", PROGRAM.read_text()]
    told = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    assert told["arch"] == platform.machine()
    assert told["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert (told["parts"], told["newest"], told["interrupted"]) == ([], 0, False)
    assert {"os", "os_version", "authorities"} <= told.keys()
