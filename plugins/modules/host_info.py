#!/usr/bin/python
# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""Tell what of vmesh is on a host and what runs there."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: host_info
short_description: Tell what of vmesh is on a host and what runs there
description:
  - Reads the configuration, the releases, the units and the running Envoys of vmesh on a host.
    C(./mesh plan --refresh) compares it with what was applied.
  - It finds by itself what is there, so it also tells of parts that the inventory no longer has.
  - Never changes anything.
  - Values of the apps' environments do not leave the host. For each there is a code that only
    who has O(key) can compare with that of another value.
options:
  key:
    description: >-
      Makes the codes of the environments' values. Make one for each use, and throw it away after.
    type: str
    required: true
  answers:
    description: Folder on the controller for the answers, one file a host; for the action plugin.
    type: path
author:
  - vmesh maintainers
"""

EXAMPLES = r"""
- name: Ask what is there
  vmesh.mesh.host_info:
    key: "{{ key }}"
    answers: "{{ folder }}"
"""

RETURN = r"""
state:
  description: What is there, by kind of part.
  returned: always
  type: dict
  contains:
    platform:
      description: The architecture (C(arch)) and the minor version of Python (C(python)).
      type: dict
    system:
      description: >-
        The distribution (C(os), C(os_version)), and whether the package ca-certificates is there
        (C(authorities)).
      type: dict
    newest:
      description: Number of the newest state that is kept on the host, 0 without one.
      type: int
    pending:
      description: Number of the run that began on the host and did not end, if there is one.
      type: int
    releases:
      description: The version to which C(/opt/<name>/current) leads, by name.
      type: dict
    proxies:
      description: >-
        By name: the SHA-256 of each configuration file (C(files)), the state of the unit (C(unit)),
        the binary that runs (C(runs)), the paths of files that the running Envoy has not accepted
        (C(waiting)), and whether it was started from the bootstrap that is there (C(bootstrap)).
      type: dict
    apps:
      description: >-
        By name: the state of unit and socket (C(unit), C(socket)), the codes of the environment
        (C(environment)), and whether the process was started with what is there (C(current)).
      type: dict
    offered:
      description: The codes of the environments offered to other apps, by the service's name.
      type: dict
    jaeger:
      description: The state of Jaeger's unit, and whether it was started with what is there.
      type: dict
"""

import hashlib  # noqa: E402
import hmac  # noqa: E402
import http.client  # noqa: E402
import json  # noqa: E402
import platform  # noqa: E402
import re  # noqa: E402
from collections.abc import Callable, Iterable, Mapping  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402

from ..module_utils.environment_file import read_environment  # noqa: E402
from ..module_utils.mesh_envoy import (  # noqa: E402
    WATCHED,
    Admin,
    stat_prefix,
    version_of,
)
from ..module_utils.mesh_host import (  # noqa: E402
    Books,
    Unreadable,
    run,
)

State = dict[str, Any]
# An admin socket and a URL in, the body of the answer out; raises OSError or HTTPException.
Ask = Callable[[str, str], str]
# Arguments of systemctl in, its output out.
Systemctl = Callable[[list[str]], str]

PROPERTIES = ("Id", "LoadState", "ActiveState", "UnitFileState", "MainPID", "StatusText")


def ask(admin_socket: str, url: str) -> str:
    """Return the body of a page of Envoy's admin interface."""
    return Admin(admin_socket).get(url)[1]


def systemctl(arguments: list[str]) -> str:
    """Return what systemctl prints; what it cannot tell, it leaves out."""
    return run(["systemctl", *arguments]).out


