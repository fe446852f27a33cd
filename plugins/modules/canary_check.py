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

from pathlib import Path  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402

from ..module_utils.canary import Limits, Silent, counted_before, watch  # noqa: E402


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
        module.exit_json(changed=False, counted=counted_before(options["proxies"]))
    # What a rollback has removed has nobody to watch it.
    there = [name for name in options["proxies"] if Path("/etc/envoy", name).is_dir()]
    limits = Limits(options["max_error_increase"], options["max_slowdown"])
    try:
        verdicts, failed = watch(there, options["before"], options["seconds"], limits)
    except Silent as silent:
        module.fail_json(msg=str(silent))
    if failed:
        module.fail_json(
            msg="worse than before, in {} s: {}".format(options["seconds"], "; ".join(failed))
        )
    module.exit_json(changed=False, verdict=verdicts)


if __name__ == "__main__":
    main()
