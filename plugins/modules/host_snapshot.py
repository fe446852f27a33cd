#!/usr/bin/python
# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""Keep snapshots of what vmesh has put on a host, and bring the host back to one."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: host_snapshot
short_description: Keep snapshots of a host and bring it back to one
description:
  - A snapshot is all that vmesh has put on a host. That is every file of C(/etc/envoy),
    C(/etc/flask), C(/etc/jaeger) and C(/etc/vmesh), vmesh's unit files and helper scripts, where
    C(/opt/<name>/current) leads, and which units are enabled and active. That an endpoint is
    draining is no part of it.
  - Snapshots are kept below C(/var/lib/vmesh), for root alone, as secrets are in them. None of
    their content leaves the host.
  - C(begin) keeps a snapshot from before a run, unless that of an interrupted run is still there,
    which is the last whole one.
  - C(commit) ends a run. Where the host differs from its newest snapshot, it keeps a new one under
    the run's number and writes a line of history. It keeps the last three snapshots, and removes
    the releases below C(/opt) to which neither C(current), nor a kept snapshot, nor a process
    leads, and what interrupted runs left there.
  - C(restore) brings the host to the snapshot from before the run, or to a numbered one. What is as
    it should be is left alone. It goes on where a part fails, and fails in the end, with each part
    and its reason. If a numbered snapshot cannot be reached whole, the one from before is restored,
    else the result is committed as the snapshot of this run.
  - C(remove) takes parts away that left the inventory. An Envoy that runs drains its listeners, and
    is stopped as soon as it has no more requests or streams, or after O(drain_seconds). That goes
    on in the background, as the unit C(vmesh-leave-envoy-<name>), by the program C(leave) of the
    host kit (M(vmesh.mesh.host_kit)). Parts of which a restored snapshot knows nothing leave the
    same way. Traces and logs stay. What is left is the snapshot of this run.
options:
  operation:
    description: What to do.
    type: str
    choices: [begin, commit, restore, remove]
    required: true
  run:
    description: Number of the run.
    type: int
    required: true
  who:
    description: Who runs it.
    type: str
    default: ""
  note:
    description: What was asked for.
    type: str
    default: ""
  to:
    description: >-
      For C(restore), C(pending) for the snapshot from before the run, or a number, which means the
      newest snapshot that is not newer.
    type: str
    default: pending
  cause:
    description: For C(restore), why.
    type: str
    default: ""
  parts:
    description: >-
      Parts of the host, C(envoy@<name>), C(flask@<name>), C(env@<name>) (what an app of others is
      offered) or C(jaeger). For C(restore) to a number, all that is brought back; empty for
      everything, Envoy's release and the units too. For C(remove), what goes.
    type: list
    elements: str
    default: []
  drain_seconds:
    description: How long an Envoy that goes may finish its requests and streams.
    type: int
    default: 600
  timeout:
    description: Seconds to wait for an Envoy to accept each step.
    type: float
    default: 60
author:
  - vmesh maintainers
"""

EXAMPLES = r"""
- name: Keep a snapshot from before
  vmesh.mesh.host_snapshot:
    operation: begin
    run: 7
    who: root@controller
    note: apply

- name: Bring it back
  vmesh.mesh.host_snapshot:
    operation: restore
    run: 7
    cause: "{{ ansible_failed_result.msg }}"
"""

RETURN = r"""
newest:
  description: Number of the newest snapshot; 0 without one.
  returned: begin
  type: int
interrupted:
  description: Number of the run that was interrupted, whose snapshot from before is kept.
  returned: begin, where there was one
  type: int
number:
  description: Number of the snapshot that the host is like now.
  returned: commit, restore
  type: int
from:
  description: Number of the snapshot from before.
  returned: commit, restore
  type: int
parts:
  description: >-
    What differs between the two; C(envoy) and C(vmesh) for the releases that parts share, C(units)
    for shared files.
  returned: commit
  type: list
  elements: str
removed:
  description: Releases (C(name/version)) that were cleaned up, or the parts that were removed.
  returned: commit, remove
  type: list
  elements: str
restored:
  description: What was brought back.
  returned: restore
  type: list
  elements: str
errors:
  description: Why a part could not be brought back, by its name.
  returned: restore
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule  # noqa: E402

from ..module_utils.file_writing import reason  # noqa: E402
from ..module_utils.host_parts import PART  # noqa: E402
from ..module_utils.machine import this_host  # noqa: E402
from ..module_utils.transaction import FAILURES, NotRestored, perform  # noqa: E402


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "operation": {
                "type": "str",
                "choices": ["begin", "commit", "restore", "remove"],
                "required": True,
            },
            "run": {"type": "int", "required": True},
            "who": {"type": "str", "default": ""},
            "note": {"type": "str", "default": ""},
            "to": {"type": "str", "default": "pending"},
            "cause": {"type": "str", "default": ""},
            "parts": {"type": "list", "elements": "str", "default": []},
            "drain_seconds": {"type": "int", "default": 600},
            "timeout": {"type": "float", "default": 60},
        },
        supports_check_mode=True,
    )
    options = module.params
    if options["to"] != "pending" and not options["to"].isdigit():
        module.fail_json(
            msg=f"to: {options['to']} is neither `pending` nor the number of a snapshot."
        )
    if wrong := [part for part in options["parts"] if not PART.fullmatch(part)]:
        module.fail_json(
            msg=f"parts: {', '.join(wrong)}: a part is envoy@NAME, flask@NAME, env@NAME or jaeger."
        )
    try:
        result = perform(this_host(options["timeout"]), options, dry=module.check_mode)
    except NotRestored as failed:
        module.fail_json(msg=str(failed), **failed.result)
    except FAILURES as fault:
        text = f"host_snapshot {options['operation']}: {reason(fault)}"
        module.fail_json(msg=text, restored=[], errors={})
    module.exit_json(**result)


if __name__ == "__main__":
    main()