class Host:
    """What can be seen on the host below `root`. `key` makes the codes of secret values."""

    def __init__(self, root: Path, key: str, ask: Ask, systemctl: Systemctl) -> None:
        self.root, self.key, self.ask, self.systemctl = root, key, ask, systemctl

    def state(self) -> State:
        """Return all of it."""
        proxies = self._named("etc/envoy", "bootstrap.yaml")
        apps = self._named("etc/flask", "env")
        units = [f"envoy@{name}.service" for name in proxies]
        units += [f"flask@{name}.{kind}" for name in apps for kind in ("service", "socket")]
        shown = self._units([*units, "jaeger.service"])
        return {
            "platform": {
                "arch": platform.machine(),
                "python": ".".join(platform.python_version_tuple()[:2]),
            },
            "system": self._system(),
            **self._kept(),
            "releases": self._releases(),
            "proxies": {name: self._proxy(name, shown) for name in proxies},
            "apps": {name: self._app(name, shown) for name in apps},
            "offered": self._offered(),
            "jaeger": self._jaeger(shown.get("jaeger.service", {})),
        }

    def _system(self) -> State:
        release = read_environment(self._text(self.root / "etc/os-release"))
        return {
            "os": release.get("ID", ""),
            "os_version": release.get("VERSION_ID", ""),
            "authorities": (self.root / "etc/ssl/certs/ca-certificates.crt").is_file(),
        }

    def _kept(self) -> State:
        """Return the numbers of the newest kept state and of a run that was interrupted."""
        books = Books(self.root)
        try:
            pending = books.interrupted()
        except Unreadable:
            pending = None
        return {"newest": books.newest(), "pending": pending}

    def _named(self, folder: str, file: str) -> list[str]:
        """Return the names of the folders in `folder` that hold `file`."""
        return sorted(path.parent.name for path in (self.root / folder).glob(f"*/{file}"))

    def _releases(self) -> dict[str, str]:
        found = {}
        for link in sorted((self.root / "opt").glob("*/current")):
            if link.is_symlink():
                found[link.parent.name] = link.readlink().name
        return found

    def _units(self, names: list[str]) -> dict[str, dict[str, str]]:
        text = self.systemctl(["show", f"--property={','.join(PROPERTIES)}", "--", *names])
        blocks = [
            dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
            for block in text.split("\n\n")
        ]
        return {block["Id"]: block for block in blocks if "Id" in block}

    def _proxy(self, name: str, units: Mapping[str, Mapping[str, str]]) -> State:
        folder = self.root / "etc/envoy" / name
        texts = {
            str(path.relative_to(folder)): path.read_text(errors="replace")
            for path in self._files(folder)
        }
        unit = units.get(f"envoy@{name}.service", {})
        running = self._running(str(self.root / "run/envoy" / name / "admin.sock"), texts)
        return {
            "files": {path: hashlib.sha256(t.encode()).hexdigest() for path, t in texts.items()},
            "unit": unit_state(unit),
            "runs": self._executable(unit.get("MainPID", "0")),
            **running,
        }

    @staticmethod
    def _files(folder: Path) -> Iterable[Path]:
        yield folder / "bootstrap.yaml"
        for watched in WATCHED:
            yield from sorted((folder / watched).glob("*.yaml"))

    def _executable(self, pid: str) -> str | None:
        """Return the release whose binary a process runs, None when it cannot be told."""
        try:
            path = (self.root / "proc" / pid / "exe").readlink()
        except OSError:
            return None
        found = re.search(r"/opt/envoy/([^/]+)/", str(path))
        return found.group(1) if found else str(path)

    def _running(self, admin_socket: str, texts: Mapping[str, str]) -> State:
        """Return what a running Envoy says of the files that are there."""
        try:
            stats = self.ask(admin_socket, "/stats?type=TextReadouts&filter=version_text$")
            info = json.loads(self.ask(admin_socket, "/server_info"))
        except (OSError, http.client.HTTPException, ValueError):
            return {"answers": False, "waiting": [], "bootstrap": None}
        accepted = dict(re.findall(r'^(\S+)\.version_text: "(.*)"$', stats, re.MULTILINE))
        started_from = info.get("node", {}).get("metadata", {}).get("bootstrap_version", "")
        return {
            "answers": True,
            "waiting": sorted(
                path
                for path, text in texts.items()
                if (prefix := stat_prefix(path)) is not None
                and accepted.get(prefix) != version_of(text)
            ),
            "bootstrap": started_from == version_of(texts.get("bootstrap.yaml", "")),
        }

    def _app(self, name: str, units: Mapping[str, Mapping[str, str]]) -> State:
        environment = read_environment(self._text(self.root / "etc/flask" / name / "env"))
        service = units.get(f"flask@{name}.service", {})
        config_id = environment.pop("CONFIG_ID", "")
        return {
            "unit": unit_state(service),
            "socket": unit_state(units.get(f"flask@{name}.socket", {})),
            "environment": {key: self.code(value) for key, value in environment.items()},
            "current": bool(config_id) and config_id in service.get("StatusText", ""),
        }

    def _offered(self) -> State:
        return {
            path.stem: {
                name: self.code(value) for name, value in read_environment(self._text(path)).items()
            }
            for path in sorted((self.root / "etc/vmesh").glob("*.env"))
        }

    def _jaeger(self, unit: Mapping[str, str]) -> State | None:
        if unit.get("LoadState", "not-found") == "not-found":
            return None
        text = self._text(self.root / "etc/systemd/system/jaeger.service")
        wanted = re.search(r"--status=(Configuration \w+)", text)
        return {
            "unit": unit_state(unit),
            "current": wanted is None or wanted.group(1) in unit.get("StatusText", ""),
        }

    @staticmethod
    def _text(path: Path) -> str:
        try:
            return path.read_text(errors="replace")
        except OSError:
            return ""

    def code(self, value: str) -> str:
        """Return what stands for `value`: nobody without the key can tell the value from it."""
        return hmac.new(self.key.encode(), value.encode(), hashlib.sha256).hexdigest()


def unit_state(shown: Mapping[str, str]) -> dict[str, str]:
    """Return what matters of a unit: whether it runs, and whether it will after a reboot."""
    if shown.get("LoadState", "not-found") == "not-found":
        return {"active": "not installed", "enabled": ""}
    return {"active": shown.get("ActiveState", ""), "enabled": shown.get("UnitFileState", "")}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "key": {"type": "str", "required": True, "no_log": True},
            "answers": {"type": "path"},
        },
        supports_check_mode=True,
    )
    host = Host(Path("/"), module.params["key"], ask, systemctl)
    module.exit_json(changed=False, state=host.state())


if __name__ == "__main__":
    main()
