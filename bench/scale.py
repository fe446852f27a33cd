"""Does the time that a mesh takes on the controller grow in proportion to its hosts?

    .venv/bin/python -m bench.scale [--hosts 100 1000 5000] [-n RUNS] [-d FOLDER] [-o FILE]
    .venv/bin/python -m bench.scale --site [--hosts 10 100 1000] [-n RUNS] [-d FOLDER] [-o FILE]

Makes inventories of that many hosts (see bench/scale_inventory.py) and needs no VM. Everything
runs on one core. The first form reads, compiles and renders each inventory in a process of its
own, as `./mesh render` does; the real Envoy's validation of every proxy is no part of it. The
second runs playbooks/plan.yml, which is what site.yml does on the controller, validation and all,
and tells the seconds of each step and task.

`total` is a whole process, start and all, that finds nothing rendered or validated before;
`again` is the same once more, with nothing changed. `growth` is how much longer one host takes
than in the row above: 1 where time grows in proportion to the hosts, less where a fixed part
spreads over more of them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import scale_inventory
from vmesh.base import paths

Row = dict[str, Any]

PLAN_HOSTS = (100, 1000, 5000)
SITE_HOSTS = (10, 100, 1000)
STEPS = ("inventory", "compile", "render", "validate", "describe")
# What the action plugin mesh_plan tells with -v.
TOLD = re.compile(r"mesh_plan: \d+ hosts: (.*)")
STEP = re.compile(r"(\w+) ([\d.]+) s")
PLAN_TASK = "Compile, render and validate the mesh on the controller"


def plan_once(inventory: Path, folder: Path) -> Row:
    """Read, compile and render `inventory` in this process; return the seconds and megabytes."""
    from vmesh.compile.compiler import compile_mesh  # noqa: PLC0415
    from vmesh.model.inventory import load  # noqa: PLC0415
    from vmesh.render.renderer import write_files  # noqa: PLC0415

    times = [time.monotonic()]
    loaded = load(inventory)
    times.append(time.monotonic())
    spec = compile_mesh(loaded)
    times.append(time.monotonic())
    forms = write_files(spec, folder)
    times.append(time.monotonic())
    load_s, compile_s, render_s = (after - before for before, after in itertools.pairwise(times))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "services": len(spec.mesh.services),
        "edges": len(spec.mesh.edges),
        "proxies": len(forms),
        "load": load_s,
        "compile": compile_s,
        "render": render_s,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss / 1024,
    }


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> tuple[str, float]:
    """Return what `command` says on standard output, and its seconds; end where it fails."""
    began = time.monotonic()
    done = subprocess.run(
        command,
        cwd=paths.PROJECT,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"failed with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout, time.monotonic() - began


def plan_row(hosts: int, scratch: Path) -> Row:
    """Return what a whole process takes from an inventory of that many hosts to its files."""
    inventory = scale_inventory.write(hosts, scratch / "inventory")
    command = [sys.executable, "-m", "bench.scale", "--once", str(inventory), f"{scratch}/build"]
    said, total = run(command)
    return {"hosts": hosts, **json.loads(said), "total": total, "again": run(command)[1]}


def site_row(hosts: int, scratch: Path) -> Row:
    """Return what playbooks/plan.yml takes for that many hosts, task by task."""
    inventory = scale_inventory.write(hosts, scratch / f"scale-{hosts}-{os.getpid()}")
    events = scratch / "events"
    ansible = str(Path(sys.executable).parent / "ansible-playbook")
    command = [ansible, "-v", "-i", str(inventory), "playbooks/plan.yml"]
    environment = {
        "VMESH_EVENTS": str(events),
        "ANSIBLE_CALLBACK_PLUGINS": str(paths.PROJECT / "vmesh/remote/callbacks"),
        "ANSIBLE_CALLBACKS_ENABLED": "vmesh_events",
        "XDG_CACHE_HOME": str(own_cache(scratch / "cache")),
    }
    try:
        said, total = run(command, environment)
        tasks = task_seconds([json.loads(line) for line in events.read_text().splitlines()])
        _, again = run(command, environment)
    finally:
        shutil.rmtree(paths.build_dir(inventory), ignore_errors=True)
    told = TOLD.search(said)
    steps = {name: float(seconds) for name, seconds in STEP.findall(told[1] if told else "")}
    return {
        "hosts": hosts,
        **{step: steps[step] for step in STEPS},
        "mesh_plan": tasks[PLAN_TASK],
        "other_tasks": sum(tasks.values()) - tasks[PLAN_TASK],
        "rest": total - sum(tasks.values()),
        "total": total,
        "again": again,
    }


def own_cache(folder: Path) -> Path:
    """Make a cache with this user's artifacts, that knows of no configuration Envoy accepted."""
    cache = folder / paths.cache_dir().name
    cache.mkdir(parents=True)
    (cache / "artifacts").symlink_to(paths.cache_dir() / "artifacts")
    return folder


