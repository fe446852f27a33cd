# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""Marking an endpoint of an upstream cluster as draining or serving in the Envoys that call it.

An Envoy sends no new request to a draining endpoint while it has others
(https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/core/v3/health_check.proto#enum-config-core-v3-healthstatus).
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from .envoy_apply import FAULTS, Proxy, Refused
from .envoy_documents import draining, has_endpoint, serving
from .envoy_files import EARLIER_FORMAT, Files, format_of, not_taken
from .file_writing import reason


@dataclass
class Marked:
    """What became of the proxies: those that were changed, and why others were left alone."""

    changed: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Endpoint:
    """An endpoint of an upstream cluster."""

    cluster: str
    address: str
    port: int

    @property
    def file(self) -> str:
        return f"endpoints/{self.cluster}.json"

    def marked(self, text: str, state: str) -> str:
        """Return the text of the cluster's file with the endpoint in `state`."""
        return {"draining": draining, "serving": serving}[state](text, self.address, self.port)


def mark(
    proxies: Mapping[str, Proxy], endpoint: Endpoint, state: str, *, dry: bool = False
) -> Marked:
    """Bring the endpoint to `state` in all `proxies`, by name; with `dry`, only tell.

    Raises Refused when one does not take it, after the others got back what they had.
    """
    marked, before = Marked(), dict[str, str]()
    for name, proxy in proxies.items():
        try:
            files, runs = proxy.store.read(), proxy.service.is_running()
            skipped = _why_not(proxy, files, endpoint, runs=runs)
            if skipped:
                marked.skipped[name] = skipped
                continue
            old = files[endpoint.file]
            new = endpoint.marked(old, state)
            if not runs and (state == "draining" or new == old):
                marked.skipped[name] = "it does not run"
                continue
            if new == old and not not_taken({endpoint.file: old}, proxy.admin.versions()):
                continue
            marked.changed.append(name)
            if dry:
                continue
            before[name] = old
            if runs:
                proxy.swap({endpoint.file: new})
            else:
                proxy.store.place(endpoint.file, new)
        except FAULTS as fault:
            _take_back(proxies, endpoint, before)
            raise Refused(
                f"{name} did not take {endpoint.address}:{endpoint.port} of {endpoint.cluster} as"
                f" {state}, so all is as before: {reason(fault)}"
            ) from fault
    return marked


def _why_not(proxy: Proxy, files: Files, endpoint: Endpoint, *, runs: bool) -> str:
    """Return why an endpoint cannot be marked in the files of a proxy; empty when it can."""
    if format_of(files) == EARLIER_FORMAT:
        return "its files are of an earlier release"
    if not has_endpoint(files.get(endpoint.file, ""), endpoint.address, endpoint.port):
        return "it has no such endpoint"
    if runs and not proxy.reads(files):
        return "its process is of an earlier release"
    return ""


def _take_back(proxies: Mapping[str, Proxy], endpoint: Endpoint, before: Mapping[str, str]) -> None:
    for name, text in before.items():
        with contextlib.suppress(*FAULTS):
            proxies[name].store.place(endpoint.file, text)
    for name in before:
        with contextlib.suppress(OSError):
            proxies[name].store.sweep()
