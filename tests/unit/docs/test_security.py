"""The page on security names tests that are there."""

from __future__ import annotations

import re

from tests.documents import DOCS
from vmesh.base import paths

TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def test_each_named_test_is_there() -> None:
    named = TEST.findall((DOCS / "security.md").read_text())
    missing = [
        (file, name)
        for file, name in named
        if f"\ndef {name}(" not in (paths.PROJECT / file).read_text()
    ]
    assert len(named) > 30
    assert missing == []
