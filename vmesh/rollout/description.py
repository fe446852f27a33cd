"""The description of a host: what a record holds.

It says what is put on the host in the words of its spec, with the hash of each rendered file, so
that `./mesh plan` can tell what would change and asks no host. Values that do not stand in the
inventory in plain text, and those that look like secrets, are not written: only their names are.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vmesh.base import paths
from vmesh.base.problems import HIDDEN
from vmesh.base.secret_patterns import may_be_secret
from vmesh.compile.host_spec import HostSpec, ProxySpec
from vmesh.rollout.record import FORMAT, HostRecord
from vmesh.rollout.record_secrets import Secrets

# Before the hash of a text that was made with HIDDEN in place of a value.
MASKED = "masked:"

# What Renderer.files does: the text of each file of a proxy, by its path.
Render = Callable[[ProxySpec], Mapping[str, str]]
# The hash of each of these files, by its path.
Hashes = Mapping[str, str]

# The user's settings of a role: inventory variables with the role's name in front.
SETTINGS = {
    "envoy": "envoy_",
    "flask_service": "flask_service_",
    "jaeger": "jaeger_",
    "firewall": "firewall_",
    "identity": "identity_",
}
# Roles that install the host kit.
WITH_HOST_KIT = ("envoy", "flask_service", "identity")
# Its version is recorded already.
NO_SETTINGS = frozenset({"jaeger_release"})


@dataclass(frozen=True)
class Described:
    """The state of a host as the inventory has it now.

    exact: proxy -> path -> hash of the file as it is on the host, secrets included; not recorded
    """

    state: HostRecord
    exact: Mapping[str, Hashes]


def shown(spec: HostSpec, secrets: Secrets) -> dict[str, Any]:
    """Return the spec of a host as plain data without what is hidden."""
    host = dataclasses.asdict(spec)
    if spec.identity is None:
        del host["identity"]
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
    state: HostRecord = {
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
    state: HostRecord,
    *,
    versions: Mapping[str, str],
    bundles: Mapping[str, str],
    platform: Mapping[str, str] | None,
) -> HostRecord:
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
        "firewall": host.get("firewall"),
        "identity": host.get("identity"),
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
