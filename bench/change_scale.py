"""How the time of a change grows with the services: 1, 4 and 12 instances on the same three VMs.

Every service is services/streams, on the VM one alone (1 instance) or on one and two. What is
changed: a route of the edge, the release of every service, the Envoy of every proxy.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

from bench import change_layers as layers
from bench.change_edits import NEW_ENVOY, OLD_ENVOY
from bench.change_layers import EDGE, Layer
from bench.change_report import executions
from bench.change_world import Change, World
from vmesh.base.exits import CliError

SIZES = (1, 4, 12)
FIRST_PORT = 9301
NAME = "change-scale"
# Room for the twice as many Envoys that there are while each hands over to another.
MEMORY_MB = 1792
CHANGES = ("route", "release", "Envoy")

Figure = dict[str, Any]


def mesh(instances: int, *, timeout: int = 20, version: int = 1) -> dict[str, Any]:
    """Return services and edge with so many instances of services, two of each but for one."""
    group = "one" if instances == 1 else "streams"
    names = [f"part{number}" for number in range(1, max(instances // 2, 1) + 1)]
    return {
        "mesh_services": {
            name: {
                "group": group,
                "port": FIRST_PORT + index,
                "app": {
                    "flask": "services/streams",
                    "threads": 4,
                    "environment": {"VERSION": str(version)},
                },
            }
            for index, name in enumerate(names)
        },
        "mesh_edges": {
            EDGE: {
                "group": "front",
                "port": 8000,
                "routes": [
                    {
                        "prefix": f"/{name}/",
                        "to": name,
                        "rewrite": {"prefix": "/streams/"},
                        "timeout": timeout,
                    }
                    for name in names
                ],
            }
        },
    }


def lab() -> dict[str, Any]:
    """Return what makes the VMs others than those of the example."""
    return {"lab_name": NAME, "lab_network_port": 24024, "lab_memory_mb": MEMORY_MB}


def figure(instances: int, what: str, change: Change) -> Figure:
    """Return what one change took."""
    return {
        "instances": instances,
        "change": what,
        "seconds": round(change.seconds, 1),
        "executions": executions(change.events),
        "code": change.code,
    }


def measure(base: Path, times: int) -> list[Figure]:
    """Make all changes at all sizes, so many times; return what each took."""
    found = []
    with tempfile.TemporaryDirectory(prefix="vmesh-scale-") as folder:
        versions = cycle((OLD_ENVOY, NEW_ENVOY))
        start = Layer({**lab(), **mesh(SIZES[0])}) | layers.envoy(next(versions))
        world = World(base, Path(folder), start=start, name=NAME, say=partial(print, flush=True))
        change = world.mesh("up", timeout=3600.0)
        if change.code != 0:
            raise CliError(f"The VMs are not there: ./mesh up {change.reason}")
        for size in SIZES:
            if size != SIZES[0]:
                grown = world.apply(Layer(mesh(size)))
                if grown.code != 0:
                    raise CliError(f"{size} instances: site.yml {grown.reason}")
            for turn in range(1, times + 1):
                found += _changes(world, size, turn, next(versions))
        world.mesh("down")
    return found


def _changes(world: World, size: int, turn: int, envoy: str) -> list[Figure]:
    """Make each change once; `envoy` is another version than there is."""
    steps = (
        Layer(mesh(size, timeout=20 + turn, version=turn)),
        Layer(mesh(size, timeout=20 + turn, version=turn + 1)),
        layers.envoy(envoy),
    )
    return [
        figure(size, what, world.apply(step)) for what, step in zip(CHANGES, steps, strict=True)
    ]


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Return the medians as a table in Markdown."""
    head = ["instances", *(f"{what}: seconds | task executions" for what in CHANGES)]
    lines = [f"| {' | '.join(head)} |", f"|{'---:|---:|---|---:|---|---:|---|'}"]
    for size in sorted({each["instances"] for each in found}):
        cells = [str(size)]
        for what in CHANGES:
            those = [e for e in found if (e["instances"], e["change"]) == (size, what)]
            seconds = statistics.median(each["seconds"] for each in those)
            hosts = those[-1]["executions"]
            cells += [f"{seconds:.0f}", ", ".join(f"{h} {n}" for h, n in sorted(hosts.items()))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
