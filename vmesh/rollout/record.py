"""The state last applied: what it holds, and where it is kept.

`site.yml` ends with it: one JSON file a host below `applied/<inventory>/`, made to be committed.
It says what was put on the host in the words of its spec, with the hash of each rendered file, so
that `./mesh plan` can tell what would change without asking anybody. Values that do not stand in
the inventory in plain text, and those that look like secrets, are not written: only names are.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from vmesh.base import paths
from vmesh.base.problems import HIDDEN, LONG, hide
from vmesh.base.secret_patterns import may_be_secret
from vmesh.compile.host_spec import HostSpec, ProxySpec
from vmesh.model.inventory import Inventory

FORMAT = 1
# Before the hash of a text that was made with HIDDEN in place of a value.
MASKED = "masked:"

State = dict[str, Any]
# What Renderer.files does: the text of each file of a proxy, by its path.
Render = Callable[[ProxySpec], Mapping[str, str]]
# The hash of each of these files, by its path.
Hashes = Mapping[str, str]

# The user's settings of a role: inventory variables with the role's name in front.
SETTINGS = {"envoy": "envoy_", "flask_service": "flask_service_", "jaeger": "jaeger_"}
# Roles that install the host kit.
WITH_HOST_KIT = ("envoy", "flask_service")
# Its version is recorded already.
NO_SETTINGS = frozenset({"jaeger_release"})

# Keys of a view whose texts are names and addresses: a diff without them would say nothing.
_STRUCTURE = frozenset(
    {
        "name",
        "cluster",
        "collector",
        "service",
        "id",
        "zone",
        "address",
        "address_prefix",
        "direction",
        "type",
        "pipe",
        "kind",
        "user",
        "unit",
        "what",
        "socket",
        "socket_group",
        "load_balancing",
        "websocket",
        "export",
        "on",
    }
)


class RecordError(Exception):
    """A recorded state cannot be read; `remedy` says what to do."""

    def __init__(self, message: str, remedy: str) -> None:
        self.remedy = remedy
        super().__init__(f"{message}. {remedy}")


def folder(*sources: Path) -> Path:
    """Return where the states of an inventory are kept, which is made of files or folders.

    Of one that is part of the project the name is its place there, of any other its own name.
    """
    return applied() / "+".join(map(_name, sources))


def applied() -> Path:
    """Return the folder of all records: $VMESH_APPLIED, or `applied/` in the project."""
    return Path(os.environ.get("VMESH_APPLIED") or paths.PROJECT / "applied")


def _name(source: Path) -> str:
    if paths.is_host_list(source):
        return "hosts"
    resolved = source.resolve()
    resolved = resolved.with_suffix("") if resolved.is_file() else resolved
    for base in (paths.PROJECT / "inventory", paths.PROJECT):
        if resolved != base and resolved.is_relative_to(base):
            return "-".join(resolved.relative_to(base).parts)
    return resolved.name


def read(place: Path) -> dict[str, State]:
    """Return host -> state of every record in the folder `place`; {} without one.

    Raises RecordError when a file is no record that this version understands.
    """
    return {unquote(path.stem): _read(path) for path in sorted(place.glob("*.json"))}


def earlier(place: Path, host: str) -> State | None:
    """Return the record of `host`; None when there is none, or none that can be used."""
    try:
        return _read(_path(place, host))
    except (RecordError, OSError):
        return None


def _path(place: Path, host: str) -> Path:
    return place / f"{quote(host, safe='')}.json"


def _read(path: Path) -> State:
    try:
        state: State = json.loads(path.read_text(encoding="utf-8"))
        version = state["format"]
    except (ValueError, TypeError, KeyError) as error:
        raise RecordError(
            f"{path} is not the record of a host ({type(error).__name__})",
            "Take it from version control again, or delete it; the next site.yml writes it",
        ) from error
    if version != FORMAT:
        raise RecordError(
            f"{path} has format {version}, and this version of vmesh knows format {FORMAT}",
            "Use the version that wrote it, or delete it; the next site.yml writes it",
        )
    return state


def write(place: Path, host: str, state: State) -> bool:
    """Write the record of `host`, as `write_file` does."""
    return write_file(_path(place, host), state)


def write_file(path: Path, state: State) -> bool:
    """Write a record, complete or not at all; tell whether the file changed; raises OSError."""
    text = json.dumps(state, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
    return True


def forget(place: Path, hosts: Iterable[str]) -> None:
    """Remove the records of `hosts`, which are not there any more."""
    for host in hosts:
        _path(place, host).unlink(missing_ok=True)


@dataclass(frozen=True)
class Secrets:
    """What of an inventory is not written down.

    values: texts that are hidden wherever they turn up
    environment: service -> names of the user's variables whose values are hidden
    kept: texts that the inventory keeps in Ansible Vault; no role's setting with one is shown
    """

    values: frozenset[str]
    environment: Mapping[str, frozenset[str]]
    kept: frozenset[str] = frozenset()

    @classmethod
    def of(cls, inventory: Inventory) -> Secrets:
        """Return the hidden texts of `inventory`, and what looks like a secret in plain text."""
        values = {
            text
            for way in inventory.hidden
            if isinstance(text := _at(inventory.mesh, way), str) and text
        }
        environment = {}
        services = inventory.mesh.get("mesh_services") or {}
        for service in services:
            way = ("mesh_services", str(service), "app", "environment")
            given = _at(inventory.mesh, way)
            names = set()
            for name, value in (given if isinstance(given, Mapping) else {}).items():
                if (*way, name) in inventory.hidden or may_be_secret(name, value):
                    names.add(name)
                    if len(str(value)) >= LONG:
                        values.add(str(value))
            # What a host has for itself comes from a template.
            own = (each.get(service, {}) for each in inventory.environments.values())
            environment[str(service)] = frozenset(names.union(*own))
        return cls(frozenset(values), environment, inventory.secrets)

    def masked(self, value: Any, key: str = "") -> Any:
        """Return `value` (of a view) with HIDDEN in place of what is hidden."""
        if isinstance(value, Mapping):
            return {name: self.masked(item, str(name)) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.masked(item, key) for item in value]
        if not isinstance(value, str) or key in _STRUCTURE:
            return value
        return hide(value, self.values)

    def settings(self, service: str, environment: Mapping[str, str]) -> dict[str, str | None]:
        """Return the environment of a service's app, with None for what is hidden."""
        hidden = self.environment.get(service, frozenset())
        return {
            name: None if name in hidden or self.masked(value) != value else value
            for name, value in environment.items()
        }


