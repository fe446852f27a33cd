"""Changes of whom proxies trust, of a mesh that speaks mTLS, each told as a Row."""

from __future__ import annotations

from bench.change_edits import LONG_SECONDS, in_order
from bench.change_layers import BACK, EDGE
from bench.change_measure import measured
from bench.change_report import Row
from bench.change_world import World

_ANCHOR = "cat /etc/vmesh/certs/*.pem"


def rolled_over(world: World) -> Row:
    """Give all hosts other anchors."""
    before = {host: world.ssh(host, _ANCHOR) for host in world.hosts}
    with measured(world, "other anchors of all hosts", long=LONG_SECONDS) as measure:
        measure.took(world.mesh("certs", "rollover"))
    in_order(measure)
    for host, anchors in before.items():
        after = world.ssh(host, _ANCHOR)
        measure.expect(after != anchors, f"{host} has the anchor of before")
        measure.expect(after.count("BEGIN") == 1, f"{host} has {after.count('BEGIN')} anchors")
    told = world.mesh("certs", "verify", EDGE, "streams")
    measure.expect(told.code == 0, f"mesh certs verify {told.reason}")
    return measure.row()


def revoked(world: World) -> Row:
    """Revoke the host of an instance of streams at once; have a run of site.yml trust it again."""
    with measured(world, "a host revoked, and trusted again") as measure:
        measure.took(world.mesh("certs", "revoke", "one", "--now"))
        there = set(world.instances())
        measure.expect(there == {"two"}, f"streams is answered for by {sorted(there)}")
        told = world.mesh("certs", "verify", "one", BACK)
        measure.expect(told.code == 1, f"one is heard by {BACK}, though it is revoked")
        back = world.apply()
        measure.expect(back.code == 0, f"trusting it again {back.reason}")
    world.both()
    return measure.row()
