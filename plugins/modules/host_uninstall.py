#!/usr/bin/python
# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""Remove everything that vmesh has put on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: host_uninstall
short_description: Remove everything that vmesh has put on a host
description:
  - Has the host's Envoys finish their requests, stops and disables the units, and removes them,
    the configuration, the releases below C(/opt), the users, and the snapshots.
  - What others have put beside these stays. A host to which vmesh never came is left alone.
  - Jaeger's traces, and the user to whom they belong, stay unless O(traces) is set.
  - Kernel parameters keep their values until the next boot.
options:
  traces:
    description: Whether to remove Jaeger's traces too.
    type: bool
    default: false
  drain_seconds:
    description: How long Envoys may finish their requests and streams.
    type: float
    default: 60
  answers:
    description: >-
      Folder on the controller for the results, one file a host; for the action plugin.
    type: path
author:
  - vmesh maintainers
"""

EXAMPLES = r"""
- name: Leave nothing of vmesh on the host
  vmesh.mesh.host_uninstall:
    traces: true
"""

RETURN = r"""
removed:
  description: What was removed, or would be in check mode.
  returned: success
  type: list
  elements: str
kept:
  description: Folders of vmesh that stay.
  returned: success
  type: list
  elements: str
interrupted:
  description: The run that began on the host and did not end, as M(vmesh.mesh.host_info) tells it.
  returned: success
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule  # noqa: E402

from ..module_utils.file_writing import reason  # noqa: E402
from ..module_utils.machine import this_host  # noqa: E402
from ..module_utils.systemd import CommandFailed  # noqa: E402
from ..module_utils.uninstall import uninstall  # noqa: E402


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "traces": {"type": "bool", "default": False},
            "drain_seconds": {"type": "float", "default": 60},
            "answers": {"type": "path"},
        },
        supports_check_mode=True,
    )
    traces, seconds = module.params["traces"], module.params["drain_seconds"]
    try:
        found = uninstall(
            this_host(60), traces=traces, drain_seconds=seconds, dry=module.check_mode
        )
    except (CommandFailed, OSError) as fault:
        module.fail_json(msg=f"vmesh is not removed whole: {reason(fault)}. Run this again.")
    module.exit_json(changed=bool(found["removed"]), **found)


if __name__ == "__main__":
    main()
