"""Work on all VMs of a lab at once, and the error that names those on which it failed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from vmesh.lab.machine import Machine, MachineError
from vmesh.lab.qmp import QmpError
from vmesh.lab.ssh import Unreachable


class LabError(Exception):
    """Some VMs could not be brought to the wanted state."""


def on_each(
    machines: list[Machine],
    work: Callable[[Machine], bool],
    cancel: threading.Event | None = None,
) -> dict[str, bool]:
    """Do `work` for all machines at once. Raises LabError naming those that failed."""
    failures: list[str] = []
    results: dict[str, bool] = {}
    with ThreadPoolExecutor(max_workers=max(1, len(machines))) as pool:
        futures = {machine.spec.name: pool.submit(work, machine) for machine in machines}
        try:
            for name, future in futures.items():
                try:
                    results[name] = future.result()
                except (MachineError, QmpError, Unreachable) as error:
                    failures.append(f"{name}: {error}")
        except BaseException:
            # The user's Ctrl-C: let the threads end, the pool waits for them.
            if cancel is not None:
                cancel.set()
            raise
    if failures:
        raise LabError("\n".join(failures))
    return results
