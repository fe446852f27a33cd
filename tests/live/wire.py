"""Runs on a VM, as root: looks at what passes on the card of the mesh's network.

Standard library of Python 3.11 only. The arguments: seconds, the address of another host of the
mesh, and texts. Prints {"packets": how many were seen, "found": the texts that were in one}.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time

EVERY_PROTOCOL = 0x0003  # ETH_P_ALL of packet(7)


def watch(card: str, seconds: float, texts: list[str]) -> dict[str, object]:
    """Return what was seen on a card."""
    end = time.monotonic() + seconds
    packets, found = 0, set()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(EVERY_PROTOCOL)) as raw:
        raw.bind((card, 0))
        raw.settimeout(0.5)
        while time.monotonic() < end:
            try:
                packet = raw.recv(65536)
            except TimeoutError:
                continue
            packets += 1
            found |= {text for text in texts if text.encode() in packet}
    return {"packets": packets, "found": sorted(found)}


if __name__ == "__main__":
    way = json.loads(subprocess.check_output(["ip", "-j", "route", "get", sys.argv[2]]))
    print(json.dumps(watch(str(way[0]["dev"]), float(sys.argv[1]), sys.argv[3:])))
