"""A small mesh on loopback addresses: the Envoys of a plan, natively, and the demo's own apps.

Commands of the documents run against it as against the lab: `curl 127.0.0.1:8000` reaches the
edge, and `./mesh ssh NAME sudo systemctl ...` stops and starts what it names.
"""

from __future__ import annotations

import copy
import importlib.util
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import randint
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

from meshtrace.forwarded import Forwarded
from werkzeug.serving import BaseWSGIServer, make_server

from plugins.module_utils.envoy_admin import Admin
from tests.native.native import Upstream, eventually, free_port, static_text
from vmesh.base import paths, wsgi
from vmesh.compile.host_spec import FlaskSpec, MeshSpec, ProxySpec, app_socket
from vmesh.model.types import Edge
from vmesh.render.renderer import Layout

Place = tuple[str, int]
Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
_OPTIONS = (
    "--use-dynamic-base-id",
    "--concurrency",
    "1",
    "-l",
    "warning",
    "--file-flush-interval-msec",
    "50",
)
_SYSTEMCTL = re.compile(
    r"\./mesh ssh (?P<host>\S+) sudo systemctl "
    r"(?P<what>stop|start|kill -s STOP|kill -s CONT) (?P<kind>envoy|flask)@(?P<name>\S+)"
)


class App:
    """A Flask app of a plan, served from this process; it can be frozen and thawed."""

    def __init__(self, plan: FlaskSpec, environment: dict[str, str]) -> None:
        self.thawed = threading.Event()
        self.thawed.set()
        self.inner = _load(plan, environment)
        self.server: BaseWSGIServer = make_server("127.0.0.1", 0, self, threaded=True)
        self.port = self.server.server_port

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        self.thawed.wait(30)
        return self.inner(environ, start_response)

    def __enter__(self) -> App:
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.thawed.set()
        self.server.shutdown()
        self.server.server_close()


def _load(plan: FlaskSpec, environment: dict[str, str]) -> Wsgi:
    target = wsgi.parse(plan.wsgi)
    assert target is not None
    file = paths.PROJECT / plan.source / f"{target.module.replace('.', '/')}.py"
    spec = importlib.util.spec_from_file_location(f"shown_{plan.name.replace('-', '_')}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with mock.patch.dict(os.environ, environment):
        spec.loader.exec_module(module)
        found = getattr(module, target.name)
        return Forwarded(found(*target.arguments, **target.keywords) if target.called else found)


class StaticEnvoy:
    """An Envoy of the plan in its static form.

    It watches no files, of which a user may have 128 folders at once: a mesh of Envoys is many.
    """

    def __init__(self, binary: Path, folder: Path, plan: ProxySpec) -> None:
        self.binary, self.folder = binary, folder
        run = folder / plan.name
        run.mkdir()
        layout = Layout(str(folder), str(folder))
        (folder / "static.json").write_text(static_text(plan, layout))
        self.admin = Admin(str(run / "admin.sock"))
        self.access_log = folder / "access.log"
        self.process: subprocess.Popen[bytes] | None = None

    def logged(self) -> list[dict[str, Any]]:
        """Return what the access log says so far, a mapping for each request."""
        return [json.loads(line) for line in self.access_log.read_text().splitlines()]

    def counter(self, name: str) -> int:
        """Return a counter or gauge; 0 where Envoy has none of this name."""
        _, body = self.admin.get(f"/stats?filter=^{re.escape(name)}$")
        return int(body.rpartition(": ")[2] or 0)

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log, self.access_log.open("ab") as access_log:
            self.process = subprocess.Popen(
                [self.binary, "-c", self.folder / "static.json", *_OPTIONS],
                stdout=access_log,
                stderr=log,
            )

    def wait(self) -> None:
        """Wait until it is ready."""
        assert eventually(self.admin.is_ready, 20), (self.folder / "log").read_text()

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def _own_address() -> str:
    """Return a loopback address that nobody else is likely to use; all its ports are free."""
    return f"127.{randint(128, 254)}.{randint(1, 254)}.{randint(1, 254)}"


def _text(place: Place) -> str:
    return f"{place[0]}:{place[1]}"


@dataclass
class NativeLab:
    """What runs, by host and name, and where the plan's addresses are here."""

    edge: Edge  # the first one
    address: str = field(default_factory=_own_address)
    places: dict[Place, Place] = field(default_factory=dict)
    envoys: dict[tuple[str, str], StaticEnvoy] = field(default_factory=dict)
    apps: dict[tuple[str, str], App] = field(default_factory=dict)
    ports: dict[int, Place] = field(default_factory=dict)  # of the lab's 127.0.0.1 -> here

    def text_of(self, place: Place) -> str:
        """Return a place as a client writes it."""
        return _text(place)

    def run(self, line: str) -> str:
        """Run one command of a document; return what it prints."""
        if found := _SYSTEMCTL.fullmatch(line):
            self._systemctl(found["host"], found["what"], found["kind"], found["name"])
            return ""
        if "systemd-run" in line:
            return ""  # what it would start runs here already, see running_lab
        here = re.sub(r"127\.0\.0\.1:(\d+)", self._here, line)
        result = subprocess.run(
            ["bash", "-c", here],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "no_proxy": "*"},
        )
        output = result.stdout + result.stderr
        for there, place in self.ports.items():
            output = output.replace(_text(place), f"127.0.0.1:{there}")
        return output

    def _here(self, found: re.Match[str]) -> str:
        return _text(self.ports[int(found[1])])

    def _systemctl(self, host: str, what: str, kind: str, name: str) -> None:
        if kind == "flask":
            thawed = self.apps[host, name].thawed
            thawed.clear() if what == "kill -s STOP" else thawed.set()
        elif what == "stop":
            self.envoys[host, name].stop()
        else:
            self.envoys[host, name].start()
            self.envoys[host, name].wait()


