"""An inventory of any size, the same for the same size: what bench/scale.py measures with.

    .venv/bin/python -m bench.scale_inventory HOSTS FOLDER

A fifth as many services as hosts, one edge to a hundred hosts, one host for Jaeger; the other
hosts are the services' instances, about five each. What one proxy knows does not grow with the
mesh: a service calls three to five others, and an edge routes to the twenty services of its own,
as edges of a large mesh do. (Were every edge to lead to every service, the configuration itself
would grow with the square of the hosts.)
"""

from __future__ import annotations

import argparse
import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

LEAST_HOSTS = 4  # Jaeger, an edge, and a service's two instances
LEVELS = 4  # a service calls those of the next level, so no request goes round in a circle
FIRST_PORT = 20_000
NETWORK = ipaddress.IPv4Address("10.0.0.0")


def service_count(hosts: int) -> int:
    return max(1, hosts // 5)


def edge_count(hosts: int) -> int:
    return max(1, hosts // 100)


def _calls(index: int, names: list[str]) -> dict[str, dict[str, Any]]:
    """Return whom the service at `index` of `names` calls: three to five of the next level."""
    depth = min(LEVELS, len(names))
    level = index * depth // len(names)
    below = [n for i, n in enumerate(names) if i * depth // len(names) == level + 1]
    return {
        below[(index * 3 + each) % len(below)]: {} for each in range(min(3 + index % 3, len(below)))
    }


def mesh(hosts: int) -> dict[str, Any]:
    """Return the model: what group_vars/all/mesh.yml says for that many hosts."""
    services = [f"service{number:04}" for number in range(service_count(hosts))]
    edges = [f"edge{number:03}" for number in range(edge_count(hosts))]
    return {
        "mesh_services": {
            name: {
                "group": name,
                "port": FIRST_PORT + index,
                "app": {"flask": "services/service1"},
                "calls": _calls(index, services),
            }
            for index, name in enumerate(services)
        },
        "mesh_edges": {
            name: {
                "group": name,
                "port": 8000,
                "routes": [
                    {"prefix": f"/{service}", "to": service}
                    for service in services[index :: len(edges)]
                ],
            }
            for index, name in enumerate(edges)
        },
        "mesh_tracing": {"group": "tracing", "sampling": 1},
    }


def groups(hosts: int) -> dict[str, Any]:
    """Return what hosts.yml says for that many hosts."""
    described = mesh(hosts)
    owners = ["tracing", *described["mesh_edges"]]
    services = list(described["mesh_services"])
    owners += [services[index % len(services)] for index in range(hosts - len(owners))]
    children: dict[str, dict[str, Any]] = {}
    for index, group in enumerate(owners):
        members = children.setdefault(group, {"hosts": {}})["hosts"]
        members[f"{group}-{len(members)}"] = {"ansible_host": str(NETWORK + 1 + index)}
    return {"all": {"children": children}}


def write(hosts: int, folder: Path) -> Path:
    """Write the inventory of that many hosts into `folder`; return the folder.

    Raises ValueError for fewer hosts than a mesh needs.
    """
    if hosts < LEAST_HOSTS:
        raise ValueError(f"{hosts} hosts are too few: a mesh has {LEAST_HOSTS} or more")
    files: Mapping[str, Any] = {
        "hosts.yml": groups(hosts),
        "group_vars/all/mesh.yml": mesh(hosts),
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.dump(content, Dumper=_dumper(), sort_keys=False))
    return folder


def _dumper() -> type[yaml.SafeDumper]:
    """Return the quickest dumper there is; 5,000 hosts take the plain one a while."""
    return getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Write an inventory of HOSTS hosts into FOLDER, for measuring."
    )
    parser.add_argument("hosts", type=int, help=f"how many, {LEAST_HOSTS} or more")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    try:
        print(write(options.hosts, options.folder))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
