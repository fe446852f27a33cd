"""What does `site.yml` cost where nothing is to be done? Plain Ansible and the lab's fast strategy.

Run on a lab that is up and converged: .venv/bin/python -m bench.no_change [-i INVENTORY] [-n RUNS]
The two ways take turns, so that both meet the same machine. Printed as JSON, for bench/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

from vmesh.base import paths
from vmesh.remote.playbook import mitogen_strategies

RECAP = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.M)


def run(inventory: Path, environment: dict[str, str]) -> tuple[float, dict[str, int]]:
    """Return the seconds of one run and the task executions per host; a change ends all."""
    began = time.monotonic()
    done = subprocess.run(
        [Path(sys.executable).parent / "ansible-playbook", "-i", inventory, "site.yml"],
        cwd=paths.PROJECT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - began
    executions = {}
    for host, ok, *others in RECAP.findall(done.stdout):
        if any(map(int, others)):
            sys.exit(f"{host} was not as it should be; run ./mesh up first:\n{done.stdout[-3000:]}")
        executions[host] = int(ok)
    return seconds, executions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-i", "--inventory", type=Path, default=Path("inventory/lab"))
    parser.add_argument("-n", "--runs", type=int, default=3)
    options = parser.parse_args()
    fast = {
        "ANSIBLE_STRATEGY": "mitogen_linear",
        "ANSIBLE_STRATEGY_PLUGINS": str(mitogen_strategies()),
    }
    ways = {"plain": {"ANSIBLE_STRATEGY": "linear"}, "fast": fast}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    executions: dict[str, int] = {}
    for _ in range(options.runs):
        for way, environment in ways.items():
            taken, executions = run(options.inventory, environment)
            seconds[way].append(round(taken, 1))
    median = {way: statistics.median(taken) for way, taken in seconds.items()}
    result = {
        "executions_per_host": executions,
        "seconds": seconds,
        "fast_over_plain": round(median["fast"] / median["plain"], 2),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
