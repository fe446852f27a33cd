# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""One Envoy on its host: its files, its process, its admin interface, and the safe order.

What the modules envoy_config, envoy_endpoint, host_snapshot and host_info share. Ansible ships it
with them as ansible.module_utils.mesh_envoy; Python's standard library is all it needs.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

Files = dict[str, str]

BOOTSTRAP = "bootstrap.yaml"
CLUSTERS = "clusters/clusters.yaml"
LISTENERS = "listeners/listeners.yaml"
# What marks an endpoint that gets no new requests.
DRAINING = ", health_status: DRAINING"
WATCHED = ("endpoints", "clusters", "routes", "listeners")
MODE = 0o640
FOLDER_MODE = 0o750
FAILURES = re.compile(r"\.(update_failure|update_rejected|listener_create_failure)$")
INCOMING = ".incoming-"
# A file for each unit that has left the mesh and only finishes its requests; see `leave`.
LEAVING = Path("/run/vmesh/leaving")


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

    def __init__(self, unit: str, leaving: Path = LEAVING) -> None:
        self.unit, self.leaving = unit, leaving / unit

    def is_running(self) -> bool:
        """Tell whether the unit is active, and not merely finishing what it had to do.

        One that left the mesh drains its listeners, which cannot be called back: when it is
        wanted again, it must be started again.
        """
        if self.leaving.exists():
            return False
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

    def is_enabled(self) -> bool:
        """Tell whether the unit would start at boot."""
        command = ["systemctl", "is-enabled", "--quiet", self.unit]
        return subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == 0

    def enable(self) -> None:
        """Have the unit started at boot; raises Refused when systemd does not do so."""
        command = ["systemctl", "enable", "--quiet", self.unit]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise Refused(f"{self.unit} cannot be enabled: {done.stderr.strip()}")

    def start(self) -> None:
        """Start the unit as its file is now; raises Refused when systemd reports a failure.

        A unit that is still trying to start would go on with the files of before, hence
        `restart`.
        """
        if self.leaving.exists():
            # Whoever waits to stop it must not stop the new process.
            stop = ["systemctl", "stop", leaver(self.unit)]
            subprocess.run(stop, check=False, capture_output=True)
            self.leaving.unlink(missing_ok=True)
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


def leaver(unit: str) -> str:
    """Return the name of the unit that waits until `unit`, which left the mesh, may be stopped."""
    return f"vmesh-leave-{unit.removesuffix('.service').replace('@', '-')}.service"


