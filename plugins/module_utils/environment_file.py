# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""Files of environment variables, as systemd reads them (EnvironmentFile= in systemd.exec(5))."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

# Between double quotes a backslash stands before each of these; before another character it stands
# for itself (SHELL_NEED_ESCAPE in systemd's src/basic/escape.h).
_ESCAPED = r"[\"\\$`]"
_ENTRY = re.compile(r'^(\w+)=(?:"((?:[^"\\]|\\[\s\S])*)"|(.*))$', re.MULTILINE)


def read_environment(text: str) -> dict[str, str]:
    """Return the variables of a file of NAME="value" or NAME=value entries.

    A value in quotes may go over several lines.
    """
    return {
        name: bare or re.sub(rf"\\({_ESCAPED})", r"\1", quoted)
        for name, quoted, bare in _ENTRY.findall(text)
    }


def environment_text(comment: str, *groups: Mapping[str, object]) -> str:
    """Return the text of such a file, with `comment` on its first line.

    groups: variables by name. Each group is sorted by name, without regard to case.
    """
    return f"# {comment}\n" + "".join(_entries(groups))


def _entries(groups: Iterable[Mapping[str, object]]) -> Iterable[str]:
    for group in groups:
        for name in sorted(group, key=str.lower):
            value = re.sub(f"({_ESCAPED})", r"\\\1", str(group[name]))
            yield f'{name}="{value}"\n'
