# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""How a host's own listeners do after a change, compared with how they did before."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .envoy_admin import Admin
from .file_writing import write_whole
from .unix_http import FAULTS

# `requests`, `errors`, and `milliseconds`: upper bound of durations -> how many were not longer.
Counted = dict[str, Any]

# The names of the listeners are their prefixes in Envoy's statistics, for requests in plaintext
# beside mTLS with what files/envoy/filter_chains.yaml.j2 adds.
STATISTICS = (
    "^http[.](ingress|public)(_plain|_plaintext_from)?[.]downstream_rq_(completed|5xx|time)$"
)
QUERY = "/stats?format=json&histogram_buckets=cumulative&filter=" + quote(STATISTICS)
LEAST_ERRORS, LEAST_FOR_TIMES = 2, 20
WATCHED = Path("/var/lib/vmesh/watched.json")  # proxy -> what it had counted when a watch ended
MILLISECONDS_MORE = 250.0


def count(answer: str) -> Counted:
    """Return what Envoy's answer to QUERY says."""
    found: Counted = {"requests": 0, "errors": 0, "milliseconds": {}}
    for stat in json.loads(answer).get("stats", []):
        if "histograms" in stat:
            for histogram in stat["histograms"]:
                for bucket in histogram["buckets"]:
                    bound = str(float(bucket["upper_bound"]))
                    sofar = found["milliseconds"].get(bound, 0)
                    found["milliseconds"][bound] = sofar + bucket["cumulative"]
        elif stat["name"].endswith("completed"):
            found["requests"] += stat["value"]
        else:
            found["errors"] += stat["value"]
    return found


def since(earlier: Counted, later: Counted) -> Counted:
    """Return what was counted between the two."""
    bounds = later["milliseconds"]
    return {
        "requests": later["requests"] - earlier["requests"],
        "errors": later["errors"] - earlier["errors"],
        "milliseconds": {
            bound: bounds[bound] - earlier["milliseconds"].get(bound, 0) for bound in bounds
        },
    }


def lately(earlier: Counted | None, now: Counted) -> Counted:
    """Return what was counted since the watch before; all of it when that says too little."""
    recent = since(earlier, now) if earlier else now
    # Envoy may have begun again to count.
    counts = (recent["requests"], recent["errors"], *recent["milliseconds"].values())
    return recent if recent["requests"] >= LEAST_FOR_TIMES and min(counts) >= 0 else now


def load() -> dict[str, Counted]:
    """Return what the Envoys had counted when a watch ended, by proxy."""
    try:
        return dict(json.loads(WATCHED.read_text()))
    except (OSError, ValueError):
        return {}


def save(counted: Mapping[str, Counted]) -> None:
    """Keep what Envoys have counted, for the next time."""
    together = json.dumps({**load(), **counted})
    with contextlib.suppress(OSError):  # a full disk is no reason against a change that is made
        write_whole(WATCHED, together)


def error_share(counted: Counted) -> float:
    """Return the percentage of requests that ended with an error."""
    return 100.0 * counted["errors"] / counted["requests"] if counted["requests"] > 0 else 0.0


def median(counted: Counted) -> float | None:
    """Return the least bound that half of the requests keep to; None when there were too few."""
    bounds = sorted((float(bound), count) for bound, count in counted["milliseconds"].items())
    total = bounds[-1][1] if bounds else 0
    if total < LEAST_FOR_TIMES:
        return None
    return next(bound for bound, count in bounds if count * 2 >= total)


@dataclass(frozen=True)
class Limits:
    """How much worse may be borne.

    max_error_increase: percentage points by which the share of errors may rise
    max_slowdown: how many times as long half of the requests may take, and MILLISECONDS_MORE
    """

    max_error_increase: float
    max_slowdown: float


def judge(before: Counted, after: Counted, limits: Limits) -> tuple[str, bool]:
    """Return a sentence on how the requests of `after` went, and whether that is as before."""
    errors, were = error_share(after), error_share(before)
    verdict = f"{after['requests']} requests, {errors:.3g} % of them errors ({were:.3g} % before)"
    if after["errors"] >= LEAST_ERRORS and errors > were + limits.max_error_increase:
        return verdict, False
    now, was = median(after), median(before)
    if now is not None and was is not None:
        verdict += f", half of them within {now:g} ms ({was:g} before)"
        if now > was * limits.max_slowdown + MILLISECONDS_MORE:
            return verdict, False
    return verdict, True


class Silent(Exception):  # noqa: N818 - says what happened
    """An Envoy does not answer."""


def admin_of(proxy: str) -> Admin:
    """Return the admin interface of an Envoy of this host."""
    return Admin(f"/run/envoy/{proxy}/admin.sock")


def ask(proxy: str) -> Counted:
    """Return what the Envoy `proxy` has counted; raises Silent when it does not answer."""
    try:
        return count(admin_of(proxy).get(QUERY)[1])
    except (ValueError, *FAULTS) as error:
        raise Silent(f"{proxy}'s Envoy does not answer: {error}") from error


def counted_before(proxies: Iterable[str]) -> dict[str, Counted]:
    """Return what the Envoys that answer have counted lately, by name.

    One that does not run yet has counted nothing.
    """
    earlier, counted = load(), {}
    for name in proxies:
        with contextlib.suppress(Silent):
            counted[name] = lately(earlier.get(name), ask(name))
    return counted


def watch(
    proxies: Sequence[str], before: Mapping[str, Counted], seconds: float, limits: Limits
) -> tuple[list[str], list[str]]:
    """Watch the Envoys; return a sentence for each, and those sentences that tell of a failure.

    Raises Silent when one of them does not answer.
    """
    verdicts, failed = [], []
    began = {name: ask(name) for name in proxies}
    time.sleep(seconds)
    ended = {name: ask(name) for name in proxies}
    save(ended)
    for name in proxies:
        then = before.get(name) or since(began[name], began[name])
        verdict, fine = judge(then, since(began[name], ended[name]), limits)
        verdicts.append(f"{name}: {verdict}")
        if not fine:
            failed.append(verdicts[-1])
        elif not admin_of(name).is_ready():
            failed.append(f"{name}'s Envoy is not ready")
    return verdicts, failed
