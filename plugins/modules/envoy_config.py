#!/usr/bin/python
# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""Bring one Envoy's configuration files to a host in safe order and see them accepted."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: envoy_config
short_description: Apply the configuration files of one Envoy and confirm that it took them
description:
  - Places the files of one proxy by rename, each kind in its own watched directory, in an
    order in which no file ever refers to what Envoy does not know yet. Endpoints come
    first, then clusters, routes and listeners; what is no longer needed goes in the other
    order.
  - Confirms each step by the version that Envoy reports for it. When Envoy refuses, the
    files of before go back, are confirmed themselves, and the module fails with Envoy's reason.
  - Starts the unit when it is not running.
  - A changed C(bootstrap.yaml) is placed and reported as RV(restart_required), as is a
    process that runs another release than O(binary) or is older than its unit file.
options:
  name:
    description: Name of the proxy, the instance of its unit.
    type: str
    required: true
  files:
    description: >-
      Content of each file by its path below the proxy's folder. The action plugin fills
      this in from O(config_dir).
    type: dict
    required: true
  config_dir:
    description: Folder on the controller that holds the rendered files; for the action plugin.
    type: path
  path:
    description: Folder of the proxy on the host.
    type: path
    required: true
  group:
    description: Group that may read the files; they belong to root.
    type: str
    required: true
  unit:
    description: Its systemd unit.
    type: str
    required: true
  unit_changed:
    description: Whether this run has changed the file of the unit; or would, in check mode.
    type: bool
    default: false
  admin_socket:
    description: Unix socket of its admin interface.
    type: path
    required: true
  binary:
    description: The Envoy that the unit starts; a symlink to the current release.
    type: path
    default: /opt/envoy/current/bin/envoy
  timeout:
    description: Seconds to wait for Envoy to accept each step.
    type: float
    default: 60
author:
  - vmesh maintainers
"""

EXAMPLES = r"""
- name: Apply the configuration
  envoy_config:
    name: shop
    config_dir: build/lab/web1/shop
    path: /etc/envoy/shop
    group: envoy-shop
    unit: envoy@shop.service
    admin_socket: /run/envoy/shop/admin.sock
"""

RETURN = r"""
changed_files:
  description: Paths of the files that were placed or removed.
  returned: always
  type: list
  elements: str
started:
  description: Whether the unit was not running before.
  returned: always
  type: bool
restart_required:
  description: Whether the running Envoy was started from an older bootstrap, binary or unit.
  returned: always
  type: bool
