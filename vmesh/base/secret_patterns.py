"""What looks like a secret: the names that secrets have, and values that are hardly anything else.

Three places ask, and their mistakes do not cost the same. A warning about a variable that holds no
secret teaches the user to overlook warnings, so those know only names that are clear. A record is
made to be committed, so it leaves out what could be a secret; a diff without a harmless value is
no loss. Headers have words of their own, as Authorization is one.
"""

from __future__ import annotations

import re
from typing import Any

# Key paths of the texts that do not stand in plain in the inventory, as those of Ansible Vault.
Hidden = frozenset[tuple[str, ...]]

_ANY_NAME = "password|secret|token|credential"
_VARIABLE = re.compile(rf"{_ANY_NAME}|passwd|private_key|api_?key|access_key", re.IGNORECASE)
_HEADER = re.compile(rf"{_ANY_NAME}|auth|key|cookie|signature", re.IGNORECASE)
_RECORDED = re.compile(
    rf"{_ANY_NAME}|pass|pwd|key|auth|private|cert|salt|dsn|cookie|session", re.IGNORECASE
)
_VALUE = re.compile(
    r"://[^/@\s]*:[^/@\s]+@"  # a URL with a password
    r"|-----BEGIN"
    r"|^(?=\S*[a-z])(?=\S*\d)[\w+/=.~-]{24,}$",  # long, without blanks, letters and digits
    re.IGNORECASE,
)


def variable_looks_secret(name: str) -> bool:
    """Tell whether an environment variable's name says that its value is a secret."""
    return _VARIABLE.search(name) is not None


def header_looks_secret(name: str) -> bool:
    """Tell whether an HTTP header's name says that its value is a secret."""
    return _HEADER.search(name) is not None


def may_be_secret(name: str, value: Any) -> bool:
    """Tell whether a variable may hold a secret, by its name or its value."""
    return bool(_RECORDED.search(name) or _VALUE.search(str(value)))
