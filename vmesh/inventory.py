"""The inventory as plain data: the one thing that compile reads."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vmesh.problems import HIDDEN, Problem, Problems

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
    """

    source: Path
    groups: dict[str, tuple[str, ...]]
    hosts: dict[str, dict[str, Any]]
    mesh: dict[str, Any]
    hidden: frozenset[tuple[str, ...]] = frozenset()
    secrets: frozenset[str] = frozenset()


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


@dataclass
class _Variant:
    """One value that a shared variable has, as it stands in the inventory, and where."""

    value: Any
    hosts: list[str] = field(default_factory=list)


class _Reader:
    """Reads the variables of one host after the other, and collects what is wrong with them.

    `hostvars` is Ansible's own HostVars or, in tests, a mapping of mappings: what it returns
    for a host is resolved; its `raw_get` returns what stands in the inventory.
    """

    def __init__(self, hostvars: Mapping[str, Mapping[str, Any]]) -> None:
        from ansible.errors import AnsibleError  # noqa: PLC0415

        self.error = AnsibleError
        self.hostvars = hostvars
        self.problems: list[Problem] = []
        self.shared: dict[str, list[_Variant]] = {}
        self.secrets: set[str] = set()
        self.is_encrypted = _encryption()
        self.is_vaulted = _vaulting()

    def host(self, host: str) -> dict[str, Any]:
        """Return the host's own variables, resolved; take note of those it shares."""
        raw: Mapping[str, Any] = getattr(self.hostvars, "raw_get", self.hostvars.__getitem__)(host)
        own: dict[str, Any] = {}
        for name, value in raw.items():
            if _is_shared(name):
                self._note(host, plain(name), value)
            elif name.startswith(PREFIXES) or name in CONNECTION:
                own[plain(name)] = self._resolved(host, name, value)
        return own

    def _resolved(self, host: str, name: str, raw: Any) -> Any:
        try:
            value = raw if _is_settled(raw) else self.hostvars[host][name]
            self.secrets.update(self._secrets(value))
            return plain(value)
        except self.error as error:
            place = _place(raw, getattr(error, "obj", raw), name)
            where, value = place if place else (name, raw)
            self.problems.append(
                Problem(f"{host}: {where}", _shown(value), _why(error), _remedy(error))
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

    def _note(self, host: str, name: str, value: Any) -> None:
        variants = self.shared.setdefault(name, [])
        for variant in variants:
            # Ansible reads each file once, so this is nearly always the very same object.
            if variant.value is value or self._equal(variant.value, value):
                variant.hosts.append(host)
                return
        variants.append(_Variant(value, [host]))

    def _equal(self, one: Any, other: Any) -> bool:
        try:
            return bool(one == other)
        except self.error:  # to compare what is encrypted is to decrypt it
            return False

    def mesh(self) -> tuple[dict[str, Any], frozenset[tuple[str, ...]]]:
        """Return the shared variables, each resolved once, and the ways to the hidden texts.

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
            mesh[name] = self._resolved(usual.hosts[0], name, usual.value)
            hidden.update(_hidden(usual.value, mesh[name], (name,), is_encrypted))
        return mesh, frozenset(hidden)


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


def _remedy(error: BaseException) -> str:
    if "no vault secrets" in str(error) or "vault password file" in str(error):
        return "Name the file with the vault's password in ANSIBLE_VAULT_PASSWORD_FILE"
    if "is undefined" in str(error):
        return "Define that variable, or mend its name"
    return "Mend it there"


def _disagreement(
    name: str, usual: _Variant, other: _Variant, is_encrypted: Callable[[Any], bool]
) -> Problem:
    where, value = _difference(usual.value, other.value, name)
    host, more = other.hosts[0], len(other.hosts) - 1
    near = difflib.get_close_matches(name, PER_HOST, n=1, cutoff=0.8)
    return Problem(
        f"{host}{f' and {more} more' if more else ''}: {where}",
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
    cannot be reached. What all hosts share is resolved once, as the first of them sees it, so
    this takes time in proportion to the hosts, and no host a copy of the model.
    Raises Problems when a variable cannot be resolved, or hosts disagree on a shared one.
    """
    reader = _Reader(hostvars)
    hosts = {plain(host): reader.host(host) for host in sorted(hostvars)}
    mesh, hidden = reader.mesh()
    if reader.problems:
        raise Problems(reader.problems)
    return Inventory(
        source=source,
        groups={name: tuple(members) for name, members in plain(dict(groups)).items()},
        hosts=hosts,
        mesh=mesh,
        hidden=hidden,
        secrets=frozenset(reader.secrets - {""}),
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


def load(path: Path) -> Inventory:
    """Read the inventory at `path` (a folder or file) with Ansible's own loader.

    Raises Problems when it cannot be read or has no host, and as from_hostvars does.
    """
    # Ansible takes half a second to import; commands that need no inventory do without.
    from ansible.errors import AnsibleError  # noqa: PLC0415
    from ansible.inventory.manager import InventoryManager  # noqa: PLC0415
    from ansible.parsing.dataloader import DataLoader  # noqa: PLC0415
    from ansible.vars.hostvars import HostVars  # noqa: PLC0415
    from ansible.vars.manager import VariableManager  # noqa: PLC0415

    if not path.exists():
        raise Problems(
            [Problem("inventory", str(path), "does not exist", "Name a file or folder with -i")]
        )
    try:
        loader = DataLoader()
        loader.set_vault_secrets(_vault_secrets())
        manager = InventoryManager(loader=loader, sources=[str(path.resolve())])
        variables = VariableManager(loader=loader, inventory=manager)
        hostvars = HostVars(inventory=manager, variable_manager=variables, loader=loader)
        if not hostvars:
            raise Problems(
                [
                    Problem(
                        "inventory",
                        str(path),
                        "has no host",
                        "Name a folder with a hosts.yml in it; if there is one, Ansible's warnings"
                        " say what is wrong with it",
                    )
                ]
            )
        return from_hostvars(path, manager.get_groups_dict(), hostvars)
    except AnsibleError as error:
        raise Problems(
            [Problem("inventory", str(path), f"cannot be read: {_why(error)}", _remedy(error))]
        ) from error
