"""A service that sends spans to a real Jaeger, in a mesh whose way of speaking changes in stages.

The mesh address of Jaeger's host is HOST here, and its loopback is LOCAL. So Jaeger and its Envoy
have the same ports at two addresses, as on a host.
"""

from __future__ import annotations

import contextlib
import copy
import http.client
import json
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from plugins.module_utils import mutual_tls
from plugins.module_utils.certificates import Pair, new_anchor, new_leaf
from plugins.module_utils.envoy_apply import bring
from plugins.module_utils.envoy_security import security_of
from tests.native.jaeger import NativeJaeger
from tests.native.mutual import DOMAIN, HOUR, identity_text
from tests.native.native import Native, Upstream, ask, free_port
from vmesh.compile import identities
from vmesh.compile.compiler import compile_mesh
from vmesh.compile.host_spec import GUARD, HostSpec, MeshSpec, ProxySpec
from vmesh.compile.jaeger_views import RECEIVERS
from vmesh.compile.security import SecurityPlan
from vmesh.model.inventory import Inventory
from vmesh.rollout.security_run import NARROW, ROLLOUT, SPEAK, SecurityRun

HOST, LOCAL = "127.0.0.9", "127.0.0.1"
HOSTS = {"web1": "10.0.0.1", "obs": HOST}
EXPORTED = {"otlp": "otlp_grpc", "otlp_http": "otlp_http", "zipkin": "zipkin"}


class MovingJaeger(NativeJaeger):
    """A Jaeger that takes spans at `address`; its pages are on LOCAL."""

    address = HOST

    def get(self, port: str, path: str) -> tuple[int, str]:
        """Return status and body of a GET at one of its ports."""
        where = self.address if port in RECEIVERS else LOCAL
        connection = http.client.HTTPConnection(where, self.ports[port], timeout=30)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()


