"""Listeners that accept mTLS, and clusters that speak it, laid over files of vmesh."""

from __future__ import annotations

import copy
import socket
import ssl
from pathlib import Path
from typing import Any

from plugins.module_utils.envoy_security import BOTH, MTLS, PLAINTEXT
from tests.native.certificates import Authority

NAME = "shop.test"
_FILTERS = "type.googleapis.com/envoy.extensions.filters.listener"
_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
# https://www.envoyproxy.io/docs/envoy/latest/configuration/listeners/listener_filters/tls_inspector
INSPECTOR = {
    "name": "envoy.filters.listener.tls_inspector",
    "typed_config": {"@type": f"{_FILTERS}.tls_inspector.v3.TlsInspector"},
}

Document = dict[str, Any]


class Proof:
    """One authority, and one pair for both ends."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.pair = self.authority.certificate(NAME)

    def accept(self, listener: Document, way: str) -> None:
        """Have a plaintext listener accept plaintext, mTLS or both."""
        plain = listener["filter_chains"][0]
        chains = {
            PLAINTEXT: [plain],
            BOTH: [self.mtls_chain(plain), matching(plain, transport_protocol="raw_buffer")],
            MTLS: [self.mtls_chain(plain)],
        }
        self.replace_chains(listener, chains[way])

    @staticmethod
    def replace_chains(listener: Document, chains: list[Document]) -> None:
        listener["listener_filters"] = [INSPECTOR, *listener.get("listener_filters", ())]
        listener["filter_chains"] = chains

    def speak(self, cluster: Document, way: str) -> None:
        """Have a plaintext cluster speak plaintext or mTLS."""
        if way == MTLS:
            context = {"sni": NAME, "max_session_keys": 0}
            cluster["transport_socket"] = self._socket("UpstreamTlsContext", context)

    def mtls_chain(self, plain: Document) -> Document:
        socket_ = self._socket("DownstreamTlsContext", {"require_client_certificate": True})
        return {**matching(plain, transport_protocol="tls"), "transport_socket": socket_}

    def _socket(self, kind: str, context: Document) -> Document:
        pem = {"inline_string": self.pair.read_text()}
        common = {
            "tls_certificates": [{"certificate_chain": pem, "private_key": pem}],
            "validation_context": {
                "trusted_ca": {"inline_string": self.authority.file.read_text()}
            },
            "tls_params": {
                "tls_minimum_protocol_version": "TLSv1_3",
                "tls_maximum_protocol_version": "TLSv1_3",
            },
        }
        typed = {"@type": f"{_TLS}.{kind}", **context, "common_tls_context": common}
        return {"name": "envoy.transport_sockets.tls", "typed_config": typed}

    def answers(self, port: int) -> set[str]:
        """Return the ways in which the listener at a port of 127.0.0.1 can be asked."""
        return {way for way in (PLAINTEXT, MTLS) if self._asked(way, port)}

    def _asked(self, way: str, port: int) -> bool:
        try:
            with (
                socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
                self._speaking(way, plain) as connection,
            ):
                connection.sendall(b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")
                head: bytes = connection.recv(64)
                return head.startswith(b"HTTP/1.1 200")
        except OSError:
            return False

    def _speaking(self, way: str, plain: socket.socket) -> socket.socket:
        if way == PLAINTEXT:
            return plain
        context = ssl.create_default_context(cafile=str(self.authority.file))
        context.load_cert_chain(self.pair)
        return context.wrap_socket(plain, server_hostname=NAME)


def renewing(cluster: Document) -> None:
    """Have a cluster send each request by a connection of its own."""
    (options,) = cluster["typed_extension_protocol_options"].values()
    common = options.setdefault("common_http_protocol_options", {})
    common["max_requests_per_connection"] = 1


def matching(plain: Document, **match: Any) -> Document:
    """Return a filter chain for the connections that match."""
    chain = copy.deepcopy(plain)
    if match["transport_protocol"] == "raw_buffer":
        chain["filters"][-1]["typed_config"]["stat_prefix"] = "ingress_plain"
    return {**chain, "name": match["transport_protocol"], "filter_chain_match": match}
