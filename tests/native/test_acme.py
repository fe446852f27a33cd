"""An edge's certificate by ACME: the real Envoy, the real helper, and Pebble as the authority."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils import acme_openssl, acme_renew
from plugins.module_utils.acme_client import Client
from plugins.module_utils.acme_responder import responder
from plugins.module_utils.acme_store import Settings, Store
from plugins.module_utils.envoy_apply import bring
from plugins.module_utils.envoy_files import ACME
from tests.native.edges import edge_plan
from tests.native.native import Native, Upstream, ask, eventually, free_port, port_of, send_to
from tests.native.pebble import VALID_DAYS, Pebble, binary, pebble
from vmesh.base import paths
from vmesh.compile import acme_views
from vmesh.compile.host_spec import ProxySpec

EDGE = "front"
NAMES = ("shop.example", "www.shop.example")
ASKED = {"domains": list(NAMES), "email": "ops@example.com"}
# Runs the program of the host kit as its unit does. Takes how many seconds Envoy may take to lead
# challenges there, the folder of the proxies, and the program's arguments.
HELPER = """
import sys
from pathlib import Path
from plugins.module_utils import acme_renew, vmesh_acme
acme_renew._ENVOY_SECONDS = float(sys.argv[1])
sys.exit(vmesh_acme.main(sys.argv[3:], Path(sys.argv[2])))
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return binary(tmp_path_factory.mktemp("pebble"))


def acme_plan(port: int | None = None, others: tuple[int, ...] = ()) -> ProxySpec:
    """Return an edge whose certificate comes by ACME.

    It answers challenges at `port`, by default a free one; `others` are those of its other hosts.
    """
    plan = edge_plan({"tls": {"acme": ASKED}, "redirect_port": 8080})
    view = plan.view
    (redirect,) = (each for each in view["listeners"] if each["name"] == "redirect")
    redirect["port"] = port or redirect["port"]
    view["acme"]["listens"] = f"127.0.0.1:{redirect['port']}"
    if others:
        clusters = acme_views.clusters(EDGE, [("127.0.0.1", each) for each in others])
        view["clusters"] = [c for c in view["clusters"] if c["name"] != acme_views.HERE] + clusters
        (host,) = view["routes"]["redirect"]["virtual_hosts"]
        host["routes"] = [*acme_views.routes(len(others)), host["routes"][-1]]
    return plan


def tls_alpn_plan() -> ProxySpec:
    """Return an edge that answers challenges at its own port alone."""
    plan = edge_plan({"tls": {"acme": ASKED}})
    plan.view["acme"]["listens"] = f"127.0.0.1:{port_of(plan, 'public')}"
    return plan


