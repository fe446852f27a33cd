"""Runs on a VM, as root, and tells which TCP ports of other hosts answer a stranger.

Standard library of Python 3.11 only. The arguments: an address of the mesh's network that no host
has, and the addresses to scan. Prints {address: {port: "open" or "refused"}}; a port that says
nothing is left out.

It sends the first packet of a connection (SYN) by itself: 65,535 sockets would take an emulated VM
minutes.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

PORTS = range(1, 65536)
SOURCE_PORT = 61000
# As many packets at once as the buffers on the way hold.
BURST, PAUSE_SECONDS = 128, 0.01
# A packet that got lost would look like a port that says nothing.
ROUNDS = 2
WAIT_SECONDS = 5
SYN, RST, ACK = 0x02, 0x04, 0x10
CONNTRACK = Path("/proc/sys/net/netfilter/nf_conntrack_max")


def syn(source: str, target: str, port: int) -> bytes:
    """Return the TCP header (RFC 9293, 3.1) that asks for a connection."""
    offset = 5 << 4
    header = struct.pack("!HHIIBBHHH", SOURCE_PORT, port, 1, 0, offset, SYN, 1024, 0, 0)
    pseudo = socket.inet_aton(source) + socket.inet_aton(target) + struct.pack("!HH", 6, 20)
    return header[:16] + struct.pack("!H", checksum(pseudo + header)) + header[18:]


def checksum(data: bytes) -> int:
    """Return the checksum of RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def answer(packet: bytes) -> tuple[str, int, str] | None:
    """Return who answered at which port, and how; None for other packets."""
    tcp = packet[(packet[0] & 0x0F) * 4 :]
    port, to = struct.unpack("!HH", tcp[:4])
    if to != SOURCE_PORT:
        return None
    flags = tcp[13]
    if flags & RST:
        return socket.inet_ntoa(packet[12:16]), port, "refused"
    return (
        (socket.inet_ntoa(packet[12:16]), port, "open")
        if flags & (SYN | ACK) == SYN | ACK
        else None
    )


@contextlib.contextmanager
def address_of_a_stranger(stranger: str, target: str) -> Iterator[None]:
    """Have this VM own `stranger` beside its own address."""
    way = json.loads(subprocess.check_output(["ip", "-j", "route", "get", target]))
    own = ["dev", str(way[0]["dev"])]
    subprocess.run(["ip", "address", "replace", f"{stranger}/24", *own], check=True)
    try:
        yield
    finally:
        subprocess.run(["ip", "address", "del", f"{stranger}/24", *own], check=True)


def scan(stranger: str, targets: list[str]) -> dict[str, dict[int, str]]:
    """Return what answered, by address."""
    found: dict[str, dict[int, str]] = {target: {} for target in targets}
    # This VM's own firewall follows each connection; its table would be full.
    if CONNTRACK.exists():
        CONNTRACK.write_text("1000000")
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
        raw.bind((stranger, 0))
        raw.settimeout(WAIT_SECONDS)
        sender = threading.Thread(target=_send, args=(raw, stranger, targets))
        sender.start()
        while True:
            try:
                told = answer(raw.recv(200))
            except TimeoutError:
                if not sender.is_alive():
                    return found
                continue
            if told is not None and told[0] in found:
                found[told[0]][told[1]] = told[2]


def _send(raw: socket.socket, stranger: str, targets: list[str]) -> None:
    for _ in range(ROUNDS):
        for target in targets:
            for port in PORTS:
                raw.sendto(syn(stranger, target, port), (target, 0))
                if port % BURST == 0:
                    time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    with address_of_a_stranger(sys.argv[1], sys.argv[2]):
        print(json.dumps(scan(sys.argv[1], sys.argv[2:])))
