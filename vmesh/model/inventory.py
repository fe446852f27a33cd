"""The inventory as plain data: the one thing that compile reads."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vmesh.base import paths
from vmesh.base.problems import HIDDEN, Problem, Problems, without

# Host variables that vmesh reads; everything else in an inventory is the user's own.
PREFIXES = ("mesh_", "lab_", "envoy_", "flask_service_", "jaeger_", "ansible_ssh_")
CONNECTION = ("ansible_connection", "ansible_host", "ansible_port", "ansible_user")

# Every mesh_* variable describes the mesh as a whole, except what a host says of itself.
SHARED_PREFIX = "mesh_"
PER_HOST = ("mesh_address", "mesh_zone")

# What stands below this key of a service may be secret.
_SECRETS = ".app.environment"

ENCRYPTED_FILE = b"$ANSIBLE_VAULT"


@dataclass(frozen=True)
class Inventory:
    """Groups, each host's own variables, and the mesh_* variables that all hosts share.

    `hidden` tells which texts of `mesh` do not stand in the inventory in plain text, as they
    come from Ansible Vault or from a template. Each is the way to it, as in ("mesh_services",
    "shop", "app", "environment", "PASSWORD"); a place in a list is its number, as a text.

    `secrets` are the texts, of `mesh` and of the hosts' variables, that are known to come from
    Ansible Vault, inline or in an encrypted file, also by way of a template that is nothing but
    the variable's name.

    `environments` are those of apps by host and service, where a template gives a host another one
    than `mesh` has, which is that of the service's first host.

    `lacking` tells which hosts have something of `mesh`, but not all: variable -> a host that has
    it, and those that do not.
    """

    source: Path
    groups: dict[str, tuple[str, ...]]
    hosts: dict[str, dict[str, Any]]
    mesh: dict[str, Any]
    hidden: frozenset[tuple[str, ...]] = frozenset()
    secrets: frozenset[str] = frozenset()
    environments: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    lacking: Mapping[str, tuple[str, frozenset[str]]] = field(default_factory=dict)


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


def _is_shared(name: str) -> bool:
    return name.startswith(SHARED_PREFIX) and name not in PER_HOST


def _is_settled(value: Any) -> bool:
    """Tell whether Ansible has nothing to do in `value`: no template, nothing encrypted.

    Most values of an inventory are like that, and asking its templating about every one of
    them takes longer than all else. In doubt the answer is no.
    """
    if isinstance(value, str):
        return "{" not in value and not value.startswith("#jinja2:")
    if isinstance(value, Mapping):
        return all(map(_is_settled, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_settled, value))
    return value is None or isinstance(value, bool | int | float)


class _Absent:
    """In place of a value that Ansible leaves out, by `omit`."""

    def __repr__(self) -> str:
        return "not set"


_ABSENT = _Absent()
# Where a service is: ("group", name), ("host", name), or _EVERYWHERE.
_Place = tuple[str, str]
_EVERYWHERE = ("everywhere", "")
# In a shared variable: names of keys, and a place in a list as a number.
_Way = tuple[str | int, ...]


@dataclass(frozen=True)
class _Open:
    """What Ansible resolves in a shared variable, and the way to it.

    is_template: it may be another thing on each host; what is encrypted is the same on all
    """

    way: _Way
    value: Any
    is_template: bool


@dataclass(frozen=True)
class _Found:
    """What Ansible made of something on the first host that was asked.

    used: all variables, as they stand in the inventory, that it can depend on; None if there is no
      telling
    """

    value: Any
    host: str
    used: Mapping[str, Any] | None


@dataclass
class _Variant:
    """One value that a shared variable has, as it stands in the inventory, and where.

    shared: what is to be resolved on every host
    own: what is to be resolved on the hosts of a service; placed: the same, by where that is
    """

    value: Any
    shared: tuple[_Open, ...]
    own: tuple[_Open, ...]
    hosts: list[str] = field(default_factory=list)
    found: dict[_Way, _Found] = field(default_factory=dict)
    placed: dict[_Place, list[_Open]] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, value: Any) -> _Variant:
        """Return the variant of the variable `name` with this value."""
        found = tuple(_open(value, (name,)))
        own = tuple(filter(_in_environment, found))
        return cls(value, tuple(itertools.filterfalse(_in_environment, found)), own)


@dataclass(frozen=True)
class _Asked:
    """A host, its variables as they stand in the inventory, and what resolves texts for it."""

    name: str
    raw: Mapping[str, Any]
    resolve: Callable[[Any], Any]


class _Reader:
    """Reads the variables of one host after the other, and collects what is wrong with them.

    `hostvars` is Ansible's own HostVars or, in tests, a mapping of mappings; its `raw_get` returns
    what stands in the inventory.
    """

    def __init__(
        self, groups: Mapping[str, Iterable[str]], hostvars: Mapping[str, Mapping[str, Any]]
    ) -> None:
        from ansible.errors import AnsibleError  # noqa: PLC0415

        self.error = AnsibleError
        self.groups = {name: frozenset(members) for name, members in groups.items()}
        self.hostvars = hostvars
        self.names = frozenset(hostvars)
        self.places: dict[str, list[_Place]] = {
            name: [("host", name), _EVERYWHERE] for name in self.names
        }
        for group, members in self.groups.items():
            for member in members & self.names:
                self.places[member].append(("group", group))
        self.problems: list[Problem] = []
        self.shared: dict[str, list[_Variant]] = {}
        self.secrets: set[str] = set()
        self.is_encrypted = _encryption()
        self.is_vaulted = _vaulting()
        # What is wrong -> the hosts of which it was told.
        self.unresolved: dict[Problem, list[str]] = {}
        self.apart: dict[_Way, list[tuple[Any, Any, str, str]]] = {}
        self.environments: dict[str, dict[str, list[tuple[_Way, Any]]]] = {}

    def host(self, name: str) -> dict[str, Any]:
        """Return the host's own variables, resolved; take note of those it shares."""
        raw = self._raw(name)
        host = _Asked(name, raw, _resolver(self.hostvars, raw))
        own: dict[str, Any] = {}
        for variable, value in raw.items():
            if _is_shared(variable):
                self._note(host, plain(variable), value)
            elif variable.startswith(PREFIXES) or variable in CONNECTION:
                found = self._own(host, variable, value)
                if found is not _ABSENT:
                    own[plain(variable)] = found
        return own

    def _raw(self, host: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = getattr(self.hostvars, "raw_get", self.hostvars.__getitem__)(
            host
        )
        return found

    def _own(self, host: _Asked, name: str, raw: Any) -> Any:
        try:
            value = raw if _is_settled(raw) else host.resolve(raw)
            self.secrets.update(self._secrets(value))
            return value if value is _ABSENT else plain(value)
        except self.error as error:
            place = _place(raw, getattr(error, "obj", raw), name)
            where, value = place if place else (name, raw)
            self.problems.append(
                Problem(f"{host.name}: {where}", _shown(value), _why(error), _remedy(error, value))
            )
            return None

    def _secrets(self, value: Any) -> Iterator[str]:
        """Yield the texts in `value`, as Ansible resolved it, that the vault keeps."""
        if isinstance(value, Mapping):
            for item in value.values():
                yield from self._secrets(item)
        elif isinstance(value, list | tuple):
            for item in value:
                yield from self._secrets(item)
        elif isinstance(value, str) and (self.is_vaulted(value) or self.is_encrypted(value)):
            yield plain(value)

    def _note(self, host: _Asked, name: str, value: Any) -> None:
        """Take note of what a shared variable is on a host, whose templates are resolved there."""
        variants = self.shared.setdefault(name, [])
        # Ansible reads each file once, so this is nearly always the very same object.
        fitting = (each for each in variants if each.value is value)
        variant = next(fitting, None) or next(
            (each for each in variants if self._equal(each.value, value)), None
        )
        if variant is None:
            variant = _Variant.of(name, value)
            variants.append(variant)
        variant.hosts.append(host.name)
        self._ask_all(host, variant, variant.shared)
        if variant.own and not variant.placed:
            # Which hosts a service has may be a template too, and that is known only now.
            for each in variant.own:
                where = self._where(variant, each.way[1]) if each.is_template else _EVERYWHERE
                variant.placed.setdefault(where, []).append(each)
        if variant.placed:
            for place in self.places[host.name]:
                self._ask_all(host, variant, variant.placed.get(place, ()))

    def _equal(self, one: Any, other: Any) -> bool:
        try:
            return bool(one == other)
        except self.error:  # to compare what is encrypted is to decrypt it
            return False

    def _ask_all(self, host: _Asked, variant: _Variant, what: Iterable[_Open]) -> None:
        for each in what:
            self._ask(host, variant, each)

    def _ask(self, host: _Asked, variant: _Variant, what: _Open) -> None:
        """Resolve one template on a host, and compare with what it is on the first one."""
        known = variant.found.get(what.way)
        if known is not None and self._has_the_same(host.raw, known.used):
            return
        try:
            value = host.resolve(what.value)
        except self.error as error:
            problem = Problem(
                _dotted(what.way), _shown(what.value), _why(error), _remedy(error, what.value)
            )
            self.unresolved.setdefault(problem, []).append(host.name)
            return
        self.secrets.update(self._secrets(value))
        value = value if value is _ABSENT else plain(value)
        if known is None:
            used = _used(what.value, host.raw) if what.is_template else {}
            variant.found[what.way] = _Found(value, host.name, used)
            return
        for way, one, other in _apart(known.value, value, what.way):
            if way[2:4] == _ENVIRONMENT:
                services = self.environments.setdefault(host.name, {})
                services.setdefault(str(way[1]), []).append((way[4:], other))
            else:
                self.apart.setdefault(way, []).append((one, other, known.host, host.name))

    def _has_the_same(self, raw: Mapping[str, Any], used: Mapping[str, Any] | None) -> bool:
        """Tell whether a host's variables `raw` are those that were `used` before.

        A secret is not the same as an equal text in plain, which nobody need hide.
        """
        return used is not None and all(
            (other := raw.get(name, _ABSENT)) is value
            or (
                isinstance(value, str | int)
                and type(value) is type(other)
                and value == other
                and not self.is_encrypted(other)
            )
            for name, value in used.items()
        )

    def _where(self, variant: _Variant, service: str | int) -> _Place:
        """Return where a service is, of which the group may be a template."""
        found = variant.found.get(("mesh_services", service, "group"))
        return self._place(
            found.value if found else _at(variant.value, service).get("group"), service
        )

    def _place(self, group: Any, service: str | int) -> _Place:
        """Return the place of a service by its `group`: a group's name, or a host's.

        What is on no host, which is a mistake, is looked at on all of them.
        """
        name = str(service if group is None or group is _ABSENT else group)
        if self.groups.get(name):
            return ("group", name)
        return ("host", name) if name in self.names else _EVERYWHERE

    def mesh(self) -> tuple[dict[str, Any], frozenset[tuple[str, ...]]]:
        """Return the shared variables and the ways to the hidden texts.

        Where hosts disagree, that is a problem, and most of them are right.
        """
        mesh: dict[str, Any] = {}
        hidden: set[tuple[str, ...]] = set()
        is_encrypted = self.is_encrypted
        for name, variants in self.shared.items():
            usual = max(variants, key=lambda variant: len(variant.hosts))
            self.problems += [
                _disagreement(name, usual, other, is_encrypted)
                for other in variants
                if other is not usual
            ]
            value = _closed(usual.value, (name,), usual.found)
            self.secrets.update(self._secrets(usual.value))
            if value is not _ABSENT:
                mesh[name] = value
                hidden.update(_hidden(usual.value, value, (name,), is_encrypted))
        self.problems += [
            dataclasses.replace(problem, variable=f"{in_short(hosts)}: {problem.variable}")
            for problem, hosts in self.unresolved.items()
        ]
        self.problems += [self._told_apart(way, found) for way, found in self.apart.items()]
        return mesh, frozenset(hidden)

    def _told_apart(self, way: _Way, found: list[tuple[Any, Any, str, str]]) -> Problem:
        one, other, first, host = found[0]
        # Of a text that a template makes with a secret, only the secret itself is known as one.
        vaulted = {text for each in (first, host) for text in self._vaulted(self._raw(each))}
        secrets = (vaulted | self.secrets) - {""}

        def told(value: Any) -> Any:
            text = repr(value) if value is _ABSENT else _shown(value)
            return HIDDEN if any(secret in str(text) for secret in secrets) else text

        return Problem(
            f"{in_short([each[3] for each in found])}: {_dotted(way)}",
            told(other),
            f"is something else for {first}: {json.dumps(told(one), ensure_ascii=False)}, as its"
            " template differs from host to host; the mesh is described once",
            "Let it be the same for all hosts; only an app's `environment` may be each host's own",
        )

    def _vaulted(self, value: Any) -> Iterator[str]:
        """Yield the texts in `value`, as it stands in the inventory, that the vault keeps."""
        if isinstance(value, Mapping):
            for item in value.values():
                yield from self._vaulted(item)
        elif isinstance(value, list | tuple):
            for item in value:
                yield from self._vaulted(item)
        elif self.is_encrypted(value) or not isinstance(value, str | bool | int | float | None):
            with contextlib.suppress(self.error):
                yield from filter(None, [plain(value)])

    def own_environments(self, mesh: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
        """Return host -> service -> the environment of its app there, where it is not `mesh`'s."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for host, services in self.environments.items():
            for service, changes in services.items():
                given = _at(mesh["mesh_services"], service)
                if self._place(given.get("group"), service) not in self.places[host]:
                    continue
                environment = given["app"].get("environment")
                for way, value in changes:
                    environment = _replaced(environment, way, value)
                found.setdefault(host, {})[service] = environment
        return found

    def lacking(self) -> dict[str, tuple[str, frozenset[str]]]:
        """Return each shared variable that only some hosts have; see Inventory."""
        having = {
            name: [host for variant in variants for host in variant.hosts]
            for name, variants in self.shared.items()
        }
        every = frozenset(host for hosts in having.values() for host in hosts)
        return {
            name: (hosts[0], every.difference(hosts))
            for name, hosts in having.items()
            if len(hosts) < len(every)
        }


_ENVIRONMENT = ("app", "environment")


def _in_environment(what: _Open) -> bool:
    """Tell whether it is an app's environment or in one, which each host has for itself."""
    return what.way[0] == "mesh_services" and what.way[2:4] == _ENVIRONMENT


def _step(key: Any) -> str:
    """Return a key as it stands in a way: a number too is a key's name, not a place in a list."""
    return str(plain(key))


def _at(value: Mapping[Any, Any], step: str | int) -> Any:
    return next(item for key, item in value.items() if _step(key) == step)


def _open(value: Any, way: _Way) -> Iterator[_Open]:
    """Yield what Ansible has to resolve in `value`."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _open(item, (*way, _step(key)))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _open(item, (*way, index))
    elif not _is_settled(value):
        yield _Open(way, value, isinstance(value, str))


_NAME = re.compile(r"[A-Za-z_]\w*")
# With these a template may use variables that it does not name.
_INDIRECT = frozenset({"hostvars", "vars", "lookup", "query", "q"})
_DIRECT_LOOKUP = re.compile(r"""\b(lookup|query|q)\(\s*(['"])(ansible\.builtin\.)?(env|file)\2""")


def _used(template: str, raw: Mapping[str, Any]) -> dict[str, Any] | None:
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
            used[name] = raw.get(name, _ABSENT)
            texts += [each.value for each in _open(used[name], ()) if each.is_template]
    return used


def _closed(value: Any, way: _Way, found: Mapping[_Way, _Found]) -> Any:
    """Return `value` with what was found in place of what Ansible had to resolve."""
    if isinstance(value, Mapping):
        items = {
            plain(key): _closed(item, (*way, _step(key)), found) for key, item in value.items()
        }
        return {key: item for key, item in items.items() if item is not _ABSENT}
    if isinstance(value, list | tuple):
        closed = [_closed(item, (*way, index), found) for index, item in enumerate(value)]
        return [item for item in closed if item is not _ABSENT]
    if way in found:
        return found[way].value
    # What could not be resolved is told already, or is of a service that is on no host.
    return plain(value) if _is_settled(value) else _shown(value)


def _apart(one: Any, other: Any, way: _Way) -> Iterator[tuple[_Way, Any, Any]]:
    """Yield the ways to what differs, with both values; an environment is told as a whole."""
    if one == other and type(one) is type(other):
        return
    if way[2:4] != _ENVIRONMENT and isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in {**one, **other}:
            yield from _apart(one.get(key, _ABSENT), other.get(key, _ABSENT), (*way, _step(key)))
    else:
        yield way, one, other


def _replaced(value: Any, way: _Way, new: Any) -> Any:
    """Return a copy of `value` with `new` at `way` in it."""
    if not way:
        return {} if new is _ABSENT else new
    copy = {_step(key): item for key, item in value.items()} if isinstance(value, Mapping) else {}
    step = str(way[0])
    copy[step] = _replaced(copy.get(step), way[1:], new) if way[1:] else new
    return {key: item for key, item in copy.items() if item is not _ABSENT}


def _dotted(way: _Way) -> str:
    """Return a way as messages tell it: `mesh_services.shop.calls[1]`."""
    return str(way[0]) + "".join(
        f"[{step}]" if isinstance(step, int) else f".{step}" for step in way[1:]
    )


def in_short(names: Sequence[str]) -> str:
    """Return the first of some hosts, and how many more there are."""
    more = len(names) - 1
    return f"{names[0]}{f' and {more} more' if more else ''}"


def _resolver(
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
    return lambda value: templar().template({"value": value}).get("value", _ABSENT)


def _shown(value: Any) -> Any:
    """Return what a message may show of `value`, which may hold secrets: a text or number."""
    return plain(value) if isinstance(value, str | bool | int | float) else None


def _place(value: Any, wanted: Any, where: str) -> tuple[str, Any] | None:
    """Return where in `value` the very object `wanted` is, which Ansible's errors carry."""
    if value is wanted:
        return where, value
    if isinstance(value, Mapping):
        inner = ((f"{where}.{key}", item) for key, item in value.items())
    elif isinstance(value, list | tuple):
        inner = ((f"{where}[{index}]", item) for index, item in enumerate(value))
    else:
        return None
    return next((found for key, item in inner if (found := _place(item, wanted, key))), None)


def _why(error: BaseException) -> str:
    """Return what Ansible's `error` says, with the file and line where it knows them."""
    message = str(error).rstrip(".")
    cause: BaseException | None = error
    while cause is not None:
        if origin := _origin(getattr(cause, "obj", None)):
            return f"{message} ({origin})"
        cause = cause.__cause__ or cause.__context__
    return message


_FACT = re.compile(r"\bansible_(?!host\b|port\b|user\b|version\b|connection\b|ssh_)\w+")


def _remedy(error: BaseException, value: Any) -> str:
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


def _disagreement(
    name: str, usual: _Variant, other: _Variant, is_encrypted: Callable[[Any], bool]
) -> Problem:
    where, value = _difference(usual.value, other.value, name)
    near = difflib.get_close_matches(name, PER_HOST, n=1, cutoff=0.8)
    return Problem(
        f"{in_short(other.hosts)}: {where}",
        HIDDEN if _SECRETS in where or is_encrypted(value) else _shown(value),
        f"is set differently for {usual.hosts[0]}; the mesh is described once",
        f"Did you mean `{near[0]}`?" if near else f"Set {name} in group_vars/all and nowhere else",
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


def _hidden(
    raw: Any, resolved: Any, way: tuple[str, ...], is_encrypted: Callable[[Any], bool]
) -> Iterator[tuple[str, ...]]:
    """Yield the ways to what `resolved` says in plain text and `raw` does not."""
    if isinstance(raw, Mapping) and isinstance(resolved, Mapping):
        for key, item in raw.items():
            if (name := plain(key)) in resolved:
                yield from _hidden(item, resolved[name], (*way, str(name)), is_encrypted)
    elif isinstance(raw, list) and isinstance(resolved, list) and len(raw) == len(resolved):
        for index, item in enumerate(raw):
            yield from _hidden(item, resolved[index], (*way, str(index)), is_encrypted)
    elif not _is_settled(raw) and _shown(raw) != resolved:
        yield from _leaves(resolved, way)
    elif is_encrypted(raw):
        yield way


def _leaves(value: Any, way: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, (*way, str(key)))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, (*way, str(index)))
    else:
        yield way


def _origin(value: Any) -> Any:
    """Return the place that `value` was read from (it has a `path`), or None.

    Ansible 2.19 and later keep that in a module that they call internal. Without it, messages
    name no file, and a warning of a secret in plain text may be needless.
    """
    try:
        from ansible._internal._datatag._tags import Origin  # noqa: PLC0415
    except ImportError:
        return None
    return value if isinstance(value, Origin) else Origin.get_tag(value)


def _encryption() -> Callable[[Any], bool]:
    """Return what tells whether a value stands in a file that is encrypted as a whole."""

    @functools.cache
    def is_encrypted_file(path: str) -> bool:
        try:
            with Path(path).open("rb") as file:
                return file.read(len(ENCRYPTED_FILE)) == ENCRYPTED_FILE
        except OSError:
            return False

    def is_encrypted(value: Any) -> bool:
        path = getattr(_origin(value), "path", None)
        return path is not None and is_encrypted_file(path)

    return is_encrypted


def _vaulting() -> Callable[[Any], bool]:
    """Return what tells whether a value was decrypted from an encrypted one in the inventory."""
    try:
        from ansible.parsing.vault import VaultedValue  # noqa: PLC0415
    except ImportError:
        return lambda _: False
    is_vaulted: Callable[[Any], bool] = VaultedValue.is_tagged_on
    return is_vaulted


def from_hostvars(
    source: Path, groups: Mapping[str, Any], hostvars: Mapping[str, Mapping[str, Any]]
) -> Inventory:
    """Return the Inventory of `hostvars` (host -> its variables), as Ansible hands them out.

    Gathered facts are not among what it takes: compile must give the same for a host that
    cannot be reached. Of what all hosts share, only templates are resolved for each of them, so
    this takes time in proportion to the hosts, and no host a copy of the model.
    Raises Problems when a variable cannot be resolved, or hosts disagree on a shared one.
    """
    reader = _Reader(groups, hostvars)
    hosts = {plain(host): reader.host(host) for host in sorted(hostvars)}
    mesh, hidden = reader.mesh()
    if reader.problems:
        raise Problems(without(problem, reader.secrets) for problem in reader.problems)
    return Inventory(
        source=source,
        groups={name: tuple(members) for name, members in plain(dict(groups)).items()},
        hosts=hosts,
        mesh=mesh,
        hidden=hidden,
        secrets=frozenset(reader.secrets - {""}),
        environments=reader.own_environments(mesh),
        lacking=reader.lacking(),
    )


@functools.cache
def _vault_secrets() -> Any:
    """Prepare Ansible's library, which it allows once in a process; return the vault's secrets."""
    from ansible import constants  # noqa: PLC0415
    from ansible.cli import CLI  # noqa: PLC0415
    from ansible.parsing.dataloader import DataLoader  # noqa: PLC0415
    from ansible.plugins.loader import init_plugin_loader  # noqa: PLC0415

    init_plugin_loader()
    return CLI.setup_vault_secrets(
        DataLoader(), vault_ids=constants.DEFAULT_VAULT_IDENTITY_LIST, auto_prompt=False
    )


def load(*sources: Path) -> Inventory:
    """Read the inventory made of `sources` with Ansible's own loader: folders, files, host lists.

    Of what several say, the last one's counts, as for Ansible.
    Raises Problems when it cannot be read or has no host, and as from_hostvars does.
    """
    # Ansible takes half a second to import; commands that need no inventory do without.
    from ansible.cli import CLI  # noqa: PLC0415
    from ansible.errors import AnsibleError  # noqa: PLC0415
    from ansible.inventory.manager import InventoryManager  # noqa: PLC0415
    from ansible.parsing.dataloader import DataLoader  # noqa: PLC0415
    from ansible.vars.hostvars import HostVars  # noqa: PLC0415
    from ansible.vars.manager import VariableManager  # noqa: PLC0415

    missing = [each for each in sources if not each.exists() and not paths.is_host_list(each)]
    if missing:
        raise Problems(
            Problem("inventory", str(each), "does not exist", "Name a file or folder with -i")
            for each in missing
        )
    told = ", ".join(map(str, sources))
    try:
        loader = DataLoader()
        loader.set_vault_secrets(_vault_secrets())
        # What stands in group_vars beside site.yml counts wherever the command is run.
        loader.set_basedir(str(paths.PROJECT))
        manager = InventoryManager(
            loader=loader,
            sources=[str(each if paths.is_host_list(each) else each.resolve()) for each in sources],
        )
        variables = VariableManager(
            loader=loader, inventory=manager, version_info=CLI.version_info(gitinfo=False)
        )
        hostvars = HostVars(inventory=manager, variable_manager=variables, loader=loader)
        if not hostvars:
            raise Problems(
                [
                    Problem(
                        "inventory",
                        told,
                        "has no host",
                        "Name a folder with a hosts.yml in it; if there is one, Ansible's warnings"
                        " say what is wrong with it",
                    )
                ]
            )
        return from_hostvars(sources[-1], manager.get_groups_dict(), hostvars)
    except AnsibleError as error:
        raise Problems(
            [Problem("inventory", told, f"cannot be read: {_why(error)}", _remedy(error, None))]
        ) from error
