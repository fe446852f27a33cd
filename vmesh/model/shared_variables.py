"""The mesh_* variables that all hosts share, with the templates in them, as data.

The reader (`vmesh.model.inventory_reader`) reads a shared variable once and resolves only its
templates for each host. Functions that find, compare and replace values in such a variable belong
here; they know neither hosts nor messages.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vmesh.model.ansible_values import ABSENT, is_settled, plain, shown
from vmesh.model.schema import KeyPath

# Every mesh_* variable describes the mesh as a whole, except what a host says of itself.
SHARED_PREFIX = "mesh_"
PER_HOST = ("mesh_address", "mesh_zone")

# Where a service is: ("group", name), ("host", name), or EVERYWHERE.
Place = tuple[str, str]
EVERYWHERE = ("everywhere", "")

# The path of an app's environment within its service; each host may have another one.
ENVIRONMENT = ("app", "environment")

_NAME = re.compile(r"[A-Za-z_]\w*")
# With these a template may use variables that it does not name.
_INDIRECT = frozenset({"hostvars", "vars", "lookup", "query", "q"})
_DIRECT_LOOKUP = re.compile(r"""\b(lookup|query|q)\(\s*(['"])(ansible\.builtin\.)?(env|file)\2""")


def is_shared(name: str) -> bool:
    """Tell whether all hosts share the variable `name`."""
    return name.startswith(SHARED_PREFIX) and name not in PER_HOST


@dataclass(frozen=True)
class OpenValue:
    """What Ansible resolves in a shared variable, and the path to it.

    is_template: it may be another thing on each host; what is encrypted is the same on all
    """

    path: KeyPath
    value: Any
    is_template: bool


@dataclass(frozen=True)
class ResolvedValue:
    """What Ansible made of something on the first host that was asked.

    used: all variables, as they stand in the inventory, that it can depend on; None if there is no
      telling
    """

    value: Any
    host: str
    used: Mapping[str, Any] | None


@dataclass
class Variant:
    """One value that a shared variable has, as it stands in the inventory, and where.

    shared: what is to be resolved on every host
    own: what is to be resolved on the hosts of a service; placed: the same, by where that is
    """

    value: Any
    shared: tuple[OpenValue, ...]
    own: tuple[OpenValue, ...]
    hosts: list[str] = field(default_factory=list)
    found: dict[KeyPath, ResolvedValue] = field(default_factory=dict)
    placed: dict[Place, list[OpenValue]] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, value: Any) -> Variant:
        """Return the variant of the variable `name` with this value."""
        found = tuple(open_values(value, (name,)))
        own = tuple(filter(in_environment, found))
        return cls(value, tuple(itertools.filterfalse(in_environment, found)), own)


def in_environment(what: OpenValue) -> bool:
    """Tell whether it is an app's environment or in one, which each host has for itself."""
    return what.path[0] == "mesh_services" and what.path[2:4] == ENVIRONMENT


def _step(key: Any) -> str:
    """Return a key as it stands in a path: a number too is a key's name, not a place in a list."""
    return str(plain(key))


def item_at(value: Mapping[Any, Any], step: str | int) -> Any:
    """Return the item of `value` whose key is written `step` in a path."""
    return next(item for key, item in value.items() if _step(key) == step)


def open_values(value: Any, path: KeyPath) -> Iterator[OpenValue]:
    """Yield what Ansible has to resolve in `value`."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from open_values(item, (*path, _step(key)))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from open_values(item, (*path, index))
    elif not is_settled(value):
        yield OpenValue(path, value, isinstance(value, str))


def variables_used(template: str, raw: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return all that `template` can depend on of a host's variables `raw`; None: no telling.

    Every word in it may be a variable's name, also that of one which the host does not have, and
    so may those in the templates of these variables.
    """
    used: dict[str, Any] = {}
    texts: list[Any] = [template]
    while texts:
        names = set(_NAME.findall(_DIRECT_LOOKUP.sub("", texts.pop())))
        if names & _INDIRECT:
            return None
        for name in names - used.keys():
            used[name] = raw.get(name, ABSENT)
            texts += [each.value for each in open_values(used[name], ()) if each.is_template]
    return used


def closed(value: Any, path: KeyPath, found: Mapping[KeyPath, ResolvedValue]) -> Any:
    """Return `value` with what was found in place of what Ansible had to resolve."""
    if isinstance(value, Mapping):
        items = {
            plain(key): closed(item, (*path, _step(key)), found) for key, item in value.items()
        }
        return {key: item for key, item in items.items() if item is not ABSENT}
    if isinstance(value, list | tuple):
        listed = [closed(item, (*path, index), found) for index, item in enumerate(value)]
        return [item for item in listed if item is not ABSENT]
    if path in found:
        return found[path].value
    # What could not be resolved is told already, or is of a service that is on no host.
    return plain(value) if is_settled(value) else shown(value)


def differences(one: Any, other: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any, Any]]:
    """Yield the paths to what differs, with both values; an environment is told as a whole."""
    if one == other and type(one) is type(other):
        return
    if path[2:4] != ENVIRONMENT and isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in {**one, **other}:
            yield from differences(
                one.get(key, ABSENT), other.get(key, ABSENT), (*path, _step(key))
            )
    else:
        yield path, one, other


def replaced(value: Any, path: KeyPath, new: Any) -> Any:
    """Return a copy of `value` with `new` at `path` in it."""
    if not path:
        return {} if new is ABSENT else new
    copy = {_step(key): item for key, item in value.items()} if isinstance(value, Mapping) else {}
    step = str(path[0])
    copy[step] = replaced(copy.get(step), path[1:], new) if path[1:] else new
    return {key: item for key, item in copy.items() if item is not ABSENT}


def hidden_texts(
    raw: Any, resolved: Any, path: tuple[str, ...], is_encrypted: Callable[[Any], bool]
) -> Iterator[tuple[str, ...]]:
    """Yield the paths to what `resolved` says in plain text and `raw` does not."""
    if isinstance(raw, Mapping) and isinstance(resolved, Mapping):
        for key, item in raw.items():
            if (name := plain(key)) in resolved:
                yield from hidden_texts(item, resolved[name], (*path, str(name)), is_encrypted)
    elif isinstance(raw, list) and isinstance(resolved, list) and len(raw) == len(resolved):
        for index, item in enumerate(raw):
            yield from hidden_texts(item, resolved[index], (*path, str(index)), is_encrypted)
    elif not is_settled(raw) and shown(raw) != resolved:
        yield from _leaves(resolved, path)
    elif is_encrypted(raw):
        yield path


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, (*path, str(key)))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, str(index)))
    else:
        yield path