class Edge(Native):
    """An edge whose helper has its files below the test's folder."""

    def __init__(self, envoy: Path, root: Path, plan: ProxySpec) -> None:
        super().__init__(envoy, root, plan)
        acme = self.plan.view["acme"]
        helper = str(root / "run" / "challenges.sock")
        for cluster in self.plan.view["clusters"]:
            for endpoint in cluster["endpoints"]:
                if endpoint.get("pipe") == acme["socket"]:
                    endpoint["pipe"] = helper
        acme["socket"] = helper
        certificate = root / "state" / EDGE / "certificate" / "certificate.json"
        acme["certificate"] = str(certificate)
        for listener in self.plan.view["listeners"]:
            if "tls" in listener:
                listener["tls"]["folder"] = str(certificate.parent)
        self.port = port_of(plan, "public")
        # Where it answers challenges.
        self.challenges = int(acme["listens"].rpartition(":")[2])

    @property
    def settings(self) -> Settings:
        return Settings.of(self.proxy.store.read()[ACME])

    @property
    def store(self) -> Store:
        return Store(self.settings)

    def ask_of(self, authority: Pebble, **changes: Any) -> None:
        """Bring the edge files that name `authority`, as a run of site.yml does."""
        ca_file = self.root / "directory-ca.pem"
        ca_file.write_text(authority.authorities)
        wanted = {"directory": authority.directory, "directory_ca_file": str(ca_file), **changes}
        self.plan.view["acme"] |= wanted
        bring(self.proxy, self.files())

    def helper(self, *arguments: str, patience: int = 30) -> subprocess.CompletedProcess[str]:
        """Run the helper's program; it waits `patience` seconds for Envoy."""
        folder = str(self.root / "etc")
        return subprocess.run(
            [sys.executable, "-c", HELPER, str(patience), folder, *arguments],
            cwd=paths.PROJECT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def served(self) -> acme_openssl.Certificate:
        """Return what Envoy shows to clients."""
        text = ssl.get_server_certificate(("127.0.0.1", self.port), timeout=5)
        return acme_openssl.read(text)

    def counter(self, name: str) -> int:
        _, body = self.proxy.admin.get(f"/stats?filter=^{name}$")
        return int(body.rpartition(": ")[2] or 0)


@contextmanager
def edge(envoy: Path, root: Path, plan: ProxySpec | None = None) -> Iterator[Edge]:
    """Run an edge, with an app behind it, but for its files: see Edge.ask_of."""
    root.mkdir()
    plan = plan or acme_plan()
    with Upstream("app") as app:
        send_to(plan, "local_app", app.port)
        send_to(plan, "shop", port_of(plan, "ingress"))
        made = Edge(envoy, root, plan)
        try:
            yield made
        finally:
            made.service.stop()


@contextmanager
def certified(envoy: Path, program: Path, root: Path) -> Iterator[tuple[Edge, Pebble]]:
    """Run an edge, and an authority that asks it for the answers of challenges."""
    with (
        edge(envoy, root / "edge") as front,
        pebble(program, root / "pebble", front.challenges) as authority,
    ):
        yield front, authority


def insecure() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@dataclass
class Load:
    """Requests without a pause, on a kept connection or each on its own."""

    port: int
    keep: bool
    good: int = 0
    failed: list[str] = field(default_factory=list)
    opened: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def __call__(self) -> None:
        connection: http.client.HTTPSConnection | None = None
        while not self.stop.is_set():
            if connection is None:
                self.opened += 1
                connection = http.client.HTTPSConnection(
                    "127.0.0.1", self.port, timeout=10, context=insecure()
                )
            try:
                connection.request("GET", "/")
                response = connection.getresponse()
                response.read()
                if response.status == 200:
                    self.good += 1
                else:
                    self.failed.append(f"status {response.status}")
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(repr(error))
                connection = None
            if connection is not None and not self.keep:
                connection.close()
                connection = None


@contextmanager
def load(port: int) -> Iterator[list[Load]]:
    clients = [Load(port, keep=True), Load(port, keep=False)]
    threads = [threading.Thread(target=each, daemon=True) for each in clients]
    for each in threads:
        each.start()
    try:
        yield clients
    finally:
        for client in clients:
            client.stop.set()
        for each in threads:
            each.join(10)


def test_a_certificate_is_ordered_served_and_renewed_under_load(
    envoy: Path, program: Path, tmp_path: Path
) -> None:
    with certified(envoy, program, tmp_path) as (front, authority):
        front.ask_of(authority)
        assert front.served().self_signed
        with load(front.port) as clients:
            assert eventually(lambda: all(each.good > 20 for each in clients))
            first = front.helper("renew", EDGE)
            assert (first.returncode, first.stdout) == (0, ""), first.stderr
            assert eventually(lambda: not front.served().self_signed)
            served = front.served()
            assert served.names == set(NAMES)
            # Two thirds of its life are over: the next run of the timer renews it.
            later = time.time() + 61 * acme_renew.DAY
            acme_renew.renew(front.settings, print, clock=lambda: later)
            assert eventually(lambda: front.served().public_key != served.public_key)
            before = [each.good for each in clients]
            assert eventually(
                lambda: all(each.good > n + 20 for each, n in zip(clients, before, strict=True))
            )
        assert [each.failed for each in clients] == [[], []]
        # The kept connection lives through both changes, as no listener is drained for them.
        assert clients[0].opened == 1
        assert front.counter("listener_manager.listener_modified") == 0
        assert authority.said("Added order") == 2
        # A run that finds nothing to do asks nobody.
        again = front.helper("renew", EDGE)
        assert (again.returncode, authority.said("Added order")) == (0, 2)
        assert "the certificate is good for 90.0 days" in again.stderr
        # A process that starts anew has the certificate.
        served = front.served()
        front.service.start()
        assert eventually(front.proxy.admin.is_ready)
        assert front.served() == served


def test_keys_stay_on_the_host_and_are_for_their_owner(
    envoy: Path, program: Path, tmp_path: Path
) -> None:
    with certified(envoy, program, tmp_path) as (front, authority):
        front.ask_of(authority)
        assert front.helper("renew", EDGE).returncode == 0
        store = front.store
        modes = {
            path.name: stat.S_IMODE(path.stat().st_mode)
            for path in store.folder.rglob("*")
            if path.is_file()
        }
        assert modes == {"account.key": 0o600, "issued.json": 0o600, "certificate.json": 0o640}
        # What comes from the controller has none, and what is told of a certificate neither.
        assert not any("PRIVATE" in text for text in front.files().values())
        shown = front.helper("show", "--json", EDGE)
        assert "PRIVATE" not in shown.stdout
        told = json.loads(shown.stdout)[EDGE]
        assert (told["issued"], told["domains"]) == (True, list(NAMES))
        assert told["ends"] - time.time() == pytest.approx(VALID_DAYS * acme_renew.DAY, abs=300)


def test_an_authority_that_cannot_be_reached_or_trusted_is_told_once_and_left_alone(
    envoy: Path, program: Path, tmp_path: Path
) -> None:
    with certified(envoy, program, tmp_path) as (front, authority):
        front.ask_of(authority, directory="https://127.0.0.1:9/dir")
        failed = front.helper("renew", EDGE)
        assert failed.returncode == 1
        assert "https://127.0.0.1:9/dir cannot be reached: [Errno 111]" in failed.stderr
        assert "The next order is in 1.0 hours" in failed.stderr
        held = front.helper("renew", EDGE)
        assert (held.returncode, "1 order(s) failed" in held.stderr) == (1, True)
        assert front.served().self_signed
        # Another directory may do better, and is asked at once; this one is of strangers.
        front.ask_of(authority, directory_ca_file=None)
        unknown = front.helper("renew", EDGE)
        assert "certificate verify failed" in unknown.stderr
        front.ask_of(authority, directory=authority.directory.replace("/dir", "/other"))
        other = front.helper("renew", EDGE)
        assert "/other answered 404" in other.stderr
        # The edge has served all the while, and is helped by the right directory at once.
        assert front.served().self_signed
        front.ask_of(authority)
        assert front.helper("renew", EDGE).returncode == 0
        assert eventually(lambda: not front.served().self_signed)


def test_a_refused_challenge_or_name_is_told_by_name_and_is_not_repeated(
    envoy: Path, program: Path, tmp_path: Path
) -> None:
    with (
        edge(envoy, tmp_path / "edge") as front,
        # The names lead elsewhere: nothing listens there.
        pebble(program, tmp_path / "pebble", 9) as authority,
    ):
        front.ask_of(authority)
        for _ in range(3):
            failed = front.helper("renew", EDGE)
            assert failed.returncode == 1
            assert "shop.example: connection " in failed.stderr
            assert "connection refused" in failed.stderr
        assert authority.said("Added order") == 1
        shown = front.helper("show", EDGE)
        assert "no certificate of an authority yet; 1 order(s) failed: " in shown.stdout
        front.ask_of(authority, domains=["shop.example", "blocked.example"])
        blocked = front.helper("renew", EDGE)
        assert "rejectedIdentifier" in blocked.stderr
        assert "blocked.example" in blocked.stderr


def test_an_account_that_is_gone_is_made_anew(envoy: Path, program: Path, tmp_path: Path) -> None:
    with certified(envoy, program, tmp_path) as (front, authority):
        front.ask_of(authority)
        assert front.helper("renew", EDGE).returncode == 0
        store, settings = front.store, front.settings
        key = store.account_key.read_text()
        client = Client(settings.directory, store.account_key, settings.directory_ca)
        client.register(None)
        client.post(client._account, {"status": "deactivated"})
        (store.folder / "issued.json").unlink()  # so that a certificate is due
        done = front.helper("renew", EDGE)
        assert done.returncode == 0, done.stderr
        assert store.account_key.read_text() != key


def test_no_order_before_envoy_leads_challenges_to_the_helper(
    envoy: Path, program: Path, tmp_path: Path
) -> None:
    with certified(envoy, program, tmp_path) as (front, authority):
        front.ask_of(authority)
        front.service.stop()
        failed = front.helper("renew", EDGE, patience=1)
        assert failed.returncode == 1
        assert "does not lead challenges here" in failed.stderr
        assert "The authority was not asked" in failed.stderr
        assert authority.said("GET /dir") == 0
        # As when a run of site.yml starts the helper just before Envoy is ready.
        threading.Timer(1, front.service.start).start()
        done = front.helper("renew", EDGE)
        assert done.returncode == 0, done.stderr


def test_of_several_hosts_the_one_that_is_asked_finds_the_one_that_knows(
    envoy: Path, program: Path, tmp_path: Path
) -> None:
    ports = free_port(), free_port()
    with (
        edge(envoy, tmp_path / "one", acme_plan(ports[0], (ports[1],))) as one,
        edge(envoy, tmp_path / "two", acme_plan(ports[1], (ports[0],))) as two,
        pebble(program, tmp_path / "pebble", two.challenges) as authority,
    ):
        for each in (one, two):
            each.ask_of(authority)
        # The authority only ever asks the second host, whose helper does not run.
        done = one.helper("renew", EDGE)
        assert done.returncode == 0, done.stderr
        # Nor does one that runs and has another order keep it from the first host's answer.
        with responder(Path(two.settings.socket)) as answers:
            answers["other"] = "text"
            (one.store.folder / "issued.json").unlink()
            done = one.helper("renew", EDGE)
            assert done.returncode == 0, done.stderr
        # A challenge that nobody has ends with a status, and does not go in circles.
        assert ask(two.challenges, f"{acme_views.CHALLENGES}nobody").status in (404, 503)


def test_without_a_port_for_http_the_edges_own_port_proves_the_names(
    envoy: Path, program: Path, tmp_path: Path
) -> None:
    with (
        edge(envoy, tmp_path / "edge", tls_alpn_plan()) as front,
        pebble(program, tmp_path / "pebble", 9, tls_port=front.challenges) as authority,
    ):
        front.ask_of(authority)
        with load(front.port) as clients:
            assert eventually(lambda: all(each.good > 20 for each in clients))
            done = front.helper("renew", EDGE)
            assert done.returncode == 0, done.stderr
            assert eventually(lambda: front.served().names == set(NAMES))
            assert eventually(lambda: not front.served().self_signed)
        assert [each.failed for each in clients] == [[], []]
        assert front.counter("listener_manager.listener_modified") == 0
        # Who asks for that protocol without an order of ours gets nothing.
        context = insecure()
        context.set_alpn_protocols(["acme-tls/1"])
        with (
            pytest.raises(OSError, match=r"EOF|reset"),
            socket.create_connection(("127.0.0.1", front.port), timeout=5) as plain,
        ):
            context.wrap_socket(plain, server_hostname=NAMES[0])
