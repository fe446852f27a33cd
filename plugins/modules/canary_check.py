#!/usr/bin/python
# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""Compare how a host's own listeners do after a change with how they did before."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: canary_check
short_description: Tell whether a host's own listeners do as well as before a change
description:
  - Without O(before) it returns what the Envoys have counted at the listeners that take requests
    from others (C(ingress) of a service, C(public) of an edge), as RV(counted). That is since the
    watch before, if that was long enough ago to tell something, else since Envoy's start. So what
    was bad long ago does not make up for what is bad now.
  - With O(before), which is RV(counted) of an earlier call, it watches the same listeners for
    O(seconds), and fails when an Envoy is not ready, when more of the answers are errors (5xx) than
    before, or when half of the requests take much longer than before.
  - Few requests prove little, so one error alone is passed over, and below 20 requests nothing is
    said of their duration.
  - Keeps what was counted when a watch ended below C(/var/lib/vmesh), and changes nothing else.
options:
  proxies:
    description: Names of the Envoys.
    type: list
    elements: str
    required: true
  before:
    description: What they had counted before the change, by name.
    type: dict
  seconds:
    description: How long to watch.
    type: int
    default: 10
  max_error_increase:
    description: Percentage points by which the share of errors may rise.
    type: float
    default: 5
  max_slowdown:
    description: How many times as long half of the requests may take, and 250 milliseconds more.
    type: float
    default: 3
author:
  - vmesh maintainers
"""

EXAMPLES = r"""
- name: See how the listeners do
  vmesh.mesh.canary_check:
    proxies: [shop]
  register: before

- name: See that they do as before
  vmesh.mesh.canary_check:
    proxies: [shop]
    before: "{{ before.counted }}"
"""

RETURN = r"""
counted:
  description: >-
    Of each Envoy that answers: C(requests), C(errors), and C(milliseconds), which maps the upper
    bounds of durations to how many requests were not longer.
  returned: success
  type: dict
verdict:
  description: A sentence for each Envoy that was watched.
  returned: with O(before)
  type: list
  elements: str
"""

import contextlib  # noqa: E402
import http.client  # noqa: E402
import json  # noqa: E402
import time  # noqa: E402
from collections.abc import Mapping  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402
from urllib.parse import quote  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402

from ..module_utils.mesh_envoy import Admin  # noqa: E402

Counted = dict[str, Any]

# The names of the listeners are their prefixes in Envoy's statistics (vmesh.compile.compiler).
STATISTICS = "^http[.](ingress|public)[.]downstream_rq_(completed|5xx|time)$"
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
                    found["milliseconds"][bound] = bucket["cumulative"]
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


def kept() -> dict[str, Counted]:
    """Return what the Envoys had counted when a watch ended."""
    try:
        return dict(json.loads(WATCHED.read_text()))
    except (OSError, ValueError):
        return {}


def keep(counted: Mapping[str, Counted]) -> None:
    """Keep what Envoys have counted, for the next time."""
    together = json.dumps({**kept(), **counted})
    with contextlib.suppress(OSError):  # a full disk is no reason against a change that is made
        WATCHED.with_suffix(".new").write_text(together)
        WATCHED.with_suffix(".new").replace(WATCHED)


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


def judge(
    before: Counted, after: Counted, max_error_increase: float, max_slowdown: float
) -> tuple[str, bool]:
    """Return a sentence on how the requests of `after` went, and whether that is as before."""
    errors, were = error_share(after), error_share(before)
    told = f"{after['requests']} requests, {errors:.3g} % of them errors ({were:.3g} % before)"
    if after["errors"] >= LEAST_ERRORS and errors > were + max_error_increase:
        return told, False
    now, was = median(after), median(before)
    if now is not None and was is not None:
        told += f", half of them within {now:g} ms ({was:g} before)"
        if now > was * max_slowdown + MILLISECONDS_MORE:
            return told, False
    return told, True


class Silent(Exception):  # noqa: N818 - says what happened
    """An Envoy does not answer."""


def ask(proxy: str) -> Counted:
    """Return what the Envoy `proxy` has counted; raises Silent when it does not answer."""
    admin = Admin(f"/run/envoy/{proxy}/admin.sock")
    try:
        return count(admin.get(QUERY)[1])
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Silent(f"{proxy}'s Envoy does not answer: {error}") from error


def watch(
    proxies: list[str], before: Mapping[str, Counted], options: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """Watch the Envoys; return a sentence for each, and those sentences that tell of a failure."""
    told, failed = [], []
    began = {name: ask(name) for name in proxies}
    time.sleep(options["seconds"])
    ended = {name: ask(name) for name in proxies}
    keep(ended)
    for name in proxies:
        sentence, fine = judge(
            before.get(name) or since(began[name], began[name]),
            since(began[name], ended[name]),
            options["max_error_increase"],
            options["max_slowdown"],
        )
        told.append(f"{name}: {sentence}")
        if not fine:
            failed.append(told[-1])
        elif not Admin(f"/run/envoy/{name}/admin.sock").is_ready():
            failed.append(f"{name}'s Envoy is not ready")
    return told, failed


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "proxies": {"type": "list", "elements": "str", "required": True},
            "before": {"type": "dict"},
            "seconds": {"type": "int", "default": 10},
            "max_error_increase": {"type": "float", "default": 5},
            "max_slowdown": {"type": "float", "default": 3},
        },
        supports_check_mode=True,
    )
    options = module.params
    if options["before"] is None:
        earlier, counted = kept(), {}
        for name in options["proxies"]:
            try:
                counted[name] = lately(earlier.get(name), ask(name))
            except Silent:
                continue  # one that does not run yet has counted nothing
        module.exit_json(changed=False, counted=counted)
    # What a rollback has removed has nobody to watch it.
    there = [name for name in options["proxies"] if Path("/etc/envoy", name).is_dir()]
    try:
        told, failed = watch(there, options["before"], options)
    except Silent as silent:
        module.fail_json(msg=str(silent))
    if failed:
        module.fail_json(
            msg="worse than before, in {} s: {}".format(options["seconds"], "; ".join(failed))
        )
    module.exit_json(changed=False, verdict=told)


if __name__ == "__main__":
    main()