@contextmanager
def running_lab(  # noqa: PLR0913, PLR0917 - what runs, and where
    envoy: Path,
    plan: MeshSpec,
    spans: Upstream,
    published: dict[int, Place],
    scripts: Mapping[str, Path] | None = None,
    listening: Mapping[str, int] | None = None,
) -> Iterator[NativeLab]:
    """Start all of `plan`; `published` tells what the lab's own ports lead to.

    Spans go to the stand-in `spans`. `scripts` are the programs behind external apps, by name;
    they listen on $PORT. `listening` are the ports of 127.0.0.1 of those that run already. Others
    have a stand-in.
    """
    lab = NativeLab(next(iter(plan.mesh.edges.values())))
    ports = itertools.count(20001)
    proxies = []
    for host, host_plan in plan.hosts.items():
        for planned in host_plan.proxies:
            proxy = replace(planned, view=copy.deepcopy(planned.view))
            for listener in proxy.view["listeners"]:
                here = (lab.address, next(ports))
                lab.places[listener["address"], listener["port"]] = here
                listener.update(address=here[0], port=here[1])
            proxies.append((host, proxy))
    lab.ports = {port: lab.places[to] for port, to in published.items() if to in lab.places}
    with ExitStack() as stack:
        for host, each in plan.hosts.items():
            for flask in each.flask_services:
                app = App(flask, _moved(flask.environment, lab.places))
                lab.apps[host, flask.name] = stack.enter_context(app)
            for external in each.external_apps:
                if external.name in (listening or {}):
                    port = (listening or {})[external.name]
                elif script := (scripts or {}).get(external.name):
                    environment = _moved(external.environment, lab.places)
                    port = stack.enter_context(_program(script, environment))
                else:
                    port = stack.enter_context(Upstream(external.name)).port
                if not external.listening.startswith("unix:"):
                    address, there = external.listening.rsplit(":", 1)
                    lab.places[address, int(there)] = ("127.0.0.1", port)
        for host, proxy in proxies:
            _lead_here(proxy, host, lab, spans.port)
            # A socket's path may have 107 characters, so the folder's name is short.
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="vmesh-")))
            made = lab.envoys[host, proxy.name] = StaticEnvoy(envoy, folder, proxy)
            stack.callback(made.stop)
            made.start()
        for made in lab.envoys.values():
            made.wait()
        yield lab


@contextmanager
def _program(script: Path, environment: dict[str, str]) -> Iterator[int]:
    """Run a Python program that listens on $PORT; yields that port."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, script],
        env={**os.environ, **environment, "PORT": str(port), "no_proxy": "*"},
        stderr=subprocess.DEVNULL,
    )
    try:
        assert eventually(lambda: _answers(port), 20)
        yield port
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _moved(environment: dict[str, str], places: dict[Place, Place]) -> dict[str, str]:
    """Return an app's environment with the URLs that hold here."""

    def here(found: re.Match[str]) -> str:
        return f"http://{_text(places[found[1], int(found[2])])}"

    return {
        name: re.sub(r"http://([0-9.]+):(\d+)", here, value) for name, value in environment.items()
    }


def _lead_here(proxy: ProxySpec, host: str, lab: NativeLab, spans: int) -> None:
    """Point the clusters of `proxy` at what runs here."""
    sockets = {
        app_socket(name): ("127.0.0.1", app.port)
        for (on, name), app in lab.apps.items()
        if on == host
    }
    for cluster in proxy.view["clusters"]:
        if cluster["name"] == "tracing_collector":
            cluster["endpoints"] = [{"address": "127.0.0.1", "port": spans}]
            continue
        for endpoint in cluster["endpoints"]:
            if endpoint.get("pipe") in sockets:
                address, port = sockets[endpoint.pop("pipe")]
            else:
                given = (endpoint.get("address", ""), endpoint.get("port", 0))
                address, port = lab.places.get(given, given)
            if address:
                endpoint.update(address=address, port=port)
