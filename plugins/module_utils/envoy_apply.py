# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""Bringing one Envoy its configuration files in safe order, and seeing them accepted.

No file may refer to what Envoy does not know yet: endpoints and clusters come before the routes
and listeners that use them, and what is no longer needed goes after these. Each step is confirmed
by the versions that Envoy reports. When Envoy refuses one, the files of before go back.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from . import acme_store, unix_http
from .acme_openssl import OpensslFailed
from .edge_certificate import Local
from .envoy_admin import Admin
from .envoy_documents import union_of_clusters, union_of_issuers
from .envoy_files import (
    ACME,
    CERTIFICATES,
    CLUSTERS,
    FILTERS,
    LISTENERS,
    LOCAL,
    TRUST,
    Files,
    Store,
    bootstrap_of,
    differences,
    format_of,
    has_version,
    in_format,
    is_whole,
    not_taken,
    stat_prefix,
)
from .envoy_unit import Service, Systemd
from .file_writing import reason
from .systemd import CommandFailed


class Refused(Exception):  # noqa: N818 - an answer of Envoy, not a fault of ours
    """Envoy did not accept a file, or did not say so in time."""


# Counted when a listener whose file was accepted cannot be opened.
CREATE_FAILURE = ".listener_create_failure"
# How long a file may take to be accepted after a refusal was counted.
REFUSED_SECONDS = 2.0

# What a step can raise: ValueError where the admin interface says what Envoy does not say.
FAULTS = (Refused, CommandFailed, ValueError, *unix_http.FAULTS)


