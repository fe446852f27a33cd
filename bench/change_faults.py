"""Changes that must not get through: users keep the old state, and the run says why.

Each fault is on a host of its own, so that a run can have several that are told apart: a run takes
a while, and hosts of one batch work at the same time.
"""

from __future__ import annotations

import io
import json
import math
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import change_layers as layers
from bench.change_edits import SERVICE
from bench.change_layers import BACK, Layer, Values
from bench.change_measure import BACK_HELLO, Measure, measured
from bench.change_report import Row, windows
from bench.change_world import HELLO, Change, World
from vmesh import artifacts
from vmesh.rollout import record

TAKEN_PORT = 8009
FULL = "/var/tmp/vmesh-full"
DEAD_VERSION, LAST_WORDS = "0.0.1", "this binary dies at start"
# What looks like an Envoy until it is started.
DEAD_ENVOY = f"""#!/bin/sh
case "$*" in
*--hot-restart-version*) echo 11.104 ;;
*--version*) echo "envoy  version: 0/{DEAD_VERSION}/Clean/RELEASE/BoringSSL" ;;
*validate*) exit 0 ;;
*) echo "{LAST_WORDS}" >&2; exit 1 ;;
esac
"""
FILL = f"""
import os
file, size, step = os.open("{FULL}", os.O_CREAT | os.O_WRONLY), 0, 1 << 30
while step >= 4096:
    try:
        os.posix_fallocate(file, size, step)
        size += step
    except OSError:
        step //= 2
"""
# From when users have something new until the old is back.
TAKES_OVER, IS_BACK = "Have a new process take over", "Put back the state of before"
CONFIGURED = "Bring each proxy its configuration and see it accepted"


@dataclass(frozen=True)
class Fault:
    """What must not get through.

    host: the one that refuses it
    evidence: what that host must say
    layer: given the mesh as it is described, what is laid over it
    arguments: for site.yml
    around: what must be so meanwhile
    exposes: for one that only users' failed requests can tell of, the task that gives it to them
    paths: what may fail then
    """

    name: str
    host: str
    evidence: tuple[str, ...]
    layer: Callable[[Values], Layer] = lambda _: Layer()
    arguments: tuple[str, ...] = ()
    around: Callable[[], AbstractContextManager[None]] = nullcontext
    exposes: str = ""
    paths: tuple[str, ...] = ()


def attempted(world: World, *makers: Callable[[World], Fault]) -> Row:
    """Try some faults, all by one run of site.yml, and see that none gets through."""
    faults = [make(world) for make in makers]
    layer = Layer()
    for fault in faults:
        layer |= fault.layer(layers.over(world.now, layer))
    arguments = [argument for fault in faults for argument in fault.arguments]
    with ExitStack() as stack:
        for fault in faults:
            stack.enter_context(fault.around())
        name = "; ".join(fault.name for fault in faults)
        measure = stack.enter_context(measured(world, name, spans=False))
        change = measure.took(world.attempt(layer, *arguments), code=None)
    for fault in faults:
        refused(measure, change, fault)
    nobody_else_noticed(measure, change, faults)
    as_before(world, measure, change)
    return measure.row()


def refused(measure: Measure, change: Change, fault: Fault) -> None:
    """See that a host said why it was left as it was: a sentence, and what there is to see."""
    told = change.told.get(fault.host, "")
    cause = told.splitlines()[0] if told else ""
    measure.facts[f"{fault.host} said"] = cause
    measure.expect(cause, f"{fault.host} told of no failure: {change.reason}")
    for each in fault.evidence:
        measure.expect(each in told, f"{fault.host} did not say {each!r}, but: {told[:1500]}")


def nobody_else_noticed(measure: Measure, change: Change, faults: list[Fault]) -> None:
    """See that only what could not be found out otherwise has failed, and not for long."""
    may_fail: set[str] = set()
    for fault in faults:
        if fault.exposes:
            may_fail |= set(fault.paths)
            rate = sum(measure.rate_of(path) for path in fault.paths)
            measure.allowed += exposed(change, fault.host, fault.exposes, rate)
            measure.facts["bound"] = "what came until the old state was back"
    for path in (HELLO, BACK_HELLO):
        count = measure.failed(path)
        fine = count == 0 or path in may_fail
        measure.expect(fine, f"{count} requests for {path} failed")


def exposed(change: Change, host: str, first: str, rate: float) -> int:
    """Return how many requests came while a host had what it should not have had.

    That is: from the beginning of the task that gave it to users, to the end of the one that
    brought back what was there before.
    """
    begin, end = windows(change.events, first, IS_BACK).get(host, (0.0, 0.0))
    return math.ceil(rate * (end - begin))


def as_before(world: World, measure: Measure, change: Change) -> None:
    """See that nothing is half done, and that all serve as they did."""
    measure.expect(not (half := world.pending()), f"half done on {half} (log: {change.log})")
    versions = {told["version"] for told in world.both().values()}
    measure.expect(len(versions) == 1, f"the instances of streams answer as {sorted(versions)}")


