"""Does Jaeger on its VM take a steady load without refusing a span?

    python bench/jaeger_load.py [-i INVENTORY] [--rate 500] [--seconds 60]

Sends spans as the Envoys' do (OTLP, four to a trace, from three services) through an ssh tunnel
to the collector's port, so the load is not held back by emulated proxies. Prints, as JSON, what
was sent, what was refused, whether a sample of the traces is stored whole, and what Jaeger used.
Exit code 1 when anything was refused or is missing.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import secrets
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.live.jaeger import Jaeger
from bench.live.remote import run_as_root
from vmesh.base import paths
from vmesh.compile.host_spec import JaegerSpec
from vmesh.remote import connect
from vmesh.remote.mesh import Mesh, read

BATCHES_A_SECOND = 4
SAMPLE = 200
SPANS_A_TRACE = 4
# service, operation, kind (2: server, 3: client), start and length in milliseconds
TRACE = (
    ("front-proxy", "checkAvailability", 2, 0, 9),
    ("service1", "checkAvailability", 2, 1, 7),
    ("service1", "checkStock", 3, 2, 4),
    ("service2", "checkStock", 2, 3, 2),
)
# Answers without a number of rejected spans: none, or an empty `partial_success`.
ACCEPTED = (b"", b"\x0a\x00")
# What an Envoy says about a request, for spans of a true size.
ATTRIBUTES = {
    "node_id": "service1@web1",
    "zone": "",
    "guid:x-request-id": "8a4be9fd-3d7a-9d4e-a0a3-59ac14cfa8bb",
    "http.url": "http://127.0.0.1:8000/trace/1",
    "http.method": "GET",
    "http.protocol": "HTTP/1.1",
    "downstream_cluster": "-",
    "user_agent": "python-requests/2.32",
    "request_size": "0",
    "peer.address": "198.18.0.11",
    "component": "proxy",
    "upstream_cluster": "service2",
    "upstream_cluster.name": "service2",
    "http.status_code": "200",
    "response_size": "96",
    "response_flags": "-",
}


def field(number: int, content: bytes) -> bytes:
    """Return a length-delimited field of a protobuf message."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    """Return a number in protobuf's variable length."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def attribute(key: str, value: str) -> bytes:
    return field(1, key.encode()) + field(2, field(1, value.encode()))


SPAN_ATTRIBUTES = b"".join(field(9, attribute(*item)) for item in ATTRIBUTES.items())


def batch(traces: int) -> tuple[list[str], bytes]:
    """Return the ids of `traces` new traces and the OTLP request that carries their spans."""
    ids, by_service = [], dict.fromkeys((service for service, *_ in TRACE), b"")
    now = time.time_ns()
    for _ in range(traces):
        trace_id, parent = secrets.token_bytes(16), b""
        ids.append(trace_id.hex())
        for service, operation, kind, start, length in TRACE:
            span_id = secrets.token_bytes(8)
            span = field(1, trace_id) + field(2, span_id)
            span += field(4, parent) if parent else b""
            span += field(5, operation.encode()) + varint(6 << 3) + varint(kind)
            for number, offset in ((7, start), (8, start + length)):
                span += varint(number << 3 | 1) + struct.pack("<Q", now + offset * 1_000_000)
            by_service[service] += field(2, span + SPAN_ATTRIBUTES)
            parent = span_id
    resources = (
        field(1, field(1, field(1, attribute("service.name", service))) + field(2, spans))
        for service, spans in by_service.items()
    )
    return ids, b"".join(resources)


@contextmanager
def tunnel(mesh: Mesh, host: str, jaeger: JaegerSpec) -> Iterator[str]:
    """Open a way to Jaeger's OTLP/HTTP port; yield its URL on this machine."""
    inside = next(port for port in jaeger.ports if port.what == "OTLP over HTTP")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        local = probe.getsockname()[1]
    command = connect.ssh_command(host, mesh.variables(host))
    forward = f"127.0.0.1:{local}:{inside.address}:{inside.port}"
    process = subprocess.Popen(
        [command[0], "-N", "-o", "ExitOnForwardFailure=yes", "-L", forward, *command[1:]]
    )
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", local), timeout=5).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        yield f"http://127.0.0.1:{local}"
    finally:
        process.terminate()
        process.wait()


