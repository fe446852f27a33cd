"""Pebble, the authority for tests of ACME, on loopback, and the DNS that it asks."""

from __future__ import annotations

import json
import os
import socketserver
import struct
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.native.certificates import Authority
from tests.native.native import eventually, free_port
from vmesh import artifacts

VALID_DAYS = 90
# Of 100 good nonces, so many are refused: clients must ask again.
_REFUSED_NONCES = 15
_A, _HEADER = 1, struct.Struct("!HHHHHH")


class _Steps:
    """Progress that keeps the log where the test has its files."""

    def __init__(self, log_path: Path) -> None:
        self.log_path = log_path

    def step(self, text: str) -> None:
        """Say nothing."""


def binary(folder: Path) -> Path:
    """Return the program in `folder`, built first where the cache lacks it."""
    arch = artifacts.controller_arch()
    built = artifacts.build_program("pebble", arch, _Steps(folder / "pebble-build.log"))
    with tarfile.open(built.path) as archive:
        archive.extract("bin/pebble", folder, filter="data")
    return folder / "bin" / "pebble"


class _Dns(socketserver.StreamRequestHandler):
    """Says of each name that it has the address 127.0.0.1, and nothing else (RFC 1035).

    Pebble asks by TCP alone, where each message has its length before it.
    """

    def handle(self) -> None:
        while length := self.rfile.read(2):
            asked = self.rfile.read(int.from_bytes(length, "big"))
            number = _HEADER.unpack(asked[: _HEADER.size])[0]
            question = asked[_HEADER.size : asked.index(b"\0", _HEADER.size) + 5]
            has = int.from_bytes(question[-4:-2], "big") == _A
            answer = struct.pack("!HHHIH", 0xC00C, _A, 1, 0, 4) + bytes([127, 0, 0, 1])
            head = _HEADER.pack(number, 0x8180, 1, int(has), 0, 0)
            message = head + question + (answer if has else b"")
            self.wfile.write(len(message).to_bytes(2, "big") + message)


class _DnsServer(socketserver.ThreadingTCPServer):
    daemon_threads = True


@dataclass
class Pebble:
    """The running authority. `directory` is its URL, `authorities` who signed its own TLS."""

    directory: str
    authorities: str
    log: Path

    def said(self, text: str) -> int:
        """Return in how many lines of its log the text is."""
        return sum(text in line for line in self.log.read_text().splitlines())


@contextmanager
def pebble(
    program: Path,
    folder: Path,
    http_port: int,
    tls_port: int = 9,
) -> Iterator[Pebble]:
    """Run Pebble; it looks for challenges http-01 at `http_port` of 127.0.0.1, for those of
    tls-alpn-01 at `tls_port`.
    """
    folder.mkdir()
    authority = Authority(folder)
    own, port = authority.certificate("127.0.0.1"), free_port()
    config = {
        "listenAddress": f"127.0.0.1:{port}",
        "managementListenAddress": f"127.0.0.1:{free_port()}",
        "certificate": str(own),
        "privateKey": str(own),
        "httpPort": http_port,
        "tlsPort": tls_port,
        "retryAfter": {"authz": 1, "order": 1},
        "domainBlocklist": ["blocked.example"],
        "keyAlgorithm": "ecdsa",
        "profiles": {
            "default": {"description": "the only one", "validityPeriod": VALID_DAYS * 86400}
        },
    }
    (folder / "pebble.json").write_text(json.dumps({"pebble": config}))
    log = folder / "pebble.log"
    with _DnsServer(("127.0.0.1", 0), _Dns) as dns, log.open("wb") as output:
        threading.Thread(target=dns.serve_forever, args=(0.05,), daemon=True).start()
        options = ["-config", str(folder / "pebble.json"), "-strict"]
        process = subprocess.Popen(
            [program, *options, "-dnsserver", f"127.0.0.1:{dns.server_address[1]}"],
            env={
                **os.environ,
                "PEBBLE_VA_NOSLEEP": "1",
                "PEBBLE_VA_ALWAYS_VALID": "0",
                "PEBBLE_AUTHZREUSE": "0",
                "PEBBLE_WFE_NONCEREJECT": str(_REFUSED_NONCES),
            },
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            assert eventually(lambda: "Listening on" in log.read_text(), 20), log.read_text()
            yield Pebble(f"https://127.0.0.1:{port}/dir", authority.file.read_text(), log)
        finally:
            process.kill()
            process.wait()
            dns.shutdown()
