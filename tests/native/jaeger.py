"""The real Jaeger on loopback addresses, configured as the role configures it."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2 import Environment, StrictUndefined

from tests.native.native import eventually, free_port
from vmesh import artifacts
from vmesh.base import paths

ROLE = paths.PROJECT / "roles" / "jaeger"
# Where Jaeger refuses spans, in MiB: as on a VM of 1 GB (roles/jaeger/vars).
LIMIT_MIB = 384
# More traces than a test makes.
MANY = 100_000
Settings = dict[str, Any]


def binary(folder: Path) -> Path:
    """Unpack the program from the cache below `folder`; skips the test where it is not there."""
    cached = artifacts.cached("jaeger", artifacts.controller_arch())
    if cached is None:
        pytest.skip("Jaeger is not in the cache: ./mesh fetch")
    with tarfile.open(cached.path) as archive:
        (name,) = [each for each in archive.getnames() if each in {"bin/jaeger", "./bin/jaeger"}]
        archive.extract(name, folder, filter="data")
    return folder / "bin" / "jaeger"


def role_settings(folder: Path, ports: Mapping[str, int]) -> Settings:
    """Return the configuration that the role writes, with its traces below `folder`."""
    jinja = Environment(undefined=StrictUndefined, trim_blocks=True)
    jinja.filters |= {"to_json": json.dumps, "bool": bool, "split": str.split}
    text = jinja.from_string((ROLE / "templates" / "jaeger.yaml.j2").read_text()).render(
        {
            **yaml.safe_load((ROLE / "defaults" / "main.yml").read_text()),
            "jaeger_endpoints": {name: f"127.0.0.1:{port}" for name, port in ports.items()},
            "jaeger_pages_in_archive": False,
            "__jaeger_limiter_mib": LIMIT_MIB,
        }
    )
    settings: Settings = yaml.safe_load(text)
    badger = settings["extensions"]["jaeger_storage"]["backends"]["badger"]["badger"]
    badger["directories"] = {name: str(folder / name) for name in ("keys", "values")}
    return settings


class NativeJaeger:
    """One Jaeger, which can end and start again with the traces that it has stored."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.program, self.folder = program, folder
        names = ("otlp_grpc", "otlp_http", "zipkin", "ui", "query_grpc", "metrics")
        self.ports = {name: free_port() for name in names}
        self.settings = role_settings(folder, self.ports)
        self.log = folder / "jaeger.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        file = self.folder / "jaeger.yaml"
        file.write_text(yaml.safe_dump(self.settings))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [self.program, "--config", file],
                stdout=log,
                stderr=log,
                env={"GOMEMLIMIT": f"{LIMIT_MIB * 4 // 5}MiB"},
            )
        assert eventually(self._answers, 60), self.log.read_text()[-3000:]

    def _answers(self) -> bool:
        try:
            # Its port for spans answers a GET with 405.
            return self.get("ui", "/api/services")[0] == 200 and (
                self.get("otlp_http", "/v1/traces")[0] == 405
            )
        except OSError:
            return False

    def end(self, by: signal.Signals) -> int:
        """End it by a signal; return its exit status."""
        assert self.process is not None
        self.process.send_signal(by)
        status = self.process.wait(60)
        self.process = None
        return status

    def get(self, port: str, path: str) -> tuple[int, str]:
        """Return status and body of a GET at one of its ports."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[port], timeout=30)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def traces(self, service: str) -> dict[str, int]:
        """Return the traces with spans of a service: id -> how many spans are stored, of all."""
        status, body = self.get("ui", f"/api/traces?service={service}&limit={MANY}&lookback=1h")
        assert status == 200, body
        return {each["traceID"]: len(each["spans"]) for each in json.loads(body)["data"] or []}

    def counted(self, name: str) -> int:
        """Return the sum of a counter in its metrics, over all its labels."""
        status, body = self.get("metrics", "/metrics")
        assert status == 200
        values = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", body, re.MULTILINE)
        return round(sum(map(float, values)))


@contextmanager
def running_jaeger(
    program: Path, folder: Path, change: Callable[[Settings], None] = lambda _: None
) -> Iterator[NativeJaeger]:
    """Run a Jaeger whose settings are the role's, changed by `change`."""
    jaeger = NativeJaeger(program, folder)
    change(jaeger.settings)
    try:
        jaeger.start()
        yield jaeger
    finally:
        if jaeger.process is not None:
            jaeger.end(signal.SIGKILL)
