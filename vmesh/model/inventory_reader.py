"""The reader of all hosts' variables, which resolves their templates for each host.

Only what needs the hosts belongs here. `vmesh.model.ansible_values` knows Ansible,
`vmesh.model.shared_variables` the values, `vmesh.model.inventory_problems` the messages.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vmesh.base.problems import Problem
from vmesh.base.words import shorter
from vmesh.model.ansible_values import (
    ABSENT,
    encryption_test,
    is_settled,
    plain,
    resolver,
    shown,
    vault_test,
)
from vmesh.model.inventory_problems import (
    disagreement,
    find_object,
    remedy,
    template_differs,
    why,
)
from vmesh.model.schema import KeyPath, where
from vmesh.model.shared_variables import (
    ENVIRONMENT,
    EVERYWHERE,
    OpenValue,
    Place,
    ResolvedValue,
    Variant,
    closed,
    differences,
    hidden_texts,
    is_shared,
    item_at,
    replaced,
    variables_used,
)

# Host variables that vmesh reads; everything else in an inventory is the user's own.
PREFIXES = ("mesh_", "lab_", "envoy_", "flask_service_", "jaeger_", "ansible_ssh_")
CONNECTION = ("ansible_connection", "ansible_host", "ansible_port", "ansible_user")


@dataclass(frozen=True)
class _Host:
    """A host, its variables as they stand in the inventory, and what resolves texts for it."""

    name: str
    raw: Mapping[str, Any]
    resolve: Callable[[Any], Any]


class Reader:
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
        self.places: dict[str, list[Place]] = {
            name: [("host", name), EVERYWHERE] for name in self.names
        }
        for group, members in self.groups.items():
            for member in members & self.names:
                self.places[member].append(("group", group))
        self.problems: list[Problem] = []
        self.shared: dict[str, list[Variant]] = {}
        self.secrets: set[str] = set()
        self.is_encrypted = encryption_test()
        self.is_vaulted = vault_test()
        # What is wrong -> the hosts of which it was told.
        self.unresolved: dict[Problem, list[str]] = {}
        self.apart: dict[KeyPath, list[tuple[Any, Any, str, str]]] = {}
        self.environments: dict[str, dict[str, list[tuple[KeyPath, Any]]]] = {}

    def host(self, name: str) -> dict[str, Any]:
        """Return the host's own variables, resolved; take note of those it shares."""
        raw = self._raw(name)
        host = _Host(name, raw, resolver(self.hostvars, raw))
        own: dict[str, Any] = {}
        for variable, value in raw.items():
            if is_shared(variable):
                self._note(host, plain(variable), value)
            elif variable.startswith(PREFIXES) or variable in CONNECTION:
                found = self._own(host, variable, value)
                if found is not ABSENT:
                    own[plain(variable)] = found
        return own

    def _raw(self, host: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = getattr(self.hostvars, "raw_get", self.hostvars.__getitem__)(
            host
        )
        return found

    def _own(self, host: _Host, name: str, raw: Any) -> Any:
        try:
            value = raw if is_settled(raw) else host.resolve(raw)
            self.secrets.update(self._secrets(value))
            return value if value is ABSENT else plain(value)
        except self.error as error:
            place = find_object(raw, getattr(error, "obj", raw), name)
            where, value = place if place else (name, raw)
            self.problems.append(
                Problem(f"{host.name}: {where}", shown(value), why(error), remedy(error, value))
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

    def _note(self, host: _Host, name: str, value: Any) -> None:
        """Take note of what a shared variable is on a host, whose templates are resolved there."""
        variants = self.shared.setdefault(name, [])
        # Ansible reads each file once, so this is nearly always the very same object.
        fitting = (each for each in variants if each.value is value)
        variant = next(fitting, None) or next(
            (each for each in variants if self._equal(each.value, value)), None
        )
        if variant is None:
            variant = Variant.of(name, value)
            variants.append(variant)
        variant.hosts.append(host.name)
        self._ask_all(host, variant, variant.shared)
        if variant.own and not variant.placed:
            # Which hosts a service has may be a template too, and that is known only now.
            for each in variant.own:
                where = self._where(variant, each.path[1]) if each.is_template else EVERYWHERE
                variant.placed.setdefault(where, []).append(each)
        if variant.placed:
            for place in self.places[host.name]:
                self._ask_all(host, variant, variant.placed.get(place, ()))

    def _equal(self, one: Any, other: Any) -> bool:
        try:
            return bool(one == other)
        except self.error:  # to compare what is encrypted is to decrypt it
            return False

    def _ask_all(self, host: _Host, variant: Variant, what: Iterable[OpenValue]) -> None:
        for each in what:
            self._ask(host, variant, each)

    def _ask(self, host: _Host, variant: Variant, what: OpenValue) -> None:
        """Resolve one template on a host, and compare with what it is on the first one."""
        known = variant.found.get(what.path)
        if known is not None and self._has_the_same(host.raw, known.used):
            return
        try:
            value = host.resolve(what.value)
        except self.error as error:
            problem = Problem(
                where(what.path), shown(what.value), why(error), remedy(error, what.value)
            )
            self.unresolved.setdefault(problem, []).append(host.name)
            return
        self.secrets.update(self._secrets(value))
        value = value if value is ABSENT else plain(value)
        if known is None:
            used = variables_used(what.value, host.raw) if what.is_template else {}
            variant.found[what.path] = ResolvedValue(value, host.name, used)
            return
        for path, one, other in differences(known.value, value, what.path):
            if path[2:4] == ENVIRONMENT:
                services = self.environments.setdefault(host.name, {})
                services.setdefault(str(path[1]), []).append((path[4:], other))
            else:
                self.apart.setdefault(path, []).append((one, other, known.host, host.name))

    def _has_the_same(self, raw: Mapping[str, Any], used: Mapping[str, Any] | None) -> bool:
        """Tell whether a host's variables `raw` are those that were `used` before.

        A secret is not the same as an equal text in plain, which nobody need hide.
        """
        return used is not None and all(
            (other := raw.get(name, ABSENT)) is value
            or (
                isinstance(value, str | int)
                and type(value) is type(other)
                and value == other
                and not self.is_encrypted(other)
            )
            for name, value in used.items()
        )

    def _where(self, variant: Variant, service: str | int) -> Place:
        """Return where a service is, of which the group may be a template."""
        found = variant.found.get(("mesh_services", service, "group"))
        return self._place(
            found.value if found else item_at(variant.value, service).get("group"), service
        )

    def _place(self, group: Any, service: str | int) -> Place:
        """Return the place of a service by its `group`: a group's name, or a host's.

        What is on no host, which is a mistake, is looked at on all of them.
        """
        name = str(service if group is None or group is ABSENT else group)
        if self.groups.get(name):
            return ("group", name)
        return ("host", name) if name in self.names else EVERYWHERE

    def mesh(self) -> tuple[dict[str, Any], frozenset[tuple[str, ...]]]:
        """Return the shared variables and the paths to the hidden texts.

        Where hosts disagree, that is a problem, and most of them are right.
        """
        mesh: dict[str, Any] = {}
        hidden: set[tuple[str, ...]] = set()
        is_encrypted = self.is_encrypted
        for name, variants in self.shared.items():
            usual = max(variants, key=lambda variant: len(variant.hosts))
            self.problems += [
                disagreement(name, usual, other, is_encrypted)
                for other in variants
                if other is not usual
            ]
            value = closed(usual.value, (name,), usual.found)
            self.secrets.update(self._secrets(usual.value))
            if value is not ABSENT:
                mesh[name] = value
                hidden.update(hidden_texts(usual.value, value, (name,), is_encrypted))
        self.problems += [
            dataclasses.replace(problem, variable=f"{shorter(hosts, 1)}: {problem.variable}")
            for problem, hosts in self.unresolved.items()
        ]
        self.problems += [self._told_apart(path, found) for path, found in self.apart.items()]
        return mesh, frozenset(hidden)

    def _told_apart(self, path: KeyPath, found: list[tuple[Any, Any, str, str]]) -> Problem:
        one, other, first, host = found[0]
        # Of a text that a template makes with a secret, only the secret itself is known as one.
        vaulted = {text for each in (first, host) for text in self._vaulted(self._raw(each))}
        secrets = (vaulted | self.secrets) - {""}
        return template_differs([each[3] for each in found], path, (first, one), other, secrets)

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
                given = item_at(mesh["mesh_services"], service)
                if self._place(given.get("group"), service) not in self.places[host]:
                    continue
                environment = given["app"].get("environment")
                for path, value in changes:
                    environment = replaced(environment, path, value)
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
