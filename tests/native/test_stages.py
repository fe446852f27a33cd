"""The stages between plaintext and mTLS, with two real Envoys under load: no request fails.

The files are vmesh's own, with chains and TLS contexts laid over them.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from plugins.module_utils.envoy_apply import bring
from plugins.module_utils.envoy_documents import text_of
from plugins.module_utils.envoy_files import CLUSTERS, LISTENERS, Files
from plugins.module_utils.envoy_security import security_of
from tests.native.edges import EDGE, SERVICE, service_plan
from tests.native.inventories import beginning
from tests.native.mtls import Proof, renewing
from tests.native.native import (
    Client,
    Native,
    Upstream,
    eventually,
    native,
    on_loopback,
    port_of,
    send_to,
)
from vmesh.compile.compiler import compile_mesh
from vmesh.compile.host_spec import ProxySpec
from vmesh.model.access_types import OFF, PERMISSIVE, STRICT
from vmesh.rollout.stages import Seen, Wanted, Wire, stages

CALLER, CALLEE = "gw1", "web1"  # their hosts


def edge_alone() -> ProxySpec:
    """Return base.yml's edge, at free ports."""
    hosts = compile_mesh(beginning("base")).hosts.values()
    return on_loopback(next(each for host in hosts for each in host.proxies if each.name == EDGE))


@dataclass
class Mesh:
    """An edge that calls a service.

    renewing: whether each request goes by a connection of its own between the two
    """

    edge: Native
    service: Native
    proof: Proof
    renewing: bool = True

    def change(self, mode: str) -> None:
        """Take the mesh to a mode as a run does."""
        wanted = Wanted(mode, {EDGE: [CALLER], SERVICE: [CALLEE]}, {EDGE: [SERVICE]}, [SERVICE], {})
        plan = stages(wanted, self.seen(), {CALLER, CALLEE})
        assert plan.stays == plan.refused == ()
        # Both orders: within a stage either may be first.
        for wire, first in ((plan.rollout, "edge"), (plan.speak, "service"), (plan.narrow, "edge")):
            names = ("edge", "service") if first == "edge" else ("service", "edge")
            for name in names:
                made: Native = getattr(self, name)
                bring(made.proxy, self.files(made, wire))

    def seen(self) -> dict[str, dict[str, Seen]]:
        edge, service = (security_of(each.proxy.store.read()) for each in (self.edge, self.service))
        # Other clusters of the edge lead nowhere here.
        told = {**edge, "speaks": {SERVICE: edge["speaks"][SERVICE]}, "accepts": None}
        return {
            CALLER: {EDGE: Seen.told(told)},
            CALLEE: {SERVICE: Seen.told({**service, "speaks": {}})},
        }

    def files(self, made: Native, wire: Wire) -> Files:
        """Return the files with which a proxy accepts and speaks what `wire` says."""
        files = made.files()
        listeners, clusters = json.loads(files[LISTENERS]), json.loads(files[CLUSTERS])
        for listener in listeners["resources"]:
            if listener["name"] == "ingress":
                self.proof.accept(listener, wire.accept[SERVICE])
        for cluster in clusters["resources"]:
            if cluster["name"] == SERVICE:
                self.proof.speak(cluster, wire.speak[SERVICE])
                if self.renewing:
                    renewing(cluster)
        suffix = f" {wire.accept[SERVICE]} {wire.speak[SERVICE]} {self.renewing}"
        for document in (listeners, clusters):
            document["version_info"] += suffix
        return {**files, LISTENERS: text_of(listeners), CLUSTERS: text_of(clusters)}


@pytest.fixture(scope="module")
def mesh(envoy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    folder = tmp_path_factory.mktemp("stages")
    callee, caller = service_plan(SERVICE), edge_alone()
    send_to(caller, SERVICE, port_of(callee, "ingress"))
    with (
        Upstream("app") as app,
        native(envoy, folder / "edge", caller) as edge,
        native(envoy, folder / "service", callee) as service,
    ):
        send_to(callee, "local_app", app.port)
        for made in (service, edge):
            bring(made.proxy, made.files())
        yield Mesh(edge, service, Proof(folder))


@dataclass
class Load:
    """Requests that were sent, and what became of those that failed."""

    sent: int = 0
    failed: list[str] = field(default_factory=list)


@contextmanager
def load(port: int) -> Iterator[Load]:
    """Send requests all the while, by connections that are kept and by new ones."""
    found, stop = Load(), threading.Event()

    def send(kept: bool) -> None:
        client = Client(port)
        while not stop.is_set():
            try:
                status = client.ask().status
                if status != 200:
                    found.failed.append(str(status))
            except (OSError, http.client.HTTPException) as error:
                found.failed.append(repr(error))
                client = Client(port)
            found.sent += 1
            if not kept:
                client.close()
                client = Client(port)

    threads = [threading.Thread(target=send, args=(kept,)) for kept in (True, True, False)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("renewing", [True, False])
def test_no_request_fails_while_the_mesh_changes_its_mode(mesh: Mesh, renewing: bool) -> None:
    mesh.renewing = renewing
    port = port_of(mesh.edge.plan, "public")
    accepted: list[str | None] = []
    with load(port) as found:
        for mode in (STRICT, OFF, PERMISSIVE, STRICT, PERMISSIVE, OFF):
            mesh.change(mode)
            accepted.append(mesh.seen()[CALLEE][SERVICE].accepts)
    assert accepted == ["mtls", "plaintext", "both", "mtls", "both", "plaintext"]
    assert found.failed == []
    assert found.sent > 100
    # Nor has a second try hidden a failure.
    _, retries = mesh.edge.proxy.admin.get(f"/stats?filter=^cluster.{SERVICE}.upstream_rq_retry$")
    assert retries.split() == [f"cluster.{SERVICE}.upstream_rq_retry:", "0"]


def test_all_at_once_fails(mesh: Mesh) -> None:
    """What the stages are for: the callee is strict before its caller speaks mTLS."""
    mesh.renewing = True
    mesh.change(OFF)
    with load(port_of(mesh.edge.plan, "public")) as found:
        wire = Wire({SERVICE: "mtls"}, {SERVICE: "mtls"})
        bring(mesh.service.proxy, mesh.files(mesh.service, wire))
        sent = found.sent
        assert eventually(lambda: found.sent > sent + 100)
        bring(mesh.edge.proxy, mesh.files(mesh.edge, wire))
    assert found.failed
    mesh.change(OFF)