def _at(mesh: Any, way: Sequence[str]) -> Any:
    for step in way:
        if isinstance(mesh, Mapping):
            mesh = mesh.get(step)
        elif isinstance(mesh, list | tuple) and step.isdigit() and int(step) < len(mesh):
            mesh = mesh[int(step)]
        else:
            return None
    return mesh


@dataclass(frozen=True)
class Described:
    """The state of a host as the inventory has it now.

    exact: proxy -> path -> hash of the file as it is on the host, secrets included; not recorded
    """

    state: State
    exact: Mapping[str, Hashes]


def shown(spec: HostSpec, secrets: Secrets) -> dict[str, Any]:
    """Return the spec of a host as plain data without what is hidden."""
    host = dataclasses.asdict(spec)
    for proxy in host["proxies"]:
        proxy["view"] = secrets.masked(proxy["view"])
        for listener in proxy["view"]["listeners"]:
            _hide_headers(listener["tracing"])
    for app in (*host["flask_services"], *host["external_apps"]):
        app["environment"] = secrets.settings(app["name"], app["environment"])
    return host


def _hide_headers(tracing: dict[str, Any] | None) -> None:
    """Hide what a collector of spans wants, wherever that stands in the inventory."""
    if tracing and tracing["headers"]:
        tracing["headers"] = dict.fromkeys(tracing["headers"], HIDDEN)


def digest(text: str) -> str:
    """Return the SHA-256 of a file's text."""
    return hashlib.sha256(text.encode()).hexdigest()


def hashes_of(texts: Mapping[str, str]) -> Hashes:
    """Return path -> hash of a proxy's files."""
    return {path: digest(text) for path, text in texts.items()}


def proxy_from(recorded: Mapping[str, Any]) -> ProxySpec:
    """Return the spec of a proxy as it was recorded, to render it again."""
    known = {field.name for field in dataclasses.fields(ProxySpec)}
    return ProxySpec(**{key: value for key, value in recorded.items() if key in known})


