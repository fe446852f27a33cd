"""The configuration folder that the README of the role envoy shows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from vmesh.base import paths

_README = (paths.PROJECT / "roles" / "envoy" / "README.md").read_text()
FILES: dict[str, str] = dict(
    re.findall(r"<!-- file: (\S+) -->\n```json\n(.*?)```", _README, re.DOTALL)
)


def written(folder: Path, replaced: Mapping[str, str]) -> Path:
    """Write the files to `folder`, with other texts in the place of some; return it.

    Raises AssertionError where such a text is in no file.
    """
    for before in replaced:
        assert any(before in text for text in FILES.values()), before
    for name, text in FILES.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        content = text
        for before, after in replaced.items():
            content = content.replace(before, after)
        file.write_text(content)
    return folder
