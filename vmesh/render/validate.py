"""Validate: the real Envoy looks at every proxy's configuration, on the controller."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vmesh.base import paths
from vmesh.base.problems import Problem
from vmesh.render.renderer import STATIC_SUFFIX

SECONDS = 60  # for one proxy, on a machine that is busy
MOST_REMEMBERED = 50_000  # accepted forms of one binary; a line of 65 bytes each

_OWN = re.compile(r'"(?:id|bootstrap_version)": "[^"]*"')
_ADDRESS = re.compile(r'"[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+"')


def essence(form: str) -> str:
    """Return the digest of all in a static form that Envoy could refuse.

    Replicas of a service differ in their node's id and in addresses. To Envoy any address is
    as good as another, so what counts is only which of them are the same.
    """
    places: dict[str, str] = {}
    named = _ADDRESS.sub(lambda found: places.setdefault(found[0], str(len(places))), form)
    return hashlib.sha256(_OWN.sub("", named).encode()).hexdigest()


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
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        temporary.write_text("".join(f"{digest}\n" for digest in self.digests))
        temporary.replace(self.path)


def validate_all(envoy: Path, static_forms: Iterable[Path]) -> list[Problem]:
    """Return a Problem for each of `static_forms` that `envoy` refuses.

    Of forms that are the same to it one is shown, and none that it accepted in an earlier run.
    """
    forms = {form: essence(form.read_text()) for form in static_forms}
    accepted = Accepted(envoy)
    unknown = {digest: form for form, digest in forms.items()}
    for digest in accepted.digests:
        unknown.pop(digest, None)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        said = pool.map(lambda form: validate_static_form(envoy, form), unknown.values())
        refusals = dict(zip(unknown, said, strict=True))
    accepted.add(digest for digest, refusal in refusals.items() if refusal is None)
    return [
        Problem(
            f"{form.parent.name}/{form.name.removesuffix(STATIC_SUFFIX)}",
            str(form),
            f"Envoy refuses the configuration made from the inventory: {refusal}",
            "Look for the value it names in the inventory; nothing was changed on any host",
        )
        for form, digest in forms.items()
        if (refusal := refusals.get(digest)) is not None
    ]