def send(url: str, rate: int, seconds: int) -> tuple[list[str], int, float]:
    """Send spans at a steady rate; return the trace ids, the spans refused and the seconds."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=60)
    traces = round(rate / SPANS_A_TRACE / BATCHES_A_SECOND)
    ids: list[str] = []
    refused = 0
    began = time.monotonic()
    for number in range(seconds * BATCHES_A_SECOND):
        time.sleep(max(0.0, began + number / BATCHES_A_SECOND - time.monotonic()))
        fresh, content = batch(traces)
        connection.request(
            "POST", "/v1/traces", content, {"content-type": "application/x-protobuf"}
        )
        response = connection.getresponse()
        answer = response.read()
        if response.status != http.client.OK or answer not in ACCEPTED:
            refused += traces * SPANS_A_TRACE
        ids += fresh
    return ids, refused, time.monotonic() - began


def jaeger_host(mesh: Mesh) -> tuple[str, JaegerSpec]:
    """Return the VM with Jaeger, and what runs there. Raises LookupError when there is none."""
    for name, spec in mesh.spec.hosts.items():
        if spec.jaeger is not None:
            return name, spec.jaeger
    raise LookupError("jaeger is on no VM of the inventory")


def usage(mesh: Mesh, host: str) -> dict[str, float]:
    """Return Jaeger's memory (peak since its start) and the processor time it took."""
    answer = run_as_root(
        host,
        mesh.variables(host),
        "systemctl show --property=CPUUsageNSec --value jaeger.service;"
        " cat /sys/fs/cgroup/system.slice/jaeger.service/memory.peak"
        " /sys/fs/cgroup/system.slice/jaeger.service/memory.current",
    ).split()
    numbers = [int(word) for word in answer if word.isdigit()]
    return {
        "cpu_seconds": round(numbers[0] / 1e9, 1),
        "memory_peak_mb": round(numbers[1] / 2**20),
        "memory_mb": round(numbers[2] / 2**20),
    }


def incomplete(jaeger: Jaeger, ids: list[str]) -> dict[str, int]:
    """Return the traces of `ids` that are not stored whole, with their number of spans."""
    stored = jaeger.settled(dict.fromkeys(ids, SPANS_A_TRACE))
    return {
        trace_id: len(spans) for trace_id, spans in stored.items() if len(spans) != SPANS_A_TRACE
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-i", "--inventory", type=Path, default=paths.PROJECT / "inventory" / "lab")
    parser.add_argument("--rate", type=int, default=500, help="spans a second")
    parser.add_argument("--seconds", type=int, default=60)
    options = parser.parse_args()
    mesh = read(options.inventory)
    host, jaeger = jaeger_host(mesh)
    before = usage(mesh, host)
    with tunnel(mesh, host, jaeger) as url:
        ids, refused, seconds = send(url, options.rate, options.seconds)
    missing = incomplete(Jaeger(str(mesh.jaeger_url())), random.sample(ids, min(SAMPLE, len(ids))))
    after = usage(mesh, host)
    sent = len(ids) * SPANS_A_TRACE
    print(
        json.dumps(
            {
                "spans_sent": sent,
                "seconds": round(seconds, 1),
                "spans_a_second": round(sent / seconds),
                "spans_refused": refused,
                "traces_looked_up": min(SAMPLE, len(ids)),
                "traces_not_whole": missing,
                "jaeger_cpu_seconds": round(after["cpu_seconds"] - before["cpu_seconds"], 1),
                "jaeger_memory_peak_mb": after["memory_peak_mb"],
                "jaeger_memory_mb": after["memory_mb"],
            },
            indent=2,
        )
    )
    return 1 if refused or missing else 0


if __name__ == "__main__":
    sys.exit(main())
