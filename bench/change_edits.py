"""Changes of the inventory, each made under load by a run of site.yml, or taken back by a rollback.

Each leaves the mesh changed, and is told as a Row. What changes by a run of site.yml is an Edit;
several can be made by one run.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bench import change_layers as layers
from bench.change_layers import BACK, EDGE, Layer, Values
from bench.change_measure import BACK_HELLO, Measure, measured
from bench.change_report import Row, overlapping, windows
from bench.change_world import HELLO, World
from vmesh import artifacts
from vmesh.base import paths

OLD_ENVOY, NEW_ENVOY = "1.39.3", "1.40.0"
SERVICE = paths.PROJECT / "services" / "streams"
# Of long requests, of which some are under way whenever an app or an Envoy is renewed.
LONG_SECONDS = 8.0
# What a host does between letting go of an instance and having it back.
LEAVES = "Have the callers leave the instances out"
RETURNS = "Put the instances back into their callers' rotation"
ENVOY_UNIT, APP_UNIT = "envoy@streams.service", "flask@streams.service"


@dataclass(frozen=True)
class Edit:
    """A change of the inventory.

    layer: given the mesh as it is described, what is laid over it
    check: sees afterwards that it is as it should be
    served: a path that is answered as soon as users have the change
    long: whether long requests must outlive it
    """

    name: str
    layer: Callable[[Values], Layer]
    check: Callable[[Measure], None]
    served: str = ""
    long: bool = False


def applied(world: World, *makers: Callable[[World], Edit]) -> Row:
    """Make some edits, all by one run of site.yml."""
    edits = [make(world) for make in makers]
    layer = Layer()
    for edit in edits:
        layer |= edit.layer(layers.over(world.now, layer))
    long = LONG_SECONDS if any(edit.long for edit in edits) else 0.0
    with measured(world, ", ".join(edit.name for edit in edits), long=long) as measure:
        for edit in edits:
            if edit.served:
                measure.served(edit.served)
        measure.took(world.apply(layer))
    for edit in edits:
        edit.check(measure)
    return measure.row()


def untouched(measure: Measure) -> None:
    """See that no stream was ended by the change."""
    ended = [each for each in measure.ended() if each.verdict != "survived"]
    measure.expect(not ended, f"streams were touched: {[each.summary() for each in ended]}")


# From there comes, on a VM, what this machine sends to a port that QEMU publishes.
PUBLISHED = "10.0.2.2/32"


def in_order(measure: Measure) -> None:
    """See that a stream that was ended was ended in order."""
    broken = [each.summary() for each in measure.ended() if each.verdict == "broken"]
    measure.expect(not broken, f"streams were broken: {broken}")


def routes(world: World) -> Edit:
    """Add a route, change a timeout and weights."""
    prefix = f"/new-{world.number()}/"
    layer = partial(layers.routes, prefix=prefix)
    return Edit("a route, a timeout and weights", layer, untouched, served=f"{prefix}hello")


def replica_removed(_: World) -> Edit:
    """Take one of the two instances of streams away."""

    def check(measure: Measure) -> None:
        in_order(measure)
        there = set(measure.world.instances())
        measure.expect(there == {"one"}, f"streams is answered for by {sorted(there)}")

    layer = partial(layers.only_on, service="streams", group="one")
    return Edit("a replica removed", layer, check)


def replica_added(_: World) -> Edit:
    """Give streams its second instance again."""

    def check(measure: Measure) -> None:
        in_order(measure)
        measure.world.both()

    layer = partial(layers.only_on, service="streams", group=None)
    return Edit("a replica added", layer, check)


def envoy_upgraded(_: World) -> Edit:
    """Bring all Envoys to a newer version."""
    return Edit(
        f"Envoy {OLD_ENVOY} to {NEW_ENVOY}",
        lambda _: layers.envoy(NEW_ENVOY),
        partial(envoy_is, version=NEW_ENVOY),
        long=True,
    )


def bootstrap(world: World) -> Edit:
    """Change what stands in the bootstrap of every Envoy: where it is."""
    name = f"zone-{world.number()}"
    return Edit("bootstrap", lambda _: layers.zone(name, world.hosts), in_order, long=True)


def bootstrap_beside(world: World) -> Edit:
    """Change the bootstrap where no Envoy can restart hot, as none can find the one before it."""
    units = {"front": f"envoy@{EDGE}.service", "one": ENVOY_UNIT, "two": ENVOY_UNIT}
    before = {host: world.main_process(host, unit) for host, unit in units.items()}
    for host in units:
        world.ssh(host, "rm -f /run/envoy/*/base-id")
    edit = bootstrap(world)

    def check(measure: Measure) -> None:
        in_order(measure)
        for host, unit in units.items():
            main = world.main_process(host, unit)
            command = world.ssh(host, f"tr '\\0' ' ' </proc/{main}/cmdline")
            first = main != before[host] and "--use-dynamic-base-id" in command
            measure.expect(first, f"on {host} no process has begun beside {before[host]}")

    return replace(edit, name="bootstrap, without hot restarts", check=check)


def jaeger_settings(world: World) -> Edit:
    """Change how long Jaeger keeps its traces, for which it starts again."""
    hours = 72 + world.number()
    return Edit("Jaeger's settings", lambda _: layers.retention(hours), in_order)


def jaeger_release(world: World) -> Edit:
    """Bring another release of Jaeger; the one that is built if it runs another one."""
    link = "readlink /opt/jaeger/current"
    before = world.ssh("front", link).strip()
    built = artifacts.cached("jaeger")
    assert built is not None, "site.yml has installed what is in the cache"
    layer = layers.built_jaeger()
    if before == built.version:
        layer = layers.named_jaeger(built, world.folder)
        world.write(world.layer | layer)
        assert world.mesh("fetch").code == 0, "site.yml fetches nothing"

    def check(measure: Measure) -> None:
        in_order(measure)
        main = world.main_process("front", "jaeger.service")
        binary = world.ssh("front", f"readlink /proc/{main}/exe").strip()
        after = world.ssh("front", link).strip()
        measure.expect(after in Path(binary).parts, f"{binary} runs, current is {after}")
        measure.expect(after != before, f"Jaeger is {before} as before")

    return Edit("another release of Jaeger", lambda _: layer, check)


def envoy_is(measure: Measure, version: str) -> None:
    """See that the edge runs a version of Envoy, and that no stream was broken."""
    in_order(measure)
    main = measure.world.main_process("front", f"envoy@{EDGE}.service")
    binary = measure.world.ssh("front", f"readlink /proc/{main}/exe").strip()
    measure.expect(version in Path(binary).parts, f"the edge runs {binary}")


def envoy_back(world: World) -> Row:
    """Take the last change, that of Envoy's version, back."""
    name = f"Envoy {NEW_ENVOY} to {OLD_ENVOY}, by rollback"
    with measured(world, name, long=LONG_SECONDS) as measure:
        measure.took(world.mesh("rollback"))
    world.layer |= layers.envoy(OLD_ENVOY)
    world.write(world.layer)
    envoy_is(measure, OLD_ENVOY)
    return measure.row()