def task_seconds(events: list[Mapping[str, Any]]) -> dict[str, float]:
    """Return the seconds of each task, from the events that vmesh_events wrote."""
    seconds: dict[str, float] = {}
    ends = [e for e in events if e["event"] in ("task", "play", "stats")]
    for begin, end in itertools.pairwise(ends):
        if begin["event"] == "task":
            seconds[begin["name"]] = end["at"] - begin["at"]
    return seconds


def measured(row: Callable[[int, Path], Row], hosts: int, runs: int, folder: Path | None) -> Row:
    """Return the run of median total of several, each in a folder of its own below `folder`."""
    rows = []
    for number in range(runs):
        print(f"{hosts} hosts, run {number + 1} of {runs}", file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix="vmesh-scale-", dir=folder) as scratch:
            rows.append(row(hosts, Path(scratch)))
    middle = statistics.median_low(each["total"] for each in rows)
    return next(each for each in rows if each["total"] == middle)


def with_growth(rows: list[Row]) -> list[Row]:
    """Add to each row how its time for one host compares with that of the row above."""
    grown = [{**rows[0], "growth": None}]
    for before, row in itertools.pairwise(rows):
        per_host = (row["total"] / row["hosts"]) / (before["total"] / before["hosts"])
        grown.append({**row, "growth": per_host})
    return grown


def table(rows: list[Row]) -> str:
    """Return the rows as a table in Markdown."""

    def shown(value: Any) -> str:
        return "" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)

    lines = [[name.replace("_", " ") for name in rows[0]], ["---:"] * len(rows[0])]
    lines += [[shown(value) for value in row.values()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--site", action="store_true", help="measure playbooks/plan.yml instead")
    parser.add_argument(
        "--hosts",
        type=int,
        nargs="+",
        metavar="N",
        help=f"sizes of inventories (default: {' '.join(map(str, PLAN_HOSTS))}; with --site:"
        f" {' '.join(map(str, SITE_HOSTS))})",
    )
    parser.add_argument(
        "-n", "--runs", type=int, default=1, help="of each size; the median is told (default: 1)"
    )
    parser.add_argument(
        "-d",
        "--dir",
        type=Path,
        metavar="FOLDER",
        help="where to make inventories and render (default: where temporary files go); /dev/shm"
        " leaves the disk out. With --site files are rendered to build/, as ever",
    )
    parser.add_argument("-o", "--output", type=Path, help="write the figures to this file as JSON")
    parser.add_argument("--once", type=Path, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.runs < 1 or min(options.hosts or PLAN_HOSTS) < scale_inventory.LEAST_HOSTS:
        parser.error(f"take 1 run or more, of {scale_inventory.LEAST_HOSTS} hosts or more")
    return options


def main() -> None:
    options = _options()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # so are all processes it starts
    if options.once:
        print(json.dumps(plan_once(*options.once)))
        return
    row, default = (site_row, SITE_HOSTS) if options.site else (plan_row, PLAN_HOSTS)
    rows = with_growth(
        [measured(row, hosts, options.runs, options.dir) for hosts in options.hosts or default]
    )
    print(table(rows))
    if options.output:
        options.output.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
