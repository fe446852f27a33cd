"""What the trace of one ride must look like. No I/O here."""

from __future__ import annotations

from collections.abc import Sequence

from tests.live.spans import Node, difference
from vmesh.traces.span import Span

# HotROD asks for the way of each of the ten drivers that it finds near the customer.
DRIVERS = 10


def expected() -> Node:
    """Return the trace of one ride: Envoys' spans and the programs' own take turns.

    A program's call is the parent of its own Envoy's span for it, that one of the upstream's
    Envoy's, and that one of what the upstream itself does. The looks into the store of drivers
    are left out: the program repeats those that it makes fail on purpose.
    """
    customer = Node("customer", "/customer", "server", (Node("mysql", "SQL SELECT", "client"),))
    find = "driver.DriverService/FindNearest"
    store = Node("redis-manual", "FindDriverIDs", "client")
    driver = Node("driver", find, "server", (store,))
    calls = [
        _call("HTTP GET", "findCustomer", customer),
        _call(find, "findDrivers", driver),
        *[_call("HTTP GET", "findRoute", Node("route", "/route", "server"))] * DRIVERS,
    ]
    dispatch = Node("frontend", "/dispatch", "server", tuple(sorted(calls)))
    return Node("front-proxy", "orderRide", "server", (_behind("orderRide", dispatch),))


def _behind(operation: str, program: Node) -> Node:
    """Return the span of the Envoy in front of a program, with that of the program below it."""
    return Node(program.service, operation, "server", (program,))


def _call(call: str, operation: str, upstream: Node) -> Node:
    """Return a call of the frontend's program, by its Envoy, to the Envoy of `upstream`."""
    by_envoy = Node("frontend", operation, "client", (_behind(operation, upstream),))
    return Node("frontend", call, "client", (by_envoy,))


def is_look(span: Span) -> bool:
    """Tell whether a span is a look into the store of drivers."""
    return (span.service, span.operation) == ("redis-manual", "GetDriver")


def mistakes(spans: Sequence[Span]) -> str:
    """Return how the stored spans differ from the trace of one ride; "" when they do not."""
    looks = [span for span in spans if is_look(span)]
    if len([span for span in looks if not span.error]) != DRIVERS:
        return f"{len(looks)} looks into the store of drivers, of which not {DRIVERS} found one"
    inside = {span.span_id for span in spans if (span.service, span.kind) == ("driver", "server")}
    for look in looks:
        if look.parent_id not in inside:
            return f"a look into the store of drivers hangs on {look.parent_id}, not on the driver"
    return difference([span for span in spans if not is_look(span)], expected())