"""

import contextlib  # noqa: E402
import grp  # noqa: E402
import http.client  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import re  # noqa: E402
import socket  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Mapping  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, Protocol  # noqa: E402
from urllib.parse import quote  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402

Files = dict[str, str]

BOOTSTRAP = "bootstrap.yaml"
CLUSTERS = "clusters/clusters.yaml"
LISTENERS = "listeners/listeners.yaml"
WATCHED = ("endpoints", "clusters", "routes", "listeners")
MODE = 0o640
FOLDER_MODE = 0o750
FAILURES = re.compile(r"\.(update_failure|update_rejected|listener_create_failure)$")


class Refused(Exception):  # noqa: N818 - an answer of Envoy, not a fault of ours
    """Envoy did not accept a file, or did not say so in time."""


class Service(Protocol):
    """What runs the Envoy."""

    def is_running(self) -> bool: ...
    def executable(self) -> str: ...
    def is_older_than_its_unit(self) -> bool: ...
    def start(self) -> None: ...
    def messages(self, since: float) -> list[str]: ...


class Systemd:
    """The service manager of the host. `unit` is the Envoy's unit."""

    def __init__(self, unit: str) -> None:
        self.unit = unit

    def is_running(self) -> bool:
        return (
            subprocess.run(["systemctl", "is-active", "--quiet", self.unit], check=False).returncode
            == 0
        )

    def _show(self, *properties: str) -> dict[str, str]:
        wanted = f"--property={','.join(properties)}"
        done = subprocess.run(
            ["systemctl", "show", "--timestamp=unix", wanted, self.unit],
            check=False,
            capture_output=True,
            text=True,
        )
        return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)

    def executable(self) -> str:
        """Return the path of the binary that the main process runs."""
        try:
            return str(Path(f"/proc/{self._show('MainPID')['MainPID']}/exe").readlink())
        except OSError:
            return ""

    def is_older_than_its_unit(self) -> bool:
        """Tell whether the unit file was written after the main process was started."""
        shown = self._show("FragmentPath", "ExecMainStartTimestamp")
        started = shown.get("ExecMainStartTimestamp", "").removeprefix("@")
        unit = Path(shown.get("FragmentPath", ""))
        return started.isdigit() and unit.is_file() and int(unit.stat().st_mtime) > int(started)

    def start(self) -> None:
        """Start the unit as its file is now; raises Refused when systemd reports a failure.

        A unit that is still trying to start would go on with the files of before, hence
        `restart`.
        """
        for verb in (["daemon-reload"], ["reset-failed", self.unit], ["restart", self.unit]):
            done = subprocess.run(["systemctl", *verb], check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise Refused(f"{self.unit} does not start: {done.stderr.strip()}")

    def messages(self, since: float) -> list[str]:
        """Return the unit's journal lines since a time in seconds since the epoch."""
        done = subprocess.run(
            ["journalctl", "-u", self.unit, "-o", "cat", "--since", f"@{int(since)}", "-n", "200"],
            check=False,
            capture_output=True,
            text=True,
        )
        return done.stdout.splitlines()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=10)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Admin:
    """The admin interface of a running Envoy."""

    def __init__(self, path: str) -> None:
        self.path = path

    def get(self, url: str) -> tuple[int, str]:
        """Return status and body of `url`; raises OSError when nobody answers."""
        connection = _UnixConnection(self.path)
        with contextlib.closing(connection):
            connection.request("GET", url)
            response = connection.getresponse()
            return response.status, response.read().decode(errors="replace")

    def is_ready(self) -> bool:
        try:
            return self.get("/ready")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def bootstrap_version(self) -> str:
        """Return the version of the bootstrap that the process was started from."""
        _, body = self.get("/server_info")
        metadata = json.loads(body).get("node", {}).get("metadata", {})
        return str(metadata.get("bootstrap_version", ""))

    def versions(self) -> dict[str, str]:
        """Return the version_text of every resource that Envoy has accepted, by stat name."""
        _, body = self.get("/stats?type=TextReadouts&filter=version_text$")
        found = re.findall(r'^(\S+)\.version_text: "(.*)"$', body, re.MULTILINE)
        return dict(found)

    def failures(self) -> dict[str, int]:
        """Return the counters that tell of refused files, by stat name."""
        _, body = self.get("/stats?format=json&type=Counters&filter=" + quote(FAILURES.pattern))
        return {
            each["name"]: each["value"]
            for each in json.loads(body).get("stats", [])
            if "name" in each
        }


def stat_prefix(path: str) -> str | None:
    """Return the stats prefix under which Envoy reports the watched file at `path`."""
    if path == CLUSTERS:
        return "cluster_manager.cds"
    if path == LISTENERS:
        return "listener_manager.lds"
    folder, name = path.split("/", 1) if "/" in path else ("", path)
    name = name.removesuffix(".yaml")
    if folder == "routes":
        return f"http.{name}.rds.{name}"
    if folder == "endpoints":
        return f"cluster.{name}"
    return None


def version_of(content: str) -> str:
    """Return the version that the renderer wrote into a file."""
    match = re.search(r'(?:^version_info|\bbootstrap_version): "([^"]*)"', content)
    return match.group(1) if match else ""


def resources_of(content: str) -> dict[str, str]:
    """Return the text of each resource in a rendered file by its name.

    The renderer begins every resource with `- "@type"` in the first column, so that this
    needs no YAML library, which a host may lack.
    """
    _, _, body = content.partition("\nresources:\n")
    found = {}
    for block in re.split(r'(?m)^(?=- "@type")', body):
        name = re.search(r'^  name: "([^"]*)"', block, re.MULTILINE)
        if name:
            found[name.group(1)] = block
    return found


def union_of_clusters(old: str, new: str) -> str:
    """Return the clusters of `new` and those only `old` has, in the form of `new`."""
    staying = resources_of(new)
    kept = [text for name, text in resources_of(old).items() if name not in staying]
    if not kept:
        return new
    version = f"{version_of(old)}+{version_of(new)}"
    body = new.partition("\n")[2]
    return (
        f'version_info: "{version}"\n{body if body.endswith(chr(10)) else body + chr(10)}'
        + "".join(kept)
    )


