"""Validate: the real Envoy looks at every proxy's configuration, on the controller."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vmesh.base import paths
from vmesh.base.files import write_whole
from vmesh.base.problems import Problem
from vmesh.render.static_form import STATIC_SUFFIX, StaticForm

SECONDS = 60  # for one proxy, on a machine that is busy
MOST_REMEMBERED = 50_000  # accepted forms of one binary; a line of 65 bytes each


def validate_static_form(envoy: Path, static_form: Path) -> str | None:
    """Return what the `envoy` binary says against `static_form`, or None if it accepts it."""
    try:
        result = subprocess.run(
            [
                envoy,
                "--mode",
                "validate",
                "-c",
                static_form,
                "-l",
                "error",
                "--use-dynamic-base-id",
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"it has not come to an end after {SECONDS} s"
    if result.returncode == 0:
        return None
    text = (result.stdout + result.stderr).strip()
    reasons = re.findall(r"error initializing configuration '[^']*': (.*)", text, re.DOTALL)
    return " ".join((reasons[-1] if reasons else text).split())


class Accepted:
    """The forms that one Envoy binary accepted before, in a file of the cache.

    Of two runs at the same time one may forget what the other learned, which costs only time.
    """

    def __init__(self, envoy: Path) -> None:
        status = envoy.resolve().stat()
        identity = f"{envoy.resolve()} {status.st_size} {status.st_mtime_ns}"
        digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self.path = paths.cache_dir() / "accepted" / digest
        try:
            self.digests = self.path.read_text().split()
        except FileNotFoundError:
            self.digests = []

    def add(self, digests: Iterable[str]) -> None:
        """Remember `digests`; the oldest are forgotten when there are too many."""
        known = set(self.digests)
        new = [digest for digest in digests if digest not in known]
        if not new:
            return
        self.digests = [*self.digests, *new][-MOST_REMEMBERED:]
        write_whole(self.path, "".join(f"{digest}\n" for digest in self.digests))


def _remedy(form: StaticForm) -> str:
    place = f"in {' and '.join(form.patches)}, then " if form.patches else ""
    return f"Look for the value it names {place}in the inventory; nothing was changed on any host"


def validate_all(envoy: Path, static_forms: Sequence[StaticForm]) -> list[Problem]:
    """Return a Problem for each of `static_forms` that `envoy` refuses.

    Of forms that are the same to it one is shown, and none that it accepted in an earlier run.
    """
    accepted = Accepted(envoy)
    unknown = {form.essence: form.path for form in static_forms}
    for digest in accepted.digests:
        unknown.pop(digest, None)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        said = pool.map(lambda form: validate_static_form(envoy, form), unknown.values())
        refusals = dict(zip(unknown, said, strict=True))
    accepted.add(digest for digest, refusal in refusals.items() if refusal is None)
    return [
        Problem(
            f"{form.path.parent.name}/{form.path.name.removesuffix(STATIC_SUFFIX)}",
            str(form.path),
            f"Envoy refuses the configuration made from the inventory: {refusal}",
            _remedy(form),
        )
        for form in static_forms
        if (refusal := refusals.get(form.essence)) is not None
    ]
