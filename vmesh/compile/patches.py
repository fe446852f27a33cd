"""mesh_patches: which proxy gets which patch, and patches that match nothing.

A patch travels in the view of each proxy that has a matching resource. So records, `./mesh plan`
and the order of a rollout see it like any other part of a view. `vmesh.render.patches` applies it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from vmesh.base.problems import Problem
from vmesh.base.words import shorter
from vmesh.compile.host_spec import HostSpec, ProxySpec, View
from vmesh.model.types import Mesh, Patch

BOOTSTRAP = "bootstrap"


def check_form(mesh: Mesh) -> Iterator[Problem]:
    """Yield a problem for each patch that cannot be one.

    That is one without exactly one of `merge` and `patch`, or with a text that no file can hold.
    """
    for patch in mesh.patches:
        for text in _texts([patch.merge, patch.patch]):
            if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
                yield Problem(
                    patch.variable,
                    ascii(text),
                    "has a character that a file cannot hold",
                    "Leave this character out",
                )
        if (patch.merge is None) == (patch.patch is None):
            yield Problem(
                patch.variable,
                None if patch.merge is None else "merge and patch",
                "has to say what changes, either as `merge` or as `patch`",
                "Set one of them: merge to a mapping, or patch to a list of operations",
            )


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in a value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts([*value, *value.values()])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def with_patches(
    hosts: Mapping[str, HostSpec], mesh: Mesh, problems: list[Problem]
) -> dict[str, HostSpec]:
    """Return `hosts` with the patches in the views of the proxies that they change.

    A problem is appended for each patch that changes none.
    """
    problems += _matching_nothing(hosts, mesh)
    return {
        name: replace(host, proxies=tuple(_patched(proxy, mesh.patches) for proxy in host.proxies))
        if mesh.patches
        else host
        for name, host in hosts.items()
    }


def _patched(proxy: ProxySpec, patches: Iterable[Patch]) -> ProxySpec:
    found = [_view(patch, names) for patch in patches if (names := resources(proxy, patch))]
    return replace(proxy, view={**proxy.view, "patches": found}) if found else proxy


def _view(patch: Patch, names: list[str]) -> View:
    how = "merge" if patch.merge is not None else "patch"
    return {
        "variable": patch.variable,
        "kind": patch.kind,
        "names": names,
        how: patch.merge if patch.merge is not None else patch.patch,
    }


def resources(proxy: ProxySpec, patch: Patch) -> list[str]:
    """Return the names of a proxy's resources that a patch changes; of a bootstrap the word."""
    if not any(fnmatchcase(proxy.name, pattern) for pattern in patch.proxies):
        return []
    names = [BOOTSTRAP] if patch.kind == BOOTSTRAP else _names(proxy.view)[patch.kind]
    return [name for name in names if fnmatchcase(name, patch.name)]


def _names(view: View) -> dict[str, list[str]]:
    """Return the names of a proxy's resources by their kind."""
    return {
        "listener": [each["name"] for each in view["listeners"]],
        "route": list(view["routes"]),
        "cluster": [each["name"] for each in view["clusters"]],
        "endpoint": [each["name"] for each in view["clusters"] if each["type"] == "eds"],
    }


def _matching_nothing(hosts: Mapping[str, HostSpec], mesh: Mesh) -> Iterator[Problem]:
    proxies = {proxy.name: proxy for host in hosts.values() for proxy in host.proxies}
    for patch in mesh.patches:
        if any(resources(proxy, patch) for proxy in proxies.values()):
            continue
        matched = [
            proxy
            for name, proxy in proxies.items()
            if any(fnmatchcase(name, pattern) for pattern in patch.proxies)
        ]
        if not matched:
            yield Problem(
                f"{patch.variable}.proxy",
                ", ".join(patch.proxies),
                "matches no service or edge that runs anywhere",
                f"Name one of: {shorter(sorted(proxies), 12)}",
            )
            continue
        there = sorted({name for proxy in matched for name in _names(proxy.view)[patch.kind]})
        yield Problem(
            f"{patch.variable}.name",
            patch.name,
            f"matches no {patch.kind} of {shorter([proxy.name for proxy in matched])}",
            f"Name one of: {shorter(there, 12)}",
        )
