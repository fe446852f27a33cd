"""What hosts answer a command of the controller: one JSON file a host, in a folder of the command.

Answers are too long for Ansible's output, or not for everybody.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

Answer = dict[str, Any]


def write(folder: Path, host: str, answer: Answer) -> None:
    """Write the answer of a host, for the user alone; raises OSError."""
    path = _path(folder, host)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(answer, file)


def read(folder: Path, hosts: Iterable[str]) -> dict[str, Answer]:
    """Return host -> answer for those of `hosts` that have answered."""
    found = {host: _path(folder, host) for host in hosts}
    return {host: json.loads(path.read_text()) for host, path in found.items() if path.is_file()}


def _path(folder: Path, host: str) -> Path:
    return folder / f"{quote(host, safe='')}.json"
