"""Waiting with a bound, and a message that says what was waited for."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def until(what: str, probe: Callable[[], Result], seconds: float, *, pause: float = 1.0) -> Result:
    """Call `probe` until it returns something true; return that.

    A failed assertion or connection of the probe means "not yet". Raises AssertionError after
    `seconds`, with what was waited for and what the probe said last.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            result = probe()
            last: object = result
            if result:
                return result
        except (AssertionError, OSError, http.client.HTTPException) as error:
            last = f"{type(error).__name__}: {error}"
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:.0f} s; at last: {last!s:.500}")
        time.sleep(pause)
