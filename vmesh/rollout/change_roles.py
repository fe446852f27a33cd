"""What changes in the roles that install a part: what they write, and the user's settings."""

from __future__ import annotations

from vmesh.rollout.change_words import arrow, differing, format_value
from vmesh.rollout.record import HostRecord


def setting_changes(old: HostRecord, new: HostRecord, prefix: str) -> list[str]:
    """Return what changes in the settings of the role with this prefix."""
    before, after = old["settings"], new["settings"]
    return [
        arrow(f"setting {name}:", format_value(was), format_value(becomes))
        for name, was, becomes in differing(before, after)
        if name.startswith(prefix)
    ]


def role_differs(old: HostRecord, new: HostRecord, role: str) -> bool:
    """Tell whether the role that wrote `new` is another than the one that wrote `old`."""
    return bool(old["roles"].get(role) != new["roles"].get(role))


def role_words(what: str) -> str:
    """Say that `what` may change with the role."""
    return f"{what} may be written differently by this version of vmesh"
