"""What befalls a mesh under load: killed processes, lost VMs, killed runs, changes by hand.

Each is told as a Row.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from os import killpg

from bench import change_layers as layers
from bench.change_edits import LONG_SECONDS, in_order, new_release
from bench.change_layers import EDGE
from bench.change_measure import BACK_HELLO, Measure, measured
from bench.change_report import Row, before_ejection, in_flight
from bench.change_world import World
from bench.live.waiting import until
from vmesh.lab import Lab
from vmesh.lab.ssh import set_clock

# One hop, which both hosts can do alone.
ALONE = "/streams/wait?seconds=0"


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


# --- runs that are killed, and changes by hand


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
    file = world.ssh("one", "ls /etc/envoy/streams/routes/*.json | head -n 1").strip()
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
