"""The shop as its customers and its operators reach it."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bench.live.web import Reply, request
from tests.live.spans import Node, difference, expected
from tests.live.target import Target, Vm
from vmesh.compile.host_spec import HostSpec, admin_socket
from vmesh.model.types import Edge, Mesh
from vmesh.remote import connect
from vmesh.traces.span import Span

DRILLS = "/run/shop-drill"
# So many clients at once. Were it more than the retries that a budget lets through at any time
# (min_concurrent), a failure that all of them meet at once would be seen by one.
CLIENTS = 3
# Asks an Envoy's admin interface, on its VM: the socket's path and what to ask for.
STATS = """
import http.client, socket, sys
admin = http.client.HTTPConnection("envoy")
admin.sock = socket.socket(socket.AF_UNIX)
admin.sock.connect(sys.argv[1])
admin.request("GET", sys.argv[2])
print(admin.getresponse().read().decode().strip())
"""
Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Answer:
    """What a service of the shop told: who answered, where, and what its upstreams told."""

    service: str
    instance: str
    version: str
    path: str
    upstreams: tuple[Answer, ...]

    def everybody(self) -> Iterator[Answer]:
        """Return this answer and all below it."""
        yield self
        for upstream in self.upstreams:
            yield from upstream.everybody()

    def who(self, service: str) -> str:
        """Return the one instance of `service` that took part."""
        [instance] = {each.instance for each in self.everybody() if each.service == service}
        return instance


def parse(told: Mapping[str, Any]) -> Answer:
    """Return the answer in a service's JSON."""
    return Answer(
        service=told["service"],
        instance=told["instance"],
        version=told["version"],
        path=told.get("path", ""),
        upstreams=tuple(parse(each) for each in told["upstreams"].values()),
    )


def answer(reply: Reply) -> Answer:
    """Return the answer in a reply, which must be a good one."""
    assert reply.status == 200, f"{reply.status}: {reply.body[:300]}"
    return parse(json.loads(reply.body))


class Shop:
    """The mesh of inventory/example-shop, wherever it runs."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.mesh: Mesh = target.mesh.spec.mesh
        self.jaeger = target.jaeger

    def edge(self, name: str) -> Edge:
        return self.mesh.edges[name]

    def url(self, edge: str) -> str:
        """Return where an edge is reached from here."""
        host = next(host for host, plan in self.plans() if edge in names(plan))
        found = self.edge(edge)
        assert found.port is not None
        return connect.url(self.target.mesh.variables(host), found.port, "/", found.address)

    def plans(self) -> Iterable[tuple[str, HostSpec]]:
        return self.target.mesh.spec.hosts.items()

    def vm(self, host: str) -> Vm:
        return self.target.vms[host]

    def hosts_of(self, service: str, zone: str | None = None) -> set[str]:
        """Return the hosts with an instance of `service`, all or those of a zone."""
        return {
            host
            for host, plan in self.plans()
            if service in names(plan) and zone in (None, plan.zone)
        }

    def get(
        self, path: str, headers: Headers = (), *, edge: str = "shop", method: str = "GET"
    ) -> Reply:
        """Send one request to an edge, on a connection of its own."""
        return request(self.url(edge), path, headers, method=method)

    def many(
        self, count: int, path: str, headers: Headers = (), *, edge: str = "shop"
    ) -> list[Reply]:
        """Send `count` requests, a few at a time."""
        base = self.url(edge)
        with ThreadPoolExecutor(CLIENTS) as pool:
            return list(pool.map(lambda _: request(base, path, headers), range(count)))

    def trace(self, reply: Reply, spans: int) -> list[Span]:
        """Return the stored spans of a reply's trace, which should be so many."""
        trace_id = trace_of(reply)
        return self.jaeger.settled({trace_id: spans})[trace_id]

    def wanted(self, path: str, edge: str = "shop", to: str | None = None) -> Node:
        """Return the trace that a GET of `path` must have."""
        return expected(self.mesh, self.edge(edge), path, to=to)

    def untraced(self, replies: Iterable[Reply], wanted: Node) -> list[str]:
        """Return how the traces of `replies` differ from `wanted`; [] when all are exactly so."""
        sizes = dict.fromkeys(map(trace_of, replies), len(wanted.flat()))
        stored = self.jaeger.settled(sizes)
        return [
            f"{trace_id}: {told}"
            for trace_id, spans in stored.items()
            if (told := difference(spans, wanted))
        ]

    def stats(self, host: str, proxy: str, expression: str) -> dict[str, int]:
        """Return the counters and gauges of an Envoy whose names the expression matches."""
        told = self.vm(host).run(
            "python3 -c %s %s %s", STATS, admin_socket(proxy), f"/stats?filter={expression}"
        )
        return {
            name: int(value)
            for name, _, value in (line.partition(": ") for line in told.splitlines())
        }

    @contextmanager
    def drill(self, host: str, service: str, command: str) -> Iterator[None]:
        """Let the instance of `service` on `host` fail as `command` says (services/shop)."""
        vm = self.vm(host)
        file = f"{DRILLS}/{service}"
        vm.run(
            f"mkdir -p {DRILLS} && echo {shlex.quote(command)} >{file}.new"
            f" && chmod 644 {file}.new && mv {file}.new {file}"
        )
        try:
            yield
        finally:
            vm.run(f"rm -f {file}")

    @contextmanager
    def stopped(self, host: str, *units: str) -> Iterator[None]:
        """Stop units on `host`; start them again whatever happens."""
        listed = " ".join(units)
        vm = self.vm(host)
        vm.run(f"systemctl stop {listed}")
        try:
            yield
        finally:
            vm.run(f"systemctl start {listed}")


def names(plan: HostSpec) -> set[str]:
    """Return the services and edges with an Envoy on a host."""
    return {proxy.name for proxy in plan.proxies}


def trace_of(reply: Reply) -> str:
    """Return the id of a reply's trace."""
    trace_id = reply.header("x-trace-id")
    assert trace_id, f"{reply.status} without a trace id"
    return trace_id


def instances(replies: Iterable[Reply], service: str) -> Counter[str]:
    """Return how often each instance of `service` took part."""
    return Counter(answer(reply).who(service) for reply in replies)
