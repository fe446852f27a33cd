"""Why an Ansible task failed, in its own words. Pure; for filters and callbacks alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Ansible's word for a command's exit status, which says less than the command did.
_STATUS = "non-zero return code"


def cause(result: Mapping[str, Any]) -> str:
    """Return why a task failed, from its result: the messages of all that failed in it."""
    items = [item for item in result.get("results") or () if isinstance(item, Mapping)]
    failed = [item for item in items if item.get("failed") or item.get("unreachable")]
    told = [_message(each) for each in failed or [result]]
    return "\n".join(filter(None, dict.fromkeys(told))) or "no reason was given"


def _message(result: Mapping[str, Any]) -> str:
    text = str(result.get("msg") or "").strip()
    for stream in ("stderr", "module_stderr"):
        said = str(result.get(stream) or "").strip()
        if said and said not in text:
            text = said if text == _STATUS else f"{text}\n{said}".strip()
    return text
