"""Every change that an operator makes, each under load: see the table of bench/README.md.

Each leaves the mesh changed, and is told as a Row. What changes by a run of site.yml is an Edit;
several can be made by one run.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from os import killpg
from pathlib import Path

from bench import change_layers as layers
from bench.change_layers import BACK, EDGE, Layer, Values
from bench.change_measure import BACK_HELLO, Measure, measured
from bench.change_report import Row, before_ejection, in_flight, overlapping, windows
from bench.change_world import World
from bench.live.waiting import until
from vmesh import artifacts
from vmesh.base import paths
from vmesh.lab import Lab
from vmesh.lab.ssh import set_clock

OLD_ENVOY, NEW_ENVOY = "1.39.3", "1.40.0"
SERVICE = paths.PROJECT / "services" / "streams"
# Of long requests, of which some are under way whenever an app or an Envoy is renewed.
LONG_SECONDS = 8.0
# What a host does between letting go of an instance and having it back.
LEAVES = "Have the callers leave the instances out"
RETURNS = "Put the instances back into their callers' rotation"
# One hop, which both hosts can do alone.
ALONE = "/streams/wait?seconds=0"


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


# --- what nobody asked for


def killed(world: World, *units: str) -> Row:
    """Kill the main process of some units on the VM one, each when the one before is back."""
    names = " and ".join(unit.partition("@")[0].replace("flask", "gunicorn") for unit in units)
    with measured(world, f"kill -9: {names}") as measure:
        # What is on its way through a process is lost with it, but for what is tried again.
        measure.allowed = len(units) * in_flight(world.rates.streams, measure.slowest())
        for unit in units:
            before = world.main_process("one", unit)
            world.ssh("one", f"kill -9 {before}")
            until(f"a new process of {unit}", partial(_is_new, world, unit, before), 90)
            world.both()
    measure.facts["bound"] = "what was on its way through those processes"
    return measure.row()


def _is_new(world: World, unit: str, before: int) -> bool:
    return world.main_process("one", unit) not in (0, before)


ENVOY_UNIT, APP_UNIT = "envoy@streams.service", "flask@streams.service"


def _left_out(world: World) -> int:
    """Return how many requests may fail until the edge leaves out an instance that is silent."""
    policies = world.given["mesh_edges"][EDGE]["calls"]["streams"]
    outlier = policies["outlier_detection"]
    return before_ejection(
        world.rates.streams,
        policies["connect_timeout"],
        outlier["consecutive_local_failures"],
        outlier["interval"],
    )


@contextmanager
def _vanished(world: World, host: str) -> Iterator[None]:
    lab = Lab.from_inventory(world.base.inventory)
    machine = next(each for each in lab.machines() if each.spec.name == host)
    machine.pause()
    try:
        yield
    finally:
        machine.resume()
        set_clock(lab.access, machine.spec)


def vm_vanished(world: World) -> Row:
    """Have the VM two vanish for a while: an instance of streams, and streams-back."""
    asked = {ALONE: world.rates.streams}
    with measured(world, "a VM vanishes", paths=asked, spans=False) as measure:
        measure.allowed = _left_out(world) + in_flight(world.rates.streams, measure.slowest())
        alone = Measure(
            world, "streams-back", streams=0, paths={BACK_HELLO: world.rates.back}, spans=False
        )
        with alone.load():
            with _vanished(world, "two"):
                time.sleep(20)
            until("streams-back again", lambda: world.hello(BACK_HELLO), 120, pause=0.5)
        world.forget("two")
        world.both()
    measure.facts |= {
        "of requests to streams-back, which ran nowhere else, failed": alone.failed(BACK_HELLO),
        "bound": "what was on its way there, and what was sent until the edge left it out",
    }
    return measure.row()


def vm_rebooted(world: World) -> Row:
    """Reboot the VM one, which has an instance of streams."""
    boot = world.ssh("one", "cat /proc/sys/kernel/random/boot_id")
    with measured(world, "a VM reboots") as measure:
        measure.allowed = _left_out(world) + in_flight(world.rates.streams, measure.slowest())
        # In two seconds, so that this ssh call ends in good order.
        world.ssh("one", "systemd-run --quiet --on-active=2 systemctl reboot")

        def again() -> bool:
            world.forget("one")
            return world.ssh("one", "cat /proc/sys/kernel/random/boot_id", timeout=30) != boot

        time.sleep(5)
        until("the VM one", again, 420, pause=2)
        world.both(180)
    measure.facts["bound"] = "what was on its way there, and what was sent until it was left out"
    return measure.row()


# --- interrupted, and by hand


def interrupted(
    world: World,
    kills: int = 3,
    seed: int | None = None,
    *,
    by_hand: bool = False,
) -> Row:
    """Kill runs at random moments, with all their processes, and let one end.

    Every run brings a new release of streams and another timeout of a route. by_hand: before the
    last run also change something on the hosts, which is shown then, and repaired.
    """
    seed = random.randrange(2**32) if seed is None else seed
    chance = random.Random(seed)
    world.say(f"seed {seed}")
    moments, wanted = list[str](), ""
    name = f"a run killed at {kills} moments, then one that ends"
    with measured(world, name, long=LONG_SECONDS, spans=False) as measure:
        for _ in range(kills):
            folder, version, wanted = new_release(world)
            seconds = 30.0 + world.number()
            layer = layers.release(world.now, {"streams": folder}, {"VERSION": version})
            layer |= layers.timeout(layers.over(world.now, layer), "/streams/", seconds)
            world.layer |= layer
            world.write(world.layer)
            moments.append(_kill_one(world, chance.uniform(0.1, 0.95) * world.run_seconds))
        if by_hand:
            change_by_hand(world)
            shown(measure)
        measure.took(world.site())
        for host, told in world.both().items():
            measure.expect(told["version"] == wanted, f"{host} answers as {told['version']}")
    measure.facts |= {"seed": seed, "killed": moments}
    in_order(measure)
    measure.expect(not world.pending(), f"half done on {world.pending()}")
    return measure.row()


def _kill_one(world: World, after: float) -> str:
    """Begin a run, kill it with all its processes after so many seconds; say where it was."""
    with world.begun() as (process, events):
        try:
            process.wait(after)
            return f"ended by itself before {after:.0f} s"
        except subprocess.TimeoutExpired:
            killpg(process.pid, signal.SIGKILL)
    tasks = [event["name"] for event in events() if event["event"] == "task"]
    return f"after {after:.1f} s, in `{tasks[-1] if tasks else 'the beginning'}`"


def change_by_hand(world: World) -> None:
    """Edit a file on one, and stop Jaeger on front."""
    file = world.ssh("one", "ls /etc/envoy/streams/routes/*.yaml | head -n 1").strip()
    world.ssh("one", f"echo '# by hand' >>{file}")
    world.ssh("front", "systemctl stop jaeger.service")


def shown(measure: Measure) -> None:
    """See that `./mesh plan --refresh` shows both, and tells so by its exit code."""
    told = measure.world.mesh("plan", "--refresh", "--exit-code", "--json")
    measure.expect(told.code == 1, f"plan --refresh {told.reason}")
    drifts = [
        f"{each['host']}: {each['part']}: {each['text']}"
        for each in json.loads(told.output)["drifts"] or []
    ]
    measure.facts["drift shown"] = drifts
    for host, word in (("one", "routes/"), ("front", "aeger")):
        there = any(each.startswith(host) and word in each for each in drifts)
        measure.expect(there, f"plan --refresh does not show what was done to {host}: {drifts}")


def drifted(world: World) -> Row:
    """Edit a file and stop a unit by hand; have it shown, and repaired."""
    change_by_hand(world)
    with measured(world, "repair of what was changed by hand", spans=False) as measure:
        shown(measure)
        change = measure.took(world.site())
    changed = set(change.changed)
    measure.expect(changed == {"one", "front"}, f"it changed something on {sorted(changed)}")
    measure.problems += still_different(world)
    return measure.row()


def still_different(world: World) -> list[str]:
    """Return what is not as the inventory and the records have it; nothing if all is well."""
    told = world.mesh("plan", "--refresh", "--exit-code")
    return [f"plan --refresh {told.reason}"] if told.code != 0 else []


def _row(make: Callable[[World], Edit]) -> Callable[[World], Row]:
    return lambda world: applied(world, make)


CHANGES: Mapping[str, Callable[[World], Row]] = {
    "routes": _row(routes),
    "replica-removed": _row(replica_removed),
    "replica-added": _row(replica_added),
    "envoy-upgrade": _row(envoy_upgraded),
    "envoy-rollback": envoy_back,
    "bootstrap": _row(bootstrap),
    "bootstrap-beside": _row(bootstrap_beside),
    "release": _row(release),
    "release-rollback": release_back,
    "jaeger": _row(jaeger_settings),
    "jaeger-release": _row(jaeger_release),
    "kill-envoy": lambda world: killed(world, ENVOY_UNIT),
    "kill-app": lambda world: killed(world, APP_UNIT),
    "vanish": vm_vanished,
    "reboot": vm_rebooted,
    "drift": drifted,
}
