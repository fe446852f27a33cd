"""Values as Ansible hands them out: templates, tags, what the vault keeps, where each was read.

What this package knows of Ansible's own classes stands here and in `load` of
`vmesh.model.inventory`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ENCRYPTED_FILE = b"$ANSIBLE_VAULT"


class _Absent:
    """In place of a value that Ansible leaves out, by `omit`."""

    def __repr__(self) -> str:
        return "not set"


ABSENT = _Absent()


def plain(value: Any) -> Any:
    """Return `value` as builtin types: Ansible 2.19 hands out tagged subclasses of them."""
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    for builtin in (int, float):
        if isinstance(value, builtin):
            return builtin(value)
    return str(value).encode().decode()


def shown(value: Any) -> Any:
    """Return what a message may show of `value`, which may hold secrets: a text or number."""
    return plain(value) if isinstance(value, str | bool | int | float) else None


def is_settled(value: Any) -> bool:
    """Tell whether Ansible has nothing to do in `value`: no template, nothing encrypted.

    Most values of an inventory are like that, and asking its templating about every one of
    them takes longer than all else. In doubt the answer is no.
    """
    if isinstance(value, str):
        return "{" not in value and not value.startswith("#jinja2:")
    if isinstance(value, Mapping):
        return all(map(is_settled, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_settled, value))
    return value is None or isinstance(value, bool | int | float)


def resolver(
    hostvars: Mapping[str, Mapping[str, Any]], raw: Mapping[str, Any]
) -> Callable[[Any], Any]:
    """Return what resolves a value as Ansible does for the host with the variables `raw`.

    Facts are left out, also those that Ansible keeps from an earlier run: what the mesh is must not
    depend on whether they were gathered.
    """

    @functools.cache
    def templar() -> Any:
        from ansible.template import Templar  # noqa: PLC0415

        facts = raw.get("ansible_facts") or {}
        gathered = {"ansible_facts", "ansible_local"} | {f"ansible_{name}" for name in facts}
        variables = {name: value for name, value in raw.items() if name not in gathered}
        # Ansible's own HostVars has what finds the files that lookups name.
        loader = getattr(hostvars, "_loader", None)
        return Templar(loader=loader, variables={**variables, "hostvars": hostvars})

    # What is omitted is left out of what is around it.
    return lambda value: templar().template({"value": value}).get("value", ABSENT)


def origin(value: Any) -> Any:
    """Return the place that `value` was read from (it has a `path`), or None.

    Ansible 2.19 and later keep that in a module that they call internal. Without it, messages
    name no file, and a warning of a secret in plain text may be needless.
    """
    try:
        from ansible._internal._datatag._tags import Origin  # noqa: PLC0415
    except ImportError:
        return None
    return value if isinstance(value, Origin) else Origin.get_tag(value)


def encryption_test() -> Callable[[Any], bool]:
    """Return what tells whether a value stands in a file that is encrypted as a whole."""

    @functools.cache
    def is_encrypted_file(path: str) -> bool:
        try:
            with Path(path).open("rb") as file:
                return file.read(len(ENCRYPTED_FILE)) == ENCRYPTED_FILE
        except OSError:
            return False

    def is_encrypted(value: Any) -> bool:
        path = getattr(origin(value), "path", None)
        return path is not None and is_encrypted_file(path)

    return is_encrypted


def vault_test() -> Callable[[Any], bool]:
    """Return what tells whether a value was decrypted from an encrypted one in the inventory."""
    try:
        from ansible.parsing.vault import VaultedValue  # noqa: PLC0415
    except ImportError:
        return lambda _: False
    is_vaulted: Callable[[Any], bool] = VaultedValue.is_tagged_on
    return is_vaulted
