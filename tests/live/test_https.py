"""The edge takes up HTTPS, and a new certificate closes no connection; its key stays secret."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from bench.live.site import Result, run_site
from tests.live.target import Target
from tests.native.certificates import Authority
from vmesh.base import paths

pytestmark = pytest.mark.side_effect
NAME = "mesh.example.com"


class Https:
    """Gives the edge certificates, and speaks HTTPS with it."""

    def __init__(self, target: Target, folder: Path) -> None:
        self.target, self.folder = target, folder
        self.authority = Authority(folder)
        self.context = ssl.create_default_context(cafile=str(self.authority.file))
        self.keys: list[str] = []
        self.logs: list[Path] = []

    def apply_new_certificate(self) -> Result:
        """Run site.yml with a certificate of which the key is in another file."""
        pair = self.authority.certificate(NAME)
        key, _, certificate = pair.read_text().partition("-----BEGIN CERTIFICATE")
        chain, own = self.folder / "chain.pem", self.folder / "key.pem"
        chain.write_text(f"-----BEGIN CERTIFICATE{certificate}")
        own.write_text(key)
        pair.unlink()
        self.keys.append(key.splitlines()[1])
        edges = dict(self.target.mesh.inventory.mesh["mesh_edges"])
        tls = {"certificate": str(chain), "key": f"{{{{ lookup('file', '{own}') }}}}"}
        name = self.target.edge.name
        edges[name] = {**edges[name], "tls": tls}
        layer = self.folder / "https.yml"
        hosts = {vm: {"mesh_edges": edges} for vm in self.target.vms}
        layer.write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
        result = run_site([self.target.inventory, layer])
        assert result.outcome.code == 0, result.summary
        self.logs.append(result.log)
        return result

    def connect(self) -> tuple[http.client.HTTPConnection, str]:
        """Return a connection with the edge, and the serial number of its certificate."""
        parts = urlsplit(self.target.edge_url)
        plain = socket.create_connection((str(parts.hostname), parts.port or 80), timeout=30)
        connection = http.client.HTTPConnection(NAME)
        tls = self.context.wrap_socket(plain, server_hostname=NAME)
        connection.sock = tls
        shown: Any = tls.getpeercert()
        return connection, str(shown["serialNumber"])

    def modified(self) -> str:
        return self.target.admin("/stats?filter=listener_manager.listener_modified").body


@pytest.fixture(scope="module")
def https(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Https]:
    made = Https(target, tmp_path_factory.mktemp("https"))
    try:
        yield made
    finally:
        result = run_site([target.inventory])
    assert result.outcome.code == 0, result.summary
    assert target.get("/trace/1").status == 200


def status(connection: http.client.HTTPConnection) -> int:
    connection.request("GET", "/trace/1")
    response = connection.getresponse()
    response.read()
    return response.status


def test_the_edge_takes_up_https_and_new_certificates(target: Target, https: Https) -> None:
    https.apply_new_certificate()
    kept, first = https.connect()
    assert status(kept) == 200
    with pytest.raises((OSError, http.client.HTTPException)):
        target.get("/trace/1")
    before = https.modified()
    https.apply_new_certificate()
    assert status(kept) == 200
    assert https.connect()[1] != first
    assert https.modified() == before


def test_the_key_is_where_the_edge_reads_it_and_nowhere_else(target: Target, https: Https) -> None:
    edge = target.edge.name
    vm = target.vm_of(edge)
    path = f"/etc/envoy/{edge}/certificates/certificate.json"
    assert vm.run("stat -c '%%U:%%G %%a' %s", path).strip() == f"root:envoy-{edge} 640"
    assert https.keys[-1] in vm.run("cat %s", path)
    folders = [paths.PROJECT / "build", paths.PROJECT / "applied"]
    written = [each for folder in folders for each in folder.rglob("*") if each.is_file()]
    for file in (*written, *https.logs):
        text = file.read_text(errors="replace")
        assert not any(key in text for key in https.keys), file
    assert https.keys[-1] not in vm.run("journalctl --boot --no-pager --output=cat")
