"""A client that runs in a thread of its own while the caller changes the mesh."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Self

LONGEST_SECONDS = 2 * 3600.0


def bounded(seconds: float) -> float:
    """Return a duration. Raises ValueError when it is not above 0 and at most two hours."""
    if not 0 < seconds <= LONGEST_SECONDS:
        raise ValueError(f"{seconds} seconds: must be above 0 and at most {LONGEST_SECONDS:g}")
    return float(seconds)


class Background(ABC):
    """Runs `_main` on an event loop in a thread.

    Left normally, the `with` statement asks it to end in good order and waits for that; left by an
    exception it ends at once. An exception in `_main` is a mistake in the client, not in what it
    measures, and is raised where the statement is left.
    """

    def __init__(self, name: str) -> None:
        """Take the thread's name."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._begun, self._ended = threading.Event(), threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._error: BaseException | None = None

    @abstractmethod
    async def _main(self) -> None:
        """Do the work, bounded in time by itself; sets `_begun` when the caller may go on."""

    @abstractmethod
    def _ask_to_end(self) -> None:
        """Make `_main` end in good order; called on its loop, perhaps more than once."""

    def __enter__(self) -> Self:
        self._thread.start()
        self._begun.wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.stop()
        elif self._task is not None:
            self._on_loop(self._task.cancel)
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End in good order, now; returns at once."""
        self._on_loop(self._ask_to_end)

    def wait(self, seconds: float) -> bool:
        """Wait until it has ended, at most so long; tells whether it has."""
        return self._ended.wait(seconds)

    def _on_loop(self, call: Callable[[], object]) -> None:
        if self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:  # the loop is closed: it has ended
            return

    def _run(self) -> None:
        try:
            asyncio.run(self._supervised())
        except asyncio.CancelledError:
            pass  # left by an exception
        except BaseException as error:
            self._error = error
        finally:
            self._begun.set()
            self._ended.set()

    async def _supervised(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        await self._main()