class Store:
    """The proxy's folder on the host."""

    def __init__(self, path: Path, gid: int, uid: int = 0) -> None:
        self.path, self.gid, self.uid = path, gid, uid

    def read(self) -> Files:
        """Return the configuration files that are there now."""
        found = {}
        candidates = [self.path / BOOTSTRAP]
        for folder in WATCHED:
            candidates += sorted((self.path / folder).glob("*.yaml"))
        for path in candidates:
            if path.is_file():
                found[str(path.relative_to(self.path))] = path.read_text()
        return found

    def wrong_rights(self) -> list[str]:
        """Return the folders and files whose owner or mode is not what it should be."""
        expected = [(self.path, FOLDER_MODE)]
        expected += [(self.path / folder, FOLDER_MODE) for folder in WATCHED]
        expected += [(self.path / name, MODE) for name in self.read()]
        wrong = []
        for path, mode in expected:
            try:
                status = path.stat()
            except FileNotFoundError:
                wrong.append(str(path))
                continue
            if (status.st_uid, status.st_gid, status.st_mode & 0o7777) != (
                self.uid,
                self.gid,
                mode,
            ):
                wrong.append(str(path))
        return wrong

    def mend_rights(self) -> None:
        for folder in (self.path, *(self.path / name for name in WATCHED)):
            folder.mkdir(parents=True, exist_ok=True)
            os.chown(folder, self.uid, self.gid)
            folder.chmod(FOLDER_MODE)
        for name in self.read():
            os.chown(self.path / name, self.uid, self.gid)
            (self.path / name).chmod(MODE)

    def place(self, name: str, content: str) -> None:
        """Move a complete file into place: Envoy re-reads a watched file only when moved."""
        handle, temporary = tempfile.mkstemp(dir=self.path, prefix=".incoming-")
        with os.fdopen(handle, "w") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chown(temporary, self.uid, self.gid)
        Path(temporary).chmod(MODE)
        Path(temporary).replace(self.path / name)

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what an interrupted run left."""
        for path in self.path.glob(".incoming-*"):
            path.unlink(missing_ok=True)


class Proxy:
    """One Envoy: its folder, its service, its admin interface. `timeout` is in seconds."""

    def __init__(self, store: Store, service: Service, admin: Admin, timeout: float) -> None:
        self.store, self.service, self.admin, self.timeout = store, service, admin, timeout

    def accepts(self, files: Mapping[str, str]) -> bool:
        """Tell whether Envoy runs and has accepted exactly these watched files."""
        if not self.admin.is_ready():
            return False
        versions = self.admin.versions()
        return all(
            versions.get(prefix) == version_of(content)
            for name, content in files.items()
            if (prefix := stat_prefix(name)) is not None
        )

    def needs_restart(self, new: Mapping[str, str], binary: str) -> bool:
        """Tell whether the running process has another bootstrap or binary than it should."""
        return self.admin.bootstrap_version() != version_of(
            new[BOOTSTRAP]
        ) or self.service.executable() != str(Path(binary).resolve())

    def apply(self, new: Files) -> None:
        """Bring a running Envoy to `new`; raises Refused at the first step it does not take."""
        old = self.store.read()
        before = self.admin.failures()
        for name in _touched(old, new, "endpoints/"):
            self.store.place(name, new[name])
        bridge = union_of_clusters(old.get(CLUSTERS, ""), new[CLUSTERS])
        self._step({CLUSTERS: bridge}, before)
        # Endpoints of clusters that were just added are subscribed to only now.
        self._confirm({n: c for n, c in new.items() if n.startswith("endpoints/")}, before)
        subscribed = self.admin.versions()
        routes = {name: new[name] for name in new if name.startswith("routes/")}
        known = {n: c for n, c in routes.items() if stat_prefix(n) in subscribed}
        for name in routes.keys() - known.keys():
            self.store.place(name, routes[name])
        self._step(known, before)
        self._step({LISTENERS: new[LISTENERS]}, before)
        self._confirm(routes, before)
        self._step({CLUSTERS: new[CLUSTERS]}, before)
        for name in old.keys() - new.keys():
            self.store.remove(name)
        if old.get(BOOTSTRAP) != new[BOOTSTRAP]:
            self.store.place(BOOTSTRAP, new[BOOTSTRAP])

    def _step(self, files: Files, before: Mapping[str, int]) -> None:
        versions, there = self.admin.versions(), self.store.read()
        for name, content in files.items():
            if there.get(name) != content or versions.get(stat_prefix(name) or "") != version_of(
                content
            ):
                self.store.place(name, content)
        self._confirm(files, before)

    def _confirm(self, files: Files, before: Mapping[str, int]) -> None:
        expected = {
            prefix: (name, version_of(content))
            for name, content in files.items()
            if (prefix := stat_prefix(name)) is not None
        }

        def missing() -> list[str]:
            versions = self.admin.versions()
            return [n for prefix, (n, v) in expected.items() if versions.get(prefix) != v]

        self._wait(missing, before)

    def _wait(self, missing: Callable[[], list[str]], before: Mapping[str, int]) -> None:
        """Wait until nothing is missing; raises Refused on a refusal or after the timeout."""
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                risen = [
                    n for n, value in self.admin.failures().items() if value > before.get(n, 0)
                ]
                if risen:
                    raise Refused(f"Envoy counted a refusal in {', '.join(sorted(risen))}")
                lacking = missing()
                if not lacking and self.admin.is_ready():
                    return
            except (OSError, http.client.HTTPException) as error:
                lacking = [f"an answer on {self.admin.path} ({error})"]
            if time.monotonic() > deadline:
                raise Refused(
                    f"after {self.timeout:.0f} s Envoy has not accepted: "
                    + (", ".join(lacking) or "it is not ready")
                )
            time.sleep(0.1)

    def start(self, new: Files) -> None:
        """Place everything, start Envoy and see all of it accepted."""
        old = self.store.read()
        for name, content in new.items():
            if old.get(name) != content:
                self.store.place(name, content)
        for name in old.keys() - new.keys():
            self.store.remove(name)
        self.service.start()
        self._confirm(new, {})

    def reasons(self, since: float) -> str:
        """Return what Envoy logged about a refusal, the last lines if it names none."""
        lines = self.service.messages(since)
        telling = [
            line for line in lines if re.search(r"reject|fail|cannot|error|unable", line, re.I)
        ]
        return "\n".join((telling or lines)[-5:])


def _touched(old: Files, new: Files, folder: str) -> list[str]:
    return [n for n in new if n.startswith(folder) and old.get(n) != new[n]]


def differences(old: Files, new: Files) -> list[str]:
    """Return the paths that are added, changed or removed."""
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def _diff(old: Files, new: Files) -> list[dict[str, str]]:
    return [
        {
            "before_header": name,
            "after_header": name,
            "before": old.get(name, ""),
            "after": new.get(name, ""),
        }
        for name in differences(old, new)
    ]


def bring(proxy: Proxy, new: Files) -> None:
    """Bring the proxy to `new`, or back to what it had; raises Refused with Envoy's reason."""
    began = time.time()
    old = proxy.store.read()
    proxy.store.sweep()
    proxy.store.mend_rights()
    was_running = proxy.service.is_running() and proxy.admin.is_ready()
    try:
        if was_running:
            proxy.apply(new)
        else:
            proxy.start(new)
    except Refused as refusal:
        reason = f"{refusal}\n{proxy.reasons(began)}".strip()
        raise Refused(f"{reason}\n{_take_back(proxy, old, was_running)}") from refusal


