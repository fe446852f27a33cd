# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""What a host is, what of vmesh is on it and what runs there. Nothing here changes anything."""

from __future__ import annotations

import hashlib
import hmac
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .environment_file import read_environment
from .envoy_admin import Admin
from .envoy_files import Store, bootstrap_of, has_version, is_for_envoy, not_taken
from .envoy_security import security_of
from .firewall import drops, has_nft, is_installed
from .host_parts import JAEGER_UNIT, apps_on, parts_on, proxies_on, status_of_jaeger, units_of
from .releases import release_in
from .snapshot_store import SnapshotStore, interrupted_run
from .ssh_session import session
from .systemd import Run, Shown, show
from .unix_http import FAULTS

Facts = dict[str, Any]

PROPERTIES = ("LoadState", "ActiveState", "UnitFileState", "MainPID", "StatusText")


def brief(root: Path) -> Facts:
    """Return what the host below `root` is, its parts, and which run was interrupted.

    os, os_version: as os-release(5) has them; arch, python: of the running Python
    authorities: whether the package ca-certificates is there
    nftables: whether that package is; firewall: whether vmesh's rules are installed
    session: address and port of the ssh connection this came by, empty without one
    parts: those that have units; newest: number of the newest kept snapshot, 0 without one
    interrupted: as snapshot_store.interrupted_run returns it
    security: by proxy, as envoy_security.security_of returns it
    """
    release = read_environment(_text(root / "etc/os-release"))
    by = session(root / "proc")
    return {
        "os": release.get("ID", ""),
        "os_version": release.get("VERSION_ID", ""),
        "arch": platform.machine(),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "authorities": (root / "etc/ssl/certs/ca-certificates.crt").is_file(),
        "nftables": has_nft(root),
        "firewall": is_installed(root),
        "session": {"address": by.address, "port": by.port} if by else {},
        "parts": parts_on(root),
        "newest": SnapshotStore(root).newest(),
        "interrupted": interrupted_run(root),
        "security": {
            name: security_of(Store(root / "etc/envoy" / name, gid=-1).read())
            for name in proxies_on(root)
        },
    }


class HostReport:
    """What can be seen on the host below `root`.

    key: makes the codes of secret values
    admin: takes the path of an admin socket, returns the admin interface there
    """

    def __init__(self, root: Path, key: str, admin: Callable[[str], Admin], run: Run) -> None:
        self.root, self.key, self.admin, self.run = root, key, admin, run

    def whole(self) -> Facts:
        """Return what `brief` does, and what is installed and runs.

        drops: whether the kernel drops packets by vmesh's firewall
        releases, proxies, apps, offered, jaeger: as plugins/modules/host_info.py describes them
        """
        proxies, apps = proxies_on(self.root), apps_on(self.root)
        units = [unit for name in proxies for unit in units_of(f"envoy@{name}")]
        units += [unit for name in apps for unit in units_of(f"flask@{name}")]
        shown = show([*units, "jaeger.service"], PROPERTIES, self.run)
        return {
            **brief(self.root),
            "drops": is_installed(self.root) and drops(self.run),
            "releases": self._releases(),
            "proxies": {name: self._proxy(name, shown) for name in proxies},
            "apps": {name: self._app(name, shown) for name in apps},
            "offered": self._offered(),
            "jaeger": self._jaeger(shown.get("jaeger.service", {})),
        }

    def _releases(self) -> dict[str, str]:
        links = sorted((self.root / "opt").glob("*/current"))
        return {link.parent.name: link.readlink().name for link in links if link.is_symlink()}

    def _proxy(self, name: str, units: Mapping[str, Shown]) -> Facts:
        folder = self.root / "etc/envoy" / name
        paths = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*.*"))}
        texts = {
            name: path.read_text(errors="replace")
            for name, path in paths.items()
            if is_for_envoy(name) and path.is_file()
        }
        unit = units.get(f"envoy@{name}.service", {})
        running = self._running(self.admin(str(self.root / f"run/envoy/{name}/admin.sock")), texts)
        return {
            "files": {path: hashlib.sha256(t.encode()).hexdigest() for path, t in texts.items()},
            "unit": unit_state(unit),
            "runs": self._executable(unit.get("MainPID", "0")),
            **running,
        }

    def _executable(self, pid: str) -> str | None:
        """Return the release whose binary a process runs, None when it cannot be told."""
        try:
            path = (self.root / "proc" / pid / "exe").readlink()
        except OSError:
            return None
        release = release_in(str(path))
        return release[1] if release and release[0] == "envoy" else str(path)

    @staticmethod
    def _running(admin: Admin, texts: Mapping[str, str]) -> Facts:
        """Return what a running Envoy says of the files that are there."""
        try:
            accepted, server = admin.versions(), admin.server()
        except (*FAULTS, ValueError):
            return {"answers": False, "waiting": [], "bootstrap": None}
        bootstrap = bootstrap_of(texts)
        return {
            "answers": True,
            "waiting": not_taken(texts, accepted),
            "bootstrap": has_version(bootstrap, texts[bootstrap], server.bootstrap_version),
        }

    def _app(self, name: str, units: Mapping[str, Shown]) -> Facts:
        environment = read_environment(_text(self.root / "etc/flask" / name / "env"))
        service = units.get(f"flask@{name}.service", {})
        config_id = environment.pop("CONFIG_ID", "")
        return {
            "unit": unit_state(service),
            "socket": unit_state(units.get(f"flask@{name}.socket", {})),
            "environment": self._codes(environment),
            "current": bool(config_id) and config_id in service.get("StatusText", ""),
        }

    def _offered(self) -> dict[str, dict[str, str]]:
        return {
            path.stem: self._codes(read_environment(_text(path)))
            for path in sorted((self.root / "etc/vmesh").glob("*.env"))
        }

    def _jaeger(self, unit: Shown) -> Facts | None:
        if unit.get("LoadState", "not-found") == "not-found":
            return None
        wanted = status_of_jaeger(_text(self.root / JAEGER_UNIT))
        return {"unit": unit_state(unit), "current": wanted in unit.get("StatusText", "")}

    def _codes(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return what stands for each value: nobody without the key can tell the value from it."""
        return {
            name: hmac.new(self.key.encode(), value.encode(), hashlib.sha256).hexdigest()
            for name, value in environment.items()
        }


def unit_state(shown: Shown) -> dict[str, str]:
    """Return what matters of a unit: whether it runs, and whether it will after a reboot."""
    if shown.get("LoadState", "not-found") == "not-found":
        return {"active": "not installed", "enabled": ""}
    return {"active": shown.get("ActiveState", ""), "enabled": shown.get("UnitFileState", "")}


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