class Proxy:
    """One Envoy: its folder, its service, its admin interface. `timeout` is in seconds."""

    def __init__(self, store: Store, service: Service, admin: Admin, timeout: float) -> None:
        self.store, self.service, self.admin, self.timeout = store, service, admin, timeout

    def accepts(self, files: Mapping[str, str]) -> bool:
        """Tell whether Envoy runs and has accepted exactly these watched files."""
        return self.admin.is_ready() and not not_taken(files, self.admin.versions())

    def needs_restart(self, new: Mapping[str, str], binary: str) -> bool:
        """Tell whether the running process has another bootstrap or binary than it should."""
        bootstrap, running = bootstrap_of(new), self.admin.server().bootstrap_version
        return (
            not has_version(bootstrap, new[bootstrap], running)
            or not self.reads(new)
            or self.service.executable() != str(Path(binary).resolve())
        )

    def reads(self, files: Iterable[str]) -> bool:
        """Tell whether the running process watches files of the format in which `files` are.

        It watches those that its bootstrap names, which are in the bootstrap's own format.
        """
        return Path(self.admin.server().config_path).suffix == format_of(files)

    def stage(self, new: Files) -> None:
        """Lay beside what `apply` or `start` will move into place, and the files of before.

        With these the way back needs no room on the disk either. Raises OSError.
        """
        old = self.store.read()
        names = differences(old, new)
        files = [(name, texts[name]) for texts in (new, old) for name in names if name in texts]
        clusters = in_format(CLUSTERS, format_of(new))
        if clusters in names and clusters in old:
            pair = old[clusters], new[clusters]
            files += [(clusters, union_of_clusters(*each)) for each in (pair, pair[::-1])]
        for name in names:
            if name.startswith(f"{FILTERS}/") and name in old and name in new:
                pair = old[name], new[name]
                files += [(name, union_of_issuers(*each)) for each in (pair, pair[::-1])]
        self.store.stage(files)

    def apply(self, new: Files) -> None:
        """Bring a running Envoy to `new`; raises Refused at the first step it does not take.

        A process of another format than `new` can confirm nothing of it: the files are laid for
        the next process, which `needs_restart` asks for. What the running one watches stays until
        that has succeeded (Store.remove_other_format), in case one like it must go on.
        """
        if self.reads(new):
            self._apply(new)
        else:
            self._lay(new, staying=[path for path in self.store.read() if stat_prefix(path)])

    def _apply(self, new: Files) -> None:
        old = self.store.read()
        clusters, listeners = (in_format(each, format_of(new)) for each in (CLUSTERS, LISTENERS))
        endpoints, routes = _in_folder(new, "endpoints/"), _in_folder(new, "routes/")
        certificates, filters = (_in_folder(new, f"{each}/") for each in (CERTIFICATES, FILTERS))
        trust = _in_folder(new, f"{TRUST}/")
        # When one file is moved into a folder, Envoy re-reads all that it watches there. Those that
        # it had accepted, and that were removed since, must not be missing then.
        waiting = not_taken(new, self.admin.versions())
        for name in new.keys() - old.keys() - set(waiting):
            self.store.place(name, new[name])
            old[name] = new[name]
        before = self.admin.refusals()
        # Envoy refuses a cluster or a listener of which a secret has no file.
        self._place_changed({**trust, **endpoints}, old)
        self._step({clusters: union_of_clusters(old.get(clusters, ""), new[clusters])}, before)
        # Endpoints of clusters that were just added are subscribed to only now.
        self._confirm(endpoints, before)
        subscribed = self.admin.versions()
        issuers = {n: union_of_issuers(old.get(n, ""), text) for n, text in filters.items()}
        self._step({n: text for n, text in issuers.items() if stat_prefix(n) in subscribed}, before)
        known = {n: text for n, text in routes.items() if stat_prefix(n) in subscribed}
        for name in routes.keys() - known.keys():
            self.store.place(name, routes[name])
        self._step(known, before)
        # Envoy refuses a listener whose certificate or filter has no file.
        self._place_changed({**certificates, **filters}, old)
        self._step({listeners: new[listeners]}, before)
        self._confirm({**routes, **certificates, **filters, **trust}, before)
        self._step({clusters: new[clusters]}, before)
        self._lay(new)

    def _place_changed(self, files: Files, old: Mapping[str, str]) -> None:
        """Place those of `files` that differ from `old`; nothing is confirmed."""
        for name, text in files.items():
            if old.get(name) != text:
                self.store.place(name, text)

    def _lay(self, new: Files, staying: Iterable[str] = ()) -> None:
        """Place what is not there yet, remove what is neither in `new` nor `staying`.

        Nothing is confirmed.

        An Envoy that starts meanwhile finds whole files of one format: a bootstrap comes after the
        watched files that it names, and goes before them.
        """
        old, bootstrap = self.store.read(), bootstrap_of(new)
        for name in sorted(new, key=lambda name: name == bootstrap):
            if old.get(name) != new[name]:
                self.store.place(name, new[name])
        gone = old.keys() - new.keys() - set(staying)
        for name in sorted(gone, key=lambda name: name != bootstrap_of(gone)):
            self.store.remove(name)

    def swap(self, files: Files) -> None:
        """Bring watched files that are there already to a running Envoy; raises Refused.

        For changes that refer to nothing new, such as those of an endpoint's health.
        """
        self._step(files, self.admin.refusals())

    def _step(self, files: Files, before: Mapping[str, int]) -> None:
        there, waiting = self.store.read(), not_taken(files, self.admin.versions())
        for name, text in files.items():
            if there.get(name) != text or name in waiting:
                self.store.place(name, text)
        self._confirm(files, before)

    def _confirm(self, files: Files, before: Mapping[str, int]) -> None:
        """Wait until Envoy has accepted `files`; raises Refused when it refuses one or is late.

        before: how often it had refused something before the step
        """
        deadline = time.monotonic() + self.timeout
        told = 0.0  # since when a refusal is counted
        while True:
            try:
                counted = self.admin.refusals().items()
                risen = sorted(name for name, count in counted if count > before.get(name, 0))
                told = told or (time.monotonic() if risen else 0.0)
                lacking = not_taken(files, self.admin.versions())
                failed = any(name.endswith(CREATE_FAILURE) for name in risen)
                if not lacking and not failed and self.admin.is_ready():
                    return
                # A process that drains after a hot restart counts here too
                # (https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/operations/hot_restart),
                # and one of an earlier release does not find the files that it watches. So a
                # refusal is one when the version does not come either.
                if failed or (risen and time.monotonic() > told + REFUSED_SECONDS):
                    raise Refused(f"Envoy counted a refusal in {', '.join(risen)}")
            except (ValueError, *unix_http.FAULTS) as error:
                lacking = [f"an answer on {self.admin.path} ({error})"]
            if time.monotonic() > deadline:
                raise Refused(
                    f"after {self.timeout:.0f} s Envoy has not accepted: "
                    + (", ".join(lacking) or "it is not ready")
                )
            time.sleep(0.1)

    def start(self, new: Files) -> None:
        """Place everything, start Envoy and see all of it accepted."""
        self._lay(new)
        self.service.start()
        self._confirm(new, {})

    def reasons(self, since: float) -> str:
        """Return what Envoy logged about a refusal, the last lines if it names none."""
        lines = self.service.messages(since)
        telling = [
            line for line in lines if re.search(r"reject|fail|cannot|error|unable", line, re.I)
        ]
        return "\n".join((telling or lines)[-5:])


