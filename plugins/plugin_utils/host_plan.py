"""What the playbooks and roles take of a compiled host."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from . import package  # noqa: F401 - makes vmesh importable

# isort: split
from vmesh.compile.host_spec import GUARD, HostSpec
from vmesh.rollout import record


def what_runs_on(host: HostSpec, folder: Path) -> dict[str, Any]:
    """Return what the playbooks and roles take of `host`, whose files are in `folder`.

    That is the spec as a mapping, with

    parts: their names
    proxies: each with its `name` and the `config_dir` of its rendered files; Jaeger's guard with
        `started_by`, the unit that gives way to it when it starts
    guarded: whether an Envoy stands before Jaeger
    acme: the names of those whose certificates come by ACME
    private_keys: proxy -> certificate -> key
    balanced: proxy -> the upstreams of which one instance can be left out

    The proxies' views stay behind: they are nearly all of a spec, rendered by now, and every
    host's variables hold what this returns.
    """
    plain = dataclasses.asdict(dataclasses.replace(host, proxies=()))
    plain["proxies"] = [
        {
            "name": proxy.name,
            "config_dir": str(folder / proxy.name),
            **({"started_by": host.jaeger.unit} if host.jaeger and proxy.kind == GUARD else {}),
        }
        for proxy in host.proxies
    ]
    plain["guarded"] = any(proxy.kind == GUARD for proxy in host.proxies)
    plain["acme"] = [proxy.name for proxy in host.proxies if "acme" in proxy.view]
    # The rendered files lie on the controller's disk, and no key does.
    plain["private_keys"] = {
        proxy.name: {
            name: each["key"]
            for name, each in proxy.view.get("certificates", {}).items()
            if "key" in each
        }
        for proxy in host.proxies
    }
    plain["balanced"] = {
        proxy.name: [
            cluster["name"]
            for cluster in proxy.view["clusters"]
            if cluster["type"] == "eds" and len(cluster["endpoints"]) > 1
        ]
        for proxy in host.proxies
    }
    plain["parts"] = record.parts_of({"host": plain})
    return plain
