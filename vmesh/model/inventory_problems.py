"""The messages of what is wrong with an inventory's variables.

The messages of values that the schema refuses are in `vmesh.model.explain`.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vmesh.base.problems import HIDDEN, Problem
from vmesh.base.words import shorter
from vmesh.model import schema
from vmesh.model.ansible_values import ABSENT, origin, shown
from vmesh.model.shared_variables import PER_HOST, Variant

# What stands below this key of a service may be secret.
_SECRETS = ".app.environment"
_FACT = re.compile(r"\bansible_(?!host\b|port\b|user\b|version\b|connection\b|ssh_)\w+")


def find_object(value: Any, wanted: Any, where: str) -> tuple[str, Any] | None:
    """Return where in `value` the very object `wanted` is, which Ansible's errors carry."""
    if value is wanted:
        return where, value
    if isinstance(value, Mapping):
        inner = ((f"{where}.{key}", item) for key, item in value.items())
    elif isinstance(value, list | tuple):
        inner = ((f"{where}[{index}]", item) for index, item in enumerate(value))
    else:
        return None
    return next((found for key, item in inner if (found := find_object(item, wanted, key))), None)


def why(error: BaseException) -> str:
    """Return what Ansible's `error` says, with the file and line where it knows them."""
    message = str(error).rstrip(".")
    cause: BaseException | None = error
    while cause is not None:
        if place := origin(getattr(cause, "obj", None)):
            return f"{message} ({place})"
        cause = cause.__cause__ or cause.__context__
    return message


def remedy(error: BaseException, value: Any) -> str:
    """Return what the user can do about Ansible's `error` with `value`."""
    if isinstance(value, str) and (fact := _FACT.search(value)):
        return (
            f"Facts, and what a run alone knows, as {fact[0]}, are not there when the mesh is"
            " planned, also for hosts that cannot be reached then; set a variable of the inventory"
        )
    if "no vault secrets" in str(error) or "vault password file" in str(error):
        return "Name the file with the vault's password in ANSIBLE_VAULT_PASSWORD_FILE"
    if "is undefined" in str(error):
        return "Define that variable, or mend its name"
    return "Mend it there"


def disagreement(
    name: str, usual: Variant, other: Variant, is_encrypted: Callable[[Any], bool]
) -> Problem:
    """Return the problem of the variable `name`, which has two values in the inventory."""
    where, value = _difference(usual.value, other.value, name)
    near = difflib.get_close_matches(name, PER_HOST, n=1, cutoff=0.8)
    return Problem(
        f"{shorter(other.hosts, 1)}: {where}",
        HIDDEN if _SECRETS in where or is_encrypted(value) else shown(value),
        f"is set differently for {usual.hosts[0]}; the mesh is described once",
        f"Did you mean `{near[0]}`?" if near else f"Set {name} in group_vars/all and nowhere else",
    )


def template_differs(
    hosts: Sequence[str],
    path: schema.KeyPath,
    first: tuple[str, Any],
    other: Any,
    secrets: set[str],
) -> Problem:
    """Return the problem of a template that is `other` on `hosts`.

    first: the host that was asked first, and what the template is there
    secrets: texts that no message may show
    """
    host, one = first

    def told(value: Any) -> Any:
        text = repr(value) if value is ABSENT else shown(value)
        return HIDDEN if any(secret in str(text) for secret in secrets) else text

    return Problem(
        f"{shorter(hosts, 1)}: {schema.where(path)}",
        told(other),
        f"is something else for {host}: {json.dumps(told(one), ensure_ascii=False)}, as its"
        " template differs from host to host; the mesh is described once",
        "Let it be the same for all hosts; only an app's `environment` may be each host's own",
    )


def _difference(usual: Any, other: Any, where: str) -> tuple[str, Any]:
    """Return the first place at which `other` differs from `usual`, and what is there."""
    if isinstance(usual, Mapping) and isinstance(other, Mapping):
        for key in (*other, *usual):
            if key not in usual or key not in other:
                return f"{where}.{key}", other.get(key)
            if usual[key] is not other[key] and usual[key] != other[key]:
                return _difference(usual[key], other[key], f"{where}.{key}")
    return where, other