def installed_proxy(name: str, gid: int, timeout: float) -> Proxy:
    """Return the proxy `name` of this host; the group `gid` may read its files."""
    return Proxy(
        Store(Path("/etc/envoy") / name, gid),
        Systemd(f"envoy@{name}.service"),
        Admin(f"/run/envoy/{name}/admin.sock"),
        timeout,
    )


def _in_folder(files: Files, folder: str) -> Files:
    return {name: text for name, text in files.items() if name.startswith(folder)}


def bring(proxy: Proxy, new: Files) -> None:
    """Bring the proxy to `new`, or back to what it had; raises Refused with Envoy's reason."""
    began = time.time()
    old = proxy.store.read()
    try:
        proxy.store.sweep()
        proxy.store.mend_rights()
        # Envoy refuses a listener whose certificate is not there.
        if ACME in new:
            acme_store.prepare(acme_store.Settings.of(new[ACME]), proxy.store.gid)
        if LOCAL in new:
            Local.of(new[LOCAL]).prepare(proxy.store.gid, began)
        proxy.stage(new)
    except (OSError, OpensslFailed) as error:
        raise Refused(f"{reason(error)}. Its files are as they were.") from error
    was_running = proxy.service.is_running() and proxy.admin.is_ready()
    try:
        (proxy.apply if was_running else proxy.start)(new)
    except FAULTS as refusal:
        why = f"{reason(refusal)}\n{proxy.reasons(began)}".strip()
        raise Refused(f"{why}\n{_take_back(proxy, old, was_running)}") from refusal
    finally:
        with contextlib.suppress(OSError):
            proxy.store.sweep()


def _take_back(proxy: Proxy, old: Files, was_running: bool) -> str:
    """Put the old files back and say how that went."""
    if not is_whole(old):
        return "There was no earlier configuration to go back to."
    try:
        (proxy.apply if was_running else proxy.start)(old)
    except FAULTS as error:
        return f"The earlier configuration is back on disk, but not confirmed: {reason(error)}"
    return "The earlier configuration is back and confirmed."


@dataclass(frozen=True)
class Result:
    """What a proxy has and needs.

    settled: it ran, all its files were there and accepted, and it starts at boot
    restart_required: its process must make room for a new one
    """

    settled: bool
    started: bool
    restart_required: bool


def configure(
    proxy: Proxy, new: Files, binary: str, *, unit_changed: bool = False, dry: bool = False
) -> Result:
    """Bring the proxy to `new` unless it has that already, and have it start at boot.

    binary: the Envoy that the unit starts; unit_changed: whether its file was changed just now
    With `dry`, only tell. Raises Refused and CommandFailed.
    """
    old, running = proxy.store.read(), proxy.service.is_running()
    certified = LOCAL not in new or Local.of(new[LOCAL]).is_good(time.time())
    right = old == new and certified and not proxy.store.wrong_rights()
    settled = running and right and proxy.accepts(new)
    enabled = proxy.service.is_enabled()
    if not dry and not settled:
        bring(proxy, new)
    if not dry and not enabled:
        proxy.service.enable()
    restart = proxy.admin.is_ready() and (
        (running and unit_changed)
        or proxy.service.is_older_than_its_unit()  # a run that changed it was interrupted
        or proxy.needs_restart(new, binary)
    )
    return Result(settled and enabled, not running, restart)
