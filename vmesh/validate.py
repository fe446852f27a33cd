"""Validate: the real Envoy looks at every proxy's configuration, on the controller."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vmesh.problems import Problem
from vmesh.render import STATIC_SUFFIX


def validate_static_form(envoy: Path, static_form: Path) -> str | None:
    """Return what the `envoy` binary says against `static_form`, or None if it accepts it."""
    result = subprocess.run(
        [envoy, "--mode", "validate", "-c", static_form, "-l", "error", "--use-dynamic-base-id"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if result.returncode == 0:
        return None
    text = (result.stdout + result.stderr).strip()
    reasons = re.findall(r"error initializing configuration '[^']*': (.*)", text, re.DOTALL)
    return " ".join((reasons[-1] if reasons else text).split())


def validate_all(envoy: Path, static_forms: Iterable[Path]) -> list[Problem]:
    """Return a Problem for each of `static_forms` that `envoy` refuses."""
    forms = list(static_forms)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        refusals = pool.map(lambda form: validate_static_form(envoy, form), forms)
    return [
        Problem(
            f"{form.parent.name}/{form.name.removesuffix(STATIC_SUFFIX)}",
            str(form),
            f"Envoy refuses the configuration made from the inventory: {refusal}",
            "Look for the value it names in the inventory; nothing was changed on any host",
        )
        for form, refusal in zip(forms, refusals, strict=True)
        if refusal is not None
    ]