def strict(_: World) -> Edit:
    """Have the mesh, which speaks plaintext, speak mTLS alone."""

    def check(measure: Measure) -> None:
        in_order(measure)
        measure.expect(not in_plaintext(measure.world), "a service answers in plaintext")
        told = measure.world.mesh("certs")
        measure.expect(told.code == 0, f"mesh certs {told.reason}")

    return Edit("plaintext to strict mTLS", lambda _: layers.mtls("strict"), check)


def walled(_: World) -> Edit:
    """Have each host let in its callers alone."""

    def check(measure: Measure) -> None:
        in_order(measure)
        for host in measure.world.hosts:
            table = measure.world.ssh(host, "/usr/sbin/nft list table inet vmesh")
            measure.expect("policy drop" in table, f"the firewall of {host} drops nothing")

    return Edit("a firewall on the hosts", lambda _: layers.firewall(PUBLISHED), check)


def unsecured(_: World) -> Edit:
    """Have the mesh, which speaks mTLS, speak plaintext alone."""

    def check(measure: Measure) -> None:
        in_order(measure)
        measure.expect(in_plaintext(measure.world), "no service answers in plaintext")
        find = "find /etc/envoy /etc/vmesh -type f -path '*identity*' -o -path '*/trust/*'"
        left = measure.world.ssh("one", find).strip()
        measure.expect(not left, f"what proves identities is still there: {left}")

    return Edit("strict mTLS to plaintext", lambda _: layers.mtls("off"), check)


