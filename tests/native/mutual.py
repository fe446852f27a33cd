"""A mesh of real Envoys that speak as a plan of security says, on loopback addresses."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from plugins.module_utils import mutual_tls
from plugins.module_utils.certificates import Pair, new_anchor, new_leaf
from plugins.module_utils.envoy_apply import bring
from plugins.module_utils.envoy_documents import text_of
from plugins.module_utils.envoy_files import CLUSTERS, Files
from tests.native.mtls import renewing
from tests.native.native import Answer, Client, Native, Upstream, ask, eventually, free_port
from vmesh.compile import identities, security
from vmesh.compile.compiler import compile_mesh
from vmesh.compile.host_spec import MeshSpec, ProxySpec
from vmesh.compile.security import SecurityPlan
from vmesh.model.inventory import Inventory

DOMAIN = "shop.mesh"
HOUR = 3600
SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
# service1 and service3 are on one host, so the handshake cannot tell them apart.
HOSTS = {
    "web1": ("10.0.0.1", ["service1", "service3"]),
    "web2": ("10.0.0.2", ["service2"]),
    "web4": ("10.0.0.4", ["service4"]),
    "gw1": ("10.0.0.8", ["front"]),
}
MESH: dict[str, Any] = {
    "mesh_tracing": {"collector": {"host": "10.0.0.9"}, "export": "zipkin", "sampling": 100},
    "mesh_services": {
        "service1": {
            "port": 9001,
            "app": {"external": "127.0.0.1:7001"},
            "calls": {"service2": {"retries": {"attempts": 0}}},
        },
        "service2": {"port": 9002, "app": {"external": "127.0.0.1:7002"}},
        "service3": {"port": 9003, "app": {"external": "127.0.0.1:7003"}},
        "service4": {"port": 9004, "app": {"external": "127.0.0.1:7004"}},
    },
    "mesh_edges": {"front": {"port": 8000, "routes": [{"prefix": "/", "to": "service1"}]}},
}
Place = tuple[str, int]


def mesh(mtls: str, **changes: Any) -> dict[str, Any]:
    """Return the variables of the mesh in a mode; a change is a path with __ for dots."""
    found = copy.deepcopy({**MESH, "mesh_security": {"mtls": mtls, "trust_domain": DOMAIN}})
    for path, value in changes.items():
        *outer, last = path.split("__")
        place = found
        for key in outer:
            place = place.setdefault(key, {})
        place[last] = value
    return found


# service3 and service4 call service2, which nobody has told service2.
UNDECLARED = {
    "mesh_services__service3__calls": {"service2": {"retries": {"attempts": 0}}},
    "mesh_services__service4__calls": {"service2": {"retries": {"attempts": 0}}},
}


NAMES = [name for _, names in HOSTS.values() for name in names]


def compiled(
    variables: Mapping[str, Any],
    plan: SecurityPlan | None = None,
    hosts: Mapping[str, tuple[str, list[str]]] = HOSTS,
) -> MeshSpec:
    """Return the compiled mesh."""
    groups = {name: tuple(host for host in hosts if name in hosts[host][1]) for name in NAMES}
    addresses = {host: {"ansible_host": address} for host, (address, _) in hosts.items()}
    return compile_mesh(Inventory(Path("shop"), groups, addresses, dict(variables)), plan)


def identity_text(leaf: Pair) -> str:
    """Return the text of the file that has the identity of a proxy."""
    pair = {
        "certificate_chain": {"inline_string": leaf.certificate},
        "private_key": {"inline_string": leaf.key},
    }
    secret = {"@type": SECRET, "name": "identity", "tls_certificate": pair}
    return json.dumps({"version_info": leaf.certificate[-60:-40], "resources": [secret]})


class MutualMesh:
    """The proxies that a test names, each with an app that answers with the headers it got."""

    def __init__(self, envoy: Path, root: Path, stack: ExitStack) -> None:
        self.envoy, self.root, self.stack = envoy, root, stack
        now = time.time()
        self.anchors: dict[str, Pair] = {
            host: new_anchor(f"{host}.{DOMAIN}", now) for host in HOSTS
        }
        self.app, self.sink = (stack.enter_context(Upstream(each)) for each in ("app", "sink"))
        self.sink.answers(202)
        self.proxies: dict[str, Native] = {}
        # Whether each request to service2 goes by a connection of its own.
        self.renewing = False
        self.ports: dict[tuple[str, str], int] = {}

    def pems(self) -> dict[str, str]:
        """Return the anchors by host, as the controller knows them."""
        return {host: pair.certificate for host, pair in self.anchors.items()}

    def target(
        self,
        variables: Mapping[str, Any],
        hosts: Mapping[str, tuple[str, list[str]]] = HOSTS,
    ) -> SecurityPlan:
        """Return how the mesh speaks when it is in its mode."""
        return security.target(compiled(variables, hosts=hosts).mesh, self.pems())

    def apply(
        self,
        variables: Mapping[str, Any],
        names: Iterable[str],
        plan: SecurityPlan | None = None,
        hosts: Mapping[str, tuple[str, list[str]]] = HOSTS,
    ) -> None:
        """Bring proxies to what the variables say, and the mode or the plan."""
        spec = compiled(variables, plan or self.target(variables, hosts), hosts)
        for host, each in spec.hosts.items():
            for proxy in each.proxies:
                if proxy.name in names:
                    self._bring(host, self._here(proxy))

    def _bring(self, host: str, plan: ProxySpec) -> None:
        if plan.name not in self.proxies:
            made = Native(self.envoy, self.root / plan.name, plan)
            self.stack.callback(made.service.stop)
            self.proxies[plan.name] = made
            self.show(plan.name, self.leaf(host, plan.name))
        made = self.proxies[plan.name]
        made.plan = plan
        bring(made.proxy, self._files(made))

    def _files(self, made: Native) -> Files:
        files = made.files()
        if not self.renewing:
            return files
        document = json.loads(files[CLUSTERS])
        for cluster in document["resources"]:
            if cluster["name"] == "service2":
                renewing(cluster)
        return {**files, CLUSTERS: text_of({**document, "version_info": "renewing"})}

    def _here(self, proxy: ProxySpec) -> ProxySpec:
        """Return a proxy whose listeners and upstreams are where they are here."""
        view = copy.deepcopy(proxy.view)
        for listener in view["listeners"]:
            port = self.port(proxy.name, listener["name"])
            listener.update(address="127.0.0.1", port=port)
        for cluster in view["clusters"]:
            name, port = cluster["name"], self.app.port
            if name == "tracing_collector":
                port = self.sink.port
            elif name in NAMES:
                port = self.port(name, "ingress")
            cluster["endpoints"] = [{"address": "127.0.0.1", "port": port}]
        return replace(proxy, view=view)

    def port(self, proxy: str, listener: str = "ingress") -> int:
        """Return the port of a listener."""
        return self.ports.setdefault((proxy, listener), 0) or self._new_port(proxy, listener)

    def _new_port(self, proxy: str, listener: str) -> int:
        self.ports[proxy, listener] = free_port()
        return self.ports[proxy, listener]

    def leaf(self, host: str, proxy: str, signer: str | None = None) -> Pair:
        """Return a leaf for a proxy on a host, signed by that host or another."""
        name = identities.identity(host, DOMAIN, proxy)
        return new_leaf(self.anchors[signer or host], name, int(time.time()) + HOUR)

    def folder(self, proxy: str) -> Path:
        """Return the folder of a proxy's files."""
        made = self.proxies[proxy]
        return Path(made.layout.config_dir(proxy))

    def show(self, proxy: str, leaf: Pair) -> None:
        """Have a proxy show a leaf, as the host's own program does."""
        self.move(proxy, mutual_tls.IDENTITY, identity_text(leaf))

    def move(self, proxy: str, name: str, text: str) -> None:
        """Move a file to a proxy past the module that does it on a host."""
        file = self.folder(proxy) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = self.root / "incoming"
        beside.write_text(text)
        beside.replace(file)

    def call(self, caller: str, upstream: str = "service2") -> Answer:
        """Have a service's app call an upstream through its own Envoy."""
        return ask(self.port(caller, f"egress-{upstream}"), headers={"traceparent": TRACE})

    def caller(self, name: str) -> Client:
        """Return an app that keeps its connection, so that its Envoy keeps one to service2."""
        return Client(self.port(name, "egress-service2"))

    def stat(self, proxy: str, pattern: str) -> dict[str, int]:
        """Return the counters and gauges of a proxy whose names match."""
        text = self.proxies[proxy].proxy.admin.get(f"/stats?filter={pattern}")[1]
        lines = [line.rpartition(": ") for line in text.splitlines() if line]
        return {name: int(value) for name, _, value in lines if value.isdigit()}

    def refused(self, proxy: str) -> list[dict[str, Any]]:
        """Return what a proxy has logged of connections that it refused, once there is one.

        Envoy writes an underscore for each space in a reason.
        """

        def lines() -> list[dict[str, Any]]:
            return [each for each in self.proxies[proxy].access_log() if "refused" in each]

        assert eventually(lambda: bool(lines()))
        return [{**each, "refused": each["refused"].replace("_", " ")} for each in lines()]

    def spans(self) -> list[dict[str, Any]]:
        """Return all spans that have arrived."""
        return [span for each in list(self.sink.requests) for span in json.loads(each.body)]


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def logged(mesh_: MutualMesh, proxy: str, **wanted: Any) -> bool:
    """Tell whether the access log of a proxy comes to have a line with these values."""
    return eventually(
        lambda: any(
            all(each.get(key) == value for key, value in wanted.items())
            for each in mesh_.proxies[proxy].access_log()
        )
    )
