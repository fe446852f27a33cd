"""A real Envoy serves an identity, takes a renewed one, and refuses those that it should."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils import certificates
from plugins.module_utils.certificates import Pair, new_anchor, new_leaf
from plugins.module_utils.envoy_admin import Admin
from plugins.module_utils.host_anchor import CERTIFICATE, KEY, ensure_anchor
from plugins.module_utils.identities import (
    DOCUMENT,
    SETTINGS,
    STATE,
    Settings,
    folder_of,
    renew,
)
from plugins.module_utils.identity_install import facts
from plugins.module_utils.systemd import Done
from tests.native.native import eventually, free_port

NOW = int(time.time())
WEB1, WEB2 = "web1.shop.mesh", "web2.shop.mesh"
SHOP = f"spiffe://{WEB1}/shop"
_TYPE = "type.googleapis.com/envoy"
_TLS = f"{_TYPE}.extensions.transport_sockets.tls.v3"


def bootstrap(root: Path, port: int, trusted: str) -> dict[str, Any]:
    """Return an Envoy that serves the identity of shop to whom one of the anchors has signed."""
    file = str(root / "etc/envoy/shop" / DOCUMENT)
    source = {"path": file, "watched_directory": {"path": str(Path(file).parent)}}
    tls = {
        "@type": f"{_TLS}.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3"},
            "tls_certificate_sds_secret_configs": [
                {"name": "identity", "sds_config": {"path_config_source": source}}
            ],
            "validation_context": {"trusted_ca": {"inline_string": trusted}},
        },
    }
    manager = {
        "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3"
        ".HttpConnectionManager",
        "stat_prefix": "ingress",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{_TYPE}.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    chain = {
        "transport_socket": {"name": "tls", "typed_config": tls},
        "filters": [{"name": "http", "typed_config": manager}],
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    admin = {"pipe": {"path": str(root / "run/envoy/shop/admin.sock")}}
    return {
        # Envoy reads a file of secrets only where it knows its own name.
        "node": {"id": "shop", "cluster": "shop"},
        "admin": {"address": admin},
        "static_resources": {
            "listeners": [{"name": "ingress", "address": address, "filter_chains": [chain]}]
        },
    }


class Shop:
    """The proxy shop on the host web1, whose files are below `root`; web2 may call it, too."""

    def __init__(self, root: Path) -> None:
        self.root, self.port = root, free_port()
        ensure_anchor(root, WEB1, NOW)
        (root / SETTINGS).write_text(Settings(WEB1, {"shop": SHOP}, 72).text())
        for folder in (folder_of(root, "shop"), root / STATE, root / "run/envoy/shop"):
            folder.mkdir(parents=True)
        self.web1 = Pair((root / CERTIFICATE).read_text(), (root / KEY).read_text())
        self.web2 = new_anchor(WEB2, NOW)
        self.renew()

    def renew(self) -> None:
        renew(self.root, self.root / KEY, NOW, which=None)

    def admin(self) -> Admin:
        return Admin(str(self.root / "run/envoy/shop/admin.sock"))

    def told(self) -> dict[str, Any]:
        """Return what host_info tells of the leaf."""

        def systemd(_: Any) -> Done:
            return Done(0, "Id=vmesh-certs.timer\nActiveState=active\n")

        found: dict[str, Any] = facts(self.root, NOW, systemd, Admin)
        assert found["timer"] == "active"
        return dict(found["leaves"]["shop"])

    def lets_in(self, leaf: Pair, more: str = "") -> bool:
        """Tell whether a caller with this leaf gets an answer; `more` goes along in its chain."""
        file = self.root / "caller.pem"
        file.write_text(leaf.key + leaf.certificate + more)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=self.web1.certificate)
        context.load_cert_chain(file)
        try:
            with (
                socket.create_connection(("127.0.0.1", self.port), 5) as plain,
                context.wrap_socket(plain) as secured,
            ):
                secured.sendall(b"GET / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n")
                return secured.recv(20).startswith(b"HTTP/1.1 200")
        except (ssl.SSLError, ConnectionError):
            return False


@pytest.fixture
def shop(envoy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    root = tmp_path_factory.mktemp("web1")
    made = Shop(root)
    file = root / "bootstrap.json"
    trusted = made.web1.certificate + made.web2.certificate
    file.write_text(json.dumps(bootstrap(root, made.port, trusted)))
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(
            [envoy, "-c", file, "--use-dynamic-base-id", "-l", "warning", "--concurrency", "1"],
            stdout=log,
            stderr=log,
        )
        try:
            assert eventually(made.admin().is_ready), (root / "log").read_text()
            yield made
        finally:
            process.terminate()
            process.wait()
            shutil.rmtree(root / "run", ignore_errors=True)


def test_callers_of_known_hosts_are_let_in_and_others_are_not(shop: Shop) -> None:
    end = NOW + 3600
    assert shop.lets_in(new_leaf(shop.web1, f"spiffe://{WEB1}/cart", end))
    assert shop.lets_in(new_leaf(shop.web2, f"spiffe://{WEB2}/cart", end))
    # A host signs for another one, for its own sub-domain, or is not known.
    assert not shop.lets_in(new_leaf(shop.web2, f"spiffe://{WEB1}/cart", end))
    assert not shop.lets_in(new_leaf(shop.web2, f"spiffe://a.{WEB2}/cart", end))
    stranger = new_anchor(WEB2, NOW)
    assert not shop.lets_in(new_leaf(stranger, f"spiffe://{WEB2}/cart", end))
    # An end that is past.
    assert not shop.lets_in(new_leaf(shop.web2, f"spiffe://{WEB2}/cart", NOW - 1))


def test_an_anchor_of_the_same_key_without_limits_does_not_help(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """root on web2 signs its own anchor anew, and sends it along."""
    limits = certificates._ANCHOR.partition("nameConstraints")[0]
    monkeypatch.setattr(certificates, "_ANCHOR", limits)
    monkeypatch.setattr(certificates, "_new_key", lambda: shop.web2.key)
    free = new_anchor(WEB2, NOW)
    monkeypatch.undo()
    assert free.key == shop.web2.key
    stolen = new_leaf(free, f"spiffe://{WEB1}/cart", NOW + 3600)
    assert not shop.lets_in(stolen, free.certificate)


def test_a_renewed_leaf_is_served_at_once_and_told(shop: Shop) -> None:
    before = shop.told()
    assert before["served"] is True
    shop.renew()
    assert eventually(lambda: shop.told()["served"] is True)
    assert shop.told()["serial"] != before["serial"]
    assert shop.lets_in(new_leaf(shop.web1, f"spiffe://{WEB1}/cart", NOW + 3600))


def test_a_broken_file_leaves_the_leaf_in_use_and_is_told(shop: Shop) -> None:
    file = shop.root / "etc/envoy/shop" / DOCUMENT
    beside = file.with_name("broken")
    beside.write_text(file.read_text().replace("BEGIN CERTIFICATE", "BEGIN NOTHING"))
    beside.replace(file)
    stats = "/stats?filter=sds.identity.update_(rejected|failure)"
    assert eventually(lambda: ": 1" in shop.admin().get(stats)[1])
    assert shop.lets_in(new_leaf(shop.web1, f"spiffe://{WEB1}/cart", NOW + 3600))
    assert "it cannot be read" in shop.told()["why"]
    assert renew(shop.root, shop.root / KEY, NOW) != []
    assert eventually(lambda: shop.told()["served"] is True)