class UnixConnection(http.client.HTTPConnection):
    """HTTP over the unix socket at `path`."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=30)
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
        return self._ask("GET", url)

    def post(self, url: str) -> tuple[int, str]:
        """Have Envoy do what `url` stands for; returns and raises as `get`."""
        return self._ask("POST", url)

    def _ask(self, method: str, url: str) -> tuple[int, str]:
        connection = UnixConnection(self.path)
        with contextlib.closing(connection):
            connection.request(method, url)
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


def _stamped(body: str) -> str:
    """Put the hash of `body` before it, as the renderer does: Envoy reports it as its version."""
    return f'version_info: "{hashlib.sha256(body.encode()).hexdigest()[:16]}"\n{body}'


def _endpoint(address: str, port: int) -> str:
    """Return an endpoint as the renderer writes it, on a line of its own."""
    where = f"address: {json.dumps(address)}, port_value: {port}"
    return f"endpoint: {{address: {{socket_address: {{{where}}}}}}}"


def _edited(text: str, edit: Callable[[str], str]) -> str:
    """Return the text of an endpoints file with its body edited, stamped anew if it differs."""
    _, _, body = text.partition("\n")
    edited = edit(body)
    return text if edited == body else _stamped(edited)


def has_endpoint(text: str, address: str, port: int) -> bool:
    """Tell whether the endpoints file with this text has the endpoint, draining or not."""
    return _endpoint(address, port) in text


def draining(text: str, address: str, port: int) -> str:
    """Return the text of an endpoints file in which no new request goes to this endpoint."""
    one = _endpoint(address, port)
    return _edited(text, lambda body: body.replace(f"- {one}\n", f"- {{{one}{DRAINING}}}\n"))


def serving(text: str, address: str, port: int) -> str:
    """Return the text as it was before `draining`."""
    one = _endpoint(address, port)
    return _edited(text, lambda body: body.replace(f"- {{{one}{DRAINING}}}\n", f"- {one}\n"))


def all_serving(text: str) -> str:
    """Return the text as it was before any endpoint was draining."""
    marked = rf"(?m)- \{{(endpoint: .*){re.escape(DRAINING)}\}}$"
    return _edited(text, lambda body: re.sub(marked, r"- \1", body))


class Store:
    """The proxy's folder on the host."""

    def __init__(self, path: Path, gid: int, uid: int = 0) -> None:
        self.path, self.gid, self.uid = path, gid, uid
        self._staged: dict[tuple[str, str], Path] = {}

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

    def stage(self, files: Iterable[tuple[str, str]]) -> None:
        """Lay files (name, content) beside those in use, so that `place` only has to move them.

        What a full disk or the like forbids, it forbids here, while nothing has changed yet.
        Raises OSError, and leaves nothing then.
        """
        try:
            for name, content in files:
                if (name, content) not in self._staged:
                    self._staged[name, content] = self._written(content)
        except OSError:
            self.sweep()
            raise

    def _written(self, content: str) -> Path:
        handle, name = tempfile.mkstemp(dir=self.path, prefix=INCOMING)
        with writing_in(self.path), os.fdopen(handle, "w") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chown(name, self.uid, self.gid)
        path = Path(name)
        path.chmod(MODE)
        return path

    def place(self, name: str, content: str) -> None:
        """Move a complete file into place: Envoy re-reads a watched file only when moved."""
        staged = self._staged.pop((name, content), None) or self._written(content)
        staged.replace(self.path / name)

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what was laid beside and not used, by this run or an interrupted one."""
        self._staged.clear()
        for path in self.path.glob(f"{INCOMING}*"):
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

    def stage(self, new: Files) -> None:
        """Lay beside what `apply` or `start` will move into place, and the files of before.

        With these the way back needs no room on the disk either. Raises OSError.
        """
        old = self.store.read()
        names = differences(old, new)
        files = [(name, texts[name]) for texts in (new, old) for name in names if name in texts]
        bridges = [(old, new), (new, old)]
        files += [
            (CLUSTERS, union_of_clusters(a.get(CLUSTERS, ""), b.get(CLUSTERS, "")))
            for a, b in bridges
            if CLUSTERS in names
        ]
        self.store.stage(files)

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

    def swap(self, files: Files) -> None:
        """Bring watched files that are there already to a running Envoy; raises Refused.

        For changes that refer to nothing new, such as those of an endpoint's health.
        """
        self._step(files, self.admin.failures())

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


# A line of a file that ends so has a secret as its `value`: vmesh's templates mark them.
_SECRET = re.compile(r'^(.*\bvalue: )("(?:[^"\\]|\\.)*")(.*\} # secret)$', re.MULTILINE)
_CONCEALED = '"(hidden)"'


def concealed(text: str) -> tuple[str, list[str]]:
    """Return a file without the secrets in it, and these, as the file has them."""
    secrets = [found[2] for found in _SECRET.finditer(text)]
    return _SECRET.sub(rf"\g<1>{_CONCEALED}\g<3>", text), secrets


def revealed(text: str, secrets: list[str]) -> str:
    """Return a file with its secrets in place again."""
    left = iter(secrets)
    return _SECRET.sub(lambda found: f"{found[1]}{next(left)}{found[3]}", text)


@contextlib.contextmanager
def writing_in(folder: Path) -> Iterator[None]:
    """Have an error of the system name `folder` where it names nothing: a full disk does not."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(folder)) from error


def reason(error: Exception) -> str:
    """Return an error in a few words: of one of the system, the file and what is wrong with it."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def bring(proxy: Proxy, new: Files) -> None:
    """Bring the proxy to `new`, or back to what it had; raises Refused with Envoy's reason."""
    began = time.time()
    old = proxy.store.read()
    try:
        proxy.store.sweep()
        proxy.store.mend_rights()
        proxy.stage(new)
    except OSError as error:
        raise Refused(f"{reason(error)}. Its files are as they were.") from error
    was_running = proxy.service.is_running() and proxy.admin.is_ready()
    try:
        if was_running:
            proxy.apply(new)
        else:
            proxy.start(new)
    except (Refused, OSError, http.client.HTTPException) as refusal:
        why = f"{reason(refusal)}\n{proxy.reasons(began)}".strip()
        raise Refused(f"{why}\n{_take_back(proxy, old, was_running)}") from refusal
    finally:
        with contextlib.suppress(OSError):
            proxy.store.sweep()


def _take_back(proxy: Proxy, old: Files, was_running: bool) -> str:
    """Put the old files back and say how that went."""
    if not old.keys() >= {BOOTSTRAP, CLUSTERS, LISTENERS}:
        return "There was no earlier configuration to go back to."
    try:
        if was_running:
            proxy.apply(old)
        else:
            proxy.start(old)
    except (Refused, OSError, http.client.HTTPException) as error:
        return f"The earlier configuration is back on disk, but not confirmed: {reason(error)}"
    return "The earlier configuration is back and confirmed."