def _take_back(proxy: Proxy, old: Files, was_running: bool) -> str:
    """Put the old files back and say how that went."""
    if not old.keys() >= {BOOTSTRAP, CLUSTERS, LISTENERS}:
        return "There was no earlier configuration to go back to."
    try:
        if was_running:
            proxy.apply(old)
        else:
            proxy.start(old)
    except (Refused, OSError) as error:
        return f"The earlier configuration is back on disk, but not confirmed: {error}"
    return "The earlier configuration is back and confirmed."


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "files": {"type": "dict", "required": True},
            "config_dir": {"type": "path"},
            "path": {"type": "path", "required": True},
            "group": {"type": "str", "required": True},
            "unit": {"type": "str", "required": True},
            "unit_changed": {"type": "bool", "default": False},
            "admin_socket": {"type": "path", "required": True},
            "binary": {"type": "path", "default": "/opt/envoy/current/bin/envoy"},
            "timeout": {"type": "float", "default": 60},
        },
        supports_check_mode=True,
    )
    options: dict[str, Any] = module.params
    new: Files = options["files"]
    try:
        gid = grp.getgrnam(options["group"]).gr_gid
    except KeyError:
        if not module.check_mode:
            module.fail_json(msg=f"The group {options['group']} does not exist; create it first.")
        gid = -1
    store = Store(Path(options["path"]), gid)
    proxy = Proxy(
        store, Systemd(options["unit"]), Admin(options["admin_socket"]), options["timeout"]
    )
    old = store.read()
    running = proxy.service.is_running()
    changed_files = differences(old, new)
    settled = running and not changed_files and not store.wrong_rights() and proxy.accepts(new)
    result: dict[str, Any] = {"changed_files": changed_files, "diff": _diff(old, new)}
    if not running and not changed_files:
        result["diff"] = [{"prepared": f"{options['unit']} is not running and will be started\n"}]
    if not settled and not module.check_mode:
        try:
            bring(proxy, new)
        except Refused as refusal:
            module.fail_json(
                msg=f"Envoy {options['name']} did not take its configuration: {refusal}"
            )
    restart = proxy.admin.is_ready() and (
        (running and options["unit_changed"]) or proxy.needs_restart(new, options["binary"])
    )
    module.exit_json(
        changed=restart or not settled,
        started=not running,
        restart_required=restart,
        **result,
    )


if __name__ == "__main__":
    main()