def in_plaintext(world: World) -> bool:
    """Tell whether an instance of streams answers who asks it past the edge, in plaintext."""
    address = world.base.spec.hosts["one"].address
    port = world.base.spec.mesh.services["streams"].port
    ask = f"urlopen('http://{address}:{port}{HELLO}', timeout=10).status"
    python = f"from urllib.request import urlopen; print({ask})"
    return "200" in world.ssh("front", f'python3 -c "{python}" 2>&1 || true')


def new_release(world: World) -> tuple[Path, str, str]:
    """Make a release of services/streams; return it, its VERSION and what it calls itself."""
    number = world.number()
    folder = layers.newer(SERVICE, world.folder / f"release-{number}", f"code{number}")
    return folder, str(number), f"{number}+code{number}"


def release(world: World) -> Edit:
    """Bring new code and new settings to both services, one of which has one instance."""
    before = world.both()
    world.before_release = world.now["mesh_services"]["streams"], before["one"]["version"]
    folder, version, wanted = new_release(world)

    def check(measure: Measure) -> None:
        in_order(measure)
        for host, told in world.both().items():
            measure.expect(told["version"] == wanted, f"{host} answers as {told['version']}")
            measure.expect(told["pid"] != before[host]["pid"], f"{host} has the old process")
        told = world.hello(BACK_HELLO)
        measure.expect(told["version"] == wanted, f"streams-back answers as {told['version']}")
        one_at_a_time(measure)

    both = {"streams": folder, BACK: folder}
    return Edit(
        "a release of both services",
        lambda mesh: layers.release(mesh, both, {"VERSION": version}),
        check,
        long=True,
    )


def one_at_a_time(measure: Measure) -> None:
    """See that the two instances of streams left their callers' rotation one after the other."""
    away = windows(measure.change.events, LEAVES, RETURNS) if measure.change else {}
    measure.expect(len(away) == 2, f"seen to leave and to return: {sorted(away)}, not one and two")
    measure.expect(not overlapping(away), f"away at once: {overlapping(away)}")
    measure.facts["seconds out of rotation"] = {
        host: round(end - start, 1) for host, (start, end) in sorted(away.items())
    }


def release_back(world: World) -> Row:
    """Take streams, and it alone, back to what it was before its last release."""
    assert world.before_release, "streams has had no release that could be taken back"
    number, (was, version) = before_run(world), world.before_release
    with measured(world, "streams rolled back to a run before", long=LONG_SECONDS) as measure:
        measure.took(world.mesh("rollback", "streams", "--to", str(number)))
    world.layer |= Layer({"mesh_services": {**world.now["mesh_services"], "streams": was}})
    world.write(world.layer)
    in_order(measure)
    for host, told in world.both().items():
        measure.expect(told["version"] == version, f"{host} answers as {told['version']}")
    told = world.hello(BACK_HELLO)
    measure.expect(told["version"] != version, "streams-back was rolled back too")
    measure.facts["to run"] = number
    return measure.row()


def before_run(world: World) -> int:
    """Return the number of the run before the last, as the history has it."""
    lines = json.loads(world.mesh("history", "--json").output)
    runs = sorted({int(line["run"]) for line in lines})
    assert len(runs) > 1, f"the history has {len(runs)} runs"
    return runs[-2]