def describe(  # noqa: PLR0913 - what a state consists of
    spec: HostSpec,
    secrets: Secrets,
    render: Render,
    *,
    variables: Mapping[str, Any],
    rendered: Mapping[str, Hashes] | None = None,
    versions: Mapping[str, str] | None = None,
    bundles: Mapping[str, str] | None = None,
    platform: Mapping[str, str] | None = None,
) -> Described:
    """Return the state of the host with this `spec`.

    variables: the host's, of which the roles' settings are taken
    rendered: proxy -> hashes of its files, where they have been rendered already
    versions, bundles, platform: as for `with_artifacts`; none where they are not known yet
    """
    host = shown(spec, secrets)
    files: dict[str, dict[str, str]] = {}
    exact: dict[str, Hashes] = {}
    for proxy, plain in zip(spec.proxies, host["proxies"], strict=True):
        known = rendered[proxy.name] if rendered else hashes_of(render(proxy))
        exact[proxy.name] = masked = known
        if plain["view"] != _as_json(proxy.view):
            masked = hashes_of(render(dataclasses.replace(proxy, view=plain["view"])))
        files[proxy.name] = {
            path: sha256 if sha256 == known.get(path) else MASKED + sha256
            for path, sha256 in masked.items()
        }
    roles = roles_of(host)
    state: State = {
        "format": FORMAT,
        "roles": {role: role_digest(role) for role in roles},
        "settings": _settings(roles, variables, secrets.kept),
        "host": host,
        "files": files,
        "left": [],
    }
    found = with_artifacts(state, versions=versions or {}, bundles=bundles or {}, platform=platform)
    # As it will be when it has been written and read, so that the two can be compared.
    return Described(_as_json(found), exact)


def with_artifacts(
    state: State,
    *,
    versions: Mapping[str, str],
    bundles: Mapping[str, str],
    platform: Mapping[str, str] | None,
) -> State:
    """Return `state` with what a host gets for what it is.

    versions: of the binaries: envoy, jaeger; those that the host has no use for are left out
    bundles: service -> version of its app's bundle
    platform: what the host answered: arch, python
    """
    return {
        **state,
        "platform": dict(platform) if platform else None,
        "versions": {
            name: versions[name]
            for name in ("envoy", "jaeger")
            if name in state["roles"] and name in versions
        },
        "bundles": dict(bundles),
    }


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def roles_of(host: Mapping[str, Any]) -> list[str]:
    """Return the roles that `site.yml` gives a host with these parts."""
    parts = {
        "envoy": host["proxies"],
        "flask_service": host["flask_services"],
        "external_app": host.get("external_apps"),
        "jaeger": host["jaeger"],
    }
    return [role for role, there in parts.items() if there]


@functools.cache
def role_digest(role: str) -> str:
    """Return a hash of all that `role` brings to a host: units, users, settings, the host kit."""
    total = hashlib.sha256()
    places = ("defaults", "files", "templates", "vars")
    base = paths.COLLECTION
    folders = [base / "roles" / role / name for name in places]
    folders.append(base / "files" / "systemd")
    if role in WITH_HOST_KIT:
        folders.append(base / "plugins" / "module_utils")
    for each in folders:
        for path in sorted(each.rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                total.update(f"{path.relative_to(base)}\0".encode() + path.read_bytes())
    return total.hexdigest()[:12]


def _settings(
    roles: Sequence[str], variables: Mapping[str, Any], kept: frozenset[str]
) -> dict[str, Any]:
    prefixes = tuple(SETTINGS[role] for role in roles if role in SETTINGS)
    return {
        name: None if may_be_secret(name, value) or _holds(value, kept) else value
        for name, value in sorted(variables.items())
        if prefixes and name.startswith(prefixes) and name not in NO_SETTINGS
    }


def _holds(value: Any, texts: frozenset[str]) -> bool:
    if isinstance(value, Mapping):
        return any(_holds(item, texts) for item in value.values())
    if isinstance(value, list | tuple):
        return any(_holds(item, texts) for item in value)
    return isinstance(value, str) and value in texts


def parts_of(state: State) -> list[str]:
    """Return the units that a state has on its host, by the names `./mesh ps` shows."""
    host = state["host"]
    parts = [f"envoy@{proxy['name']}" for proxy in host["proxies"]]
    parts += [f"flask@{service['name']}" for service in host["flask_services"]]
    return [*parts, *(["jaeger"] if host["jaeger"] else [])]


def left_behind(old: State | None, new: State) -> list[str]:
    """Return the units of the host that `new` has no more, and that nothing has removed."""
    known = {*parts_of(old), *old["left"]} if old else set()
    return sorted(known - set(parts_of(new)))