def altered(world: World, kind: str, make: Callable[[Path, Path], Path]) -> Path:
    """Return a copy of the app that `make` altered."""
    return make(SERVICE, world.folder / f"{kind}-{world.number()}")


# --- the faults


@contextmanager
def taken(world: World, host: str, port: int) -> Iterator[None]:
    """Have something listen on a port of a VM that no Envoy can share."""
    unit = f"taken-{world.number()}"
    server = f"python3 -m http.server --bind 0.0.0.0 {port}"
    world.ssh(host, f"systemd-run --quiet --unit={unit} {server}")
    try:
        yield
    finally:
        world.ssh(host, f"systemctl stop {unit}")


def port_taken(world: World) -> Fault:
    """Have the edge's admin pages on a port that another process on its VM has.

    That validates, and a running Envoy refuses it.
    """
    return Fault(
        "refused by a running Envoy",
        "front",
        (str(TAKEN_PORT),),
        layer=partial(layers.admin_port, port=TAKEN_PORT),
        around=partial(taken, world, "front", TAKEN_PORT),
    )


@contextmanager
def full(world: World, host: str) -> Iterator[None]:
    """Leave no room on a VM's disk."""
    try:
        world.ssh(host, f"python3 -c '{FILL}'")
        yield
    finally:
        world.ssh(host, f"rm -f {FULL}")


def disk_full(world: World) -> Fault:
    """Have one get another timeout of its calls, and no room on its disk for it."""
    seconds = 11 + world.number() / 100
    return Fault(
        "a full disk",
        "one",
        ("No space left on device",),
        layer=partial(layers.call_timeout, seconds=seconds),
        around=partial(full, world, "one"),
    )


def _back_release(folder: Path) -> Callable[[Values], Layer]:
    return lambda mesh: layers.release(mesh, {BACK: folder}, {})


def app_crashes(world: World) -> Fault:
    """Give streams-back an app that crashes at start."""
    folder = altered(world, "crashing", layers.crashing)
    evidence = ("Traceback", "no_such_module_anywhere")
    return Fault("an app that crashes at start", "two", evidence, _back_release(folder))


def app_sick(world: World) -> Fault:
    """Give streams-back an app that answers its health check with 500."""
    folder = altered(world, "sick", layers.unhealthy)
    evidence = ("/healthz", "500")
    return Fault(
        "an app that answers its health check with 500", "two", evidence, _back_release(folder)
    )


def app_fails(world: World) -> Fault:
    """Give streams an app that is healthy and answers users with 500; only the canary gets it."""
    folder = altered(world, "failing", layers.failing)
    return Fault(
        "an app that is healthy and answers with 500",
        "one",
        ("errors", "two"),
        lambda mesh: layers.release(mesh, {"streams": folder}, {}),
        exposes=TAKES_OVER,
        paths=(HELLO,),
    )


def route_too_short(_: World) -> Fault:
    """Give a route of the edge a timeout that nobody can keep."""
    return Fault(
        "a route whose timeout nobody keeps",
        "front",
        ("errors",),
        partial(layers.timeout, prefix="/back/", seconds=0.001),
        exposes=CONFIGURED,
        paths=(BACK_HELLO,),
    )


def dead_archive(folder: Path) -> Path:
    """Make an archive of an Envoy that dies at start."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "envoy.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("bin/envoy")
        member.mode, member.size, member.mtime = 0o755, len(DEAD_ENVOY), int(time.time())
        archive.addfile(member, io.BytesIO(DEAD_ENVOY.encode()))
    return path


def envoy_dies(world: World) -> Fault:
    """Give one an Envoy that dies at start, and the others the one that they have."""
    dead = dead_archive(world.folder / f"dead-{world.number()}")
    there = record.read(record.folder(world.place))["one"]
    version, arch = there["versions"]["envoy"], there["platform"]["arch"]
    good = artifacts.cached("envoy", arch, envoy_version=version)
    assert good is not None, f"Envoy {version} is not in the cache"
    given = {
        name: f"{{{{ '{on_one}' if inventory_hostname == 'one' else '{else_}' }}}}"
        for name, on_one, else_ in (
            ("envoy_version", DEAD_VERSION, version),
            ("envoy_archive", dead, good.path),
        )
    }
    return Fault(
        "an Envoy that dies at start",
        "one",
        (LAST_WORDS,),
        arguments=("--extra-vars", json.dumps(given)),
    )


def together(*makers: Callable[[World], Fault]) -> Callable[[World], Row]:
    """Return a function that tries some faults, all by one run."""
    return lambda world: attempted(world, *makers)


FAULTS: Mapping[str, Callable[[World], Row]] = {
    "refused-full-crashing": together(port_taken, disk_full, app_crashes),
    "unhealthy-dying-sick": together(route_too_short, envoy_dies, app_sick),
    "failing": together(app_fails),
}
