"""Between any two inventories: plan has something to say exactly where something differs."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, assume, given, settings

from tests.native.inventories import fitting_inventories
from vmesh.base.problems import Problems
from vmesh.cli.output import graph
from vmesh.compile.compiler import compile_mesh
from vmesh.compile.topology import topology
from vmesh.model.inventory import Inventory
from vmesh.render.renderer import Renderer
from vmesh.rollout import changes, description, record, record_secrets

RENDERER = Renderer()
EXAMPLES = settings(
    max_examples=10,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
VERSIONS = {"envoy": "1.40.0", "jaeger": "2.13.0"}


def states(of: Inventory) -> dict[str, record.HostRecord]:
    """Return the state of each host; inventories with mistakes are left aside."""
    try:
        plan = compile_mesh(of)
        hidden = record_secrets.Secrets.of(of)
        return {
            host: description.describe(
                each,
                hidden,
                RENDERER.files,
                versions=VERSIONS,
                bundles={},
                platform=None,
                variables=of.hosts[host],
            ).state
            for host, each in plan.hosts.items()
        }
    except Problems:
        assume(False)
        raise


def rerender(proxy: Any) -> dict[str, str]:
    texts = RENDERER.files(description.proxy_from(proxy))
    return {path: description.digest(text) for path, text in texts.items()}


@EXAMPLES
@given(fitting_inventories(), fitting_inventories())
def test_what_differs_is_told_and_nothing_else(old: Inventory, new: Inventory) -> None:
    before, after = states(old), states(new)
    assert changes.compare(before, json.loads(json.dumps(before)), rerender) == []
    told = changes.compare(before, after, rerender, new.hosts)
    for host in before.keys() & after.keys():
        found = [each for each in told if each.host == host]
        assert bool(found) == (before[host] != after[host])
        assert not any("differently by this version" in each.text for each in found)
        assert len({(each.part, each.text) for each in found}) == len(found), "nothing twice"


@EXAMPLES
@given(fitting_inventories())
def test_whatever_is_planned_can_be_recorded_rendered_again_and_drawn(of: Inventory) -> None:
    for state in states(of).values():
        for proxy in state["host"]["proxies"]:
            recorded = state["files"][proxy["name"]]
            assert rerender(proxy) == {
                path: sha256.removeprefix(description.MASKED) for path, sha256 in recorded.items()
            }
    drawn = graph.picture(topology({host: each["host"] for host, each in states(of).items()}))
    nodes = {node.id for node in drawn.nodes}
    assert {end for arrow in drawn.arrows for end in (arrow.source, arrow.target)} <= nodes
    assert len(nodes) == len(drawn.nodes)