class GuardedMesh:
    """A service on web1 and Jaeger on obs, in plaintext at first."""

    def __init__(self, envoy: Path, jaeger: Path, folder: Path, stack: ExitStack) -> None:
        self.envoy, self.folder, self.stack = envoy, folder, stack
        self.tracing: dict[str, Any] = {"group": "obs", "export": "otlp", "sampling": 100}
        self.anchors = {host: new_anchor(f"{host}.{DOMAIN}", time.time()) for host in HOSTS}
        self.app = stack.enter_context(Upstream("app"))
        self.ingress = free_port()
        self.jaeger = MovingJaeger(jaeger, folder)
        self.ports = self.jaeger.ports
        stack.callback(lambda: self.jaeger.process and self.jaeger.end(signal.SIGKILL))
        self.proxies: dict[str, Native] = {}
        self.there: dict[str, list[str]] = {}

    def pems(self) -> dict[str, str]:
        """Return the anchors by host, as the controller knows them."""
        return {host: pair.certificate for host, pair in self.anchors.items()}

    def compiled(self, mode: str, plan: SecurityPlan | None = None, **more: Any) -> MeshSpec:
        """Return the compiled mesh in a mode, or as a plan says."""
        variables: dict[str, Any] = {
            "mesh_tracing": self.tracing,
            "mesh_security": {"mtls": mode, "trust_domain": DOMAIN},
            "mesh_services": {
                "service1": {
                    "port": 9001,
                    "app": {"external": "127.0.0.1:7001"},
                    "plaintext_from": [f"{LOCAL}/32"],  # of the test itself
                }
            },
            **more,
        }
        hosts = {host: {"ansible_host": address} for host, address in HOSTS.items()}
        hosts["obs"] = {"mesh_address": "10.0.0.9"}
        inventory = Inventory(Path("shop"), {"service1": ("web1",)}, hosts, variables)
        return compile_mesh(inventory, plan, self.pems())

    def change(self, mode: str) -> Iterator[str]:
        """Take the mesh to a mode as a run does; yields the name of each stage that is done."""
        spec = self.compiled(mode)
        told = {
            host: {
                "security": {
                    name: security_of(self.proxies[name].proxy.store.read())
                    for name in self.there.get(host, ())
                }
            }
            for host in HOSTS
        }
        run = SecurityRun.of(spec, self.pems(), told, {})
        assert run.stages.stays == run.stages.refused == ()
        for stage in (ROLLOUT, SPEAK, NARROW):
            self.bring(self.compiled(mode, run.plan(stage)))
            yield stage

    def bring(self, spec: MeshSpec) -> None:
        """Bring all hosts what they have by `spec`: first Jaeger's, then the one that calls it."""
        self._jaeger(spec.hosts["obs"])
        for proxy in spec.hosts["web1"].proxies:
            self._proxy("web1", proxy)
        self.there = {host: [each.name for each in spec.hosts[host].proxies] for host in spec.hosts}

    def _jaeger(self, host: HostSpec) -> None:
        """Do what systemd does: who has the ports stops, who gets them starts, then Jaeger."""
        assert host.jaeger is not None
        wanted = copy.deepcopy(self.jaeger.settings)
        where = LOCAL if host.jaeger.endpoints["otlp_grpc"].startswith(LOCAL) else HOST
        for name, receiver in (("grpc", "otlp_grpc"), ("http", "otlp_http")):
            protocols = wanted["receivers"]["otlp"]["protocols"]
            protocols[name]["endpoint"] = f"{where}:{self.ports[receiver]}"
        wanted["receivers"]["zipkin"]["endpoint"] = f"{where}:{self.ports['zipkin']}"
        guards = [each for each in host.proxies if each.kind == GUARD]
        moves = wanted != self.jaeger.settings or self.jaeger.process is None
        if moves and self.jaeger.process is not None:
            self.jaeger.end(signal.SIGTERM)
        if not guards and "jaeger" in self.proxies:
            self.proxies.pop("jaeger").service.stop()
        for guard in guards:
            self._proxy("obs", guard)
        if moves:
            self.jaeger.settings = wanted
            self.jaeger.address = where
            self.jaeger.start()

    def _proxy(self, host: str, proxy: ProxySpec) -> None:
        plan = self._here(proxy)
        if proxy.name not in self.proxies:
            root = self.folder / f"{proxy.name}-{len(list(self.folder.iterdir()))}"
            made = self.proxies[proxy.name] = Native(self.envoy, root, plan)
            self.stack.callback(made.service.stop)
            self.show(proxy.name, self.leaf(host, proxy.name))
        made = self.proxies[proxy.name]
        made.plan = plan
        bring(made.proxy, made.files())

    def _here(self, proxy: ProxySpec) -> ProxySpec:
        """Return a proxy whose listeners and upstreams are where they are here."""
        view = copy.deepcopy(proxy.view)
        for listener in view["listeners"]:
            if proxy.kind == GUARD:
                listener.update(address=HOST, port=self.ports[listener["name"]])
            else:
                listener.update(address=LOCAL, port=self.ingress)
        for cluster in view["clusters"]:
            name = cluster["name"]
            if name == "tracing_collector":
                port = self.ports[EXPORTED[self.tracing["export"]]]
                cluster["endpoints"] = [{"address": HOST, "port": port}]
            elif proxy.kind == GUARD:
                port = self.ports[name.removeprefix("jaeger_")]
                cluster["endpoints"] = [{"address": LOCAL, "port": port}]
            else:
                cluster["endpoints"] = [{"address": LOCAL, "port": self.app.port}]
        return replace(proxy, view=view)

    def leaf(self, host: str, proxy: str) -> Pair:
        """Return a leaf for a proxy, signed by its host."""
        name = identities.identity(host, DOMAIN, proxy)
        return new_leaf(self.anchors[host], name, int(time.time()) + HOUR)

    def show(self, proxy: str, leaf: Pair) -> None:
        """Have a proxy show a leaf from its next start on."""
        file = Path(self.proxies[proxy].layout.config_dir(proxy)) / mutual_tls.IDENTITY
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(identity_text(leaf))

    def request(self) -> str:
        """Send a request; return the id of its trace."""
        answer = ask(self.ingress)
        assert answer.status == 200, answer.text
        return str(json.loads(answer.text)["traceparent"].split("-")[1])

    def stored(self, traces: set[str]) -> set[str]:
        """Return those of `traces` that Jaeger has."""
        return traces & self.jaeger.traces("service1").keys()

    def refused(self) -> list[dict[str, Any]]:
        """Return what Jaeger's Envoy has logged of connections that it refused."""
        return [each for each in self.proxies["jaeger"].access_log() if "refused" in each]


@contextmanager
def guarded_mesh(envoy: Path, jaeger: Path, folder: Path) -> Iterator[GuardedMesh]:
    """Run the mesh in plaintext."""
    with ExitStack() as stack:
        mesh = GuardedMesh(envoy, jaeger, folder, stack)
        mesh.bring(mesh.compiled("off"))
        yield mesh
