#!/usr/bin/python
# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""Install the programs that the units of vmesh start."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: host_kit
short_description: Install the programs that the units of vmesh start
description:
  - Makes C(/opt/vmesh/<version>/vmesh-host.pyz) of the collection's own C(module_utils), and has
    C(/opt/vmesh/current) lead there. Writes the commands C(envoy-control), C(flask-control)
    and C(vmesh-certs) to C(/usr/local/bin), which start it.
  - The action plugin finds the version, a hash of the sources, and sends the sources only to a
    host that lacks it. Earlier versions stay until M(vmesh.mesh.host_snapshot) removes what no
    snapshot needs.
options:
  users:
    description: Names of users whose absence RV(missing_users) tells.
    type: list
    elements: str
    default: []
  version:
    description: Version of the kit; the action plugin sets it.
    type: str
  sources:
    description: Text of each module by its name; the action plugin sets it.
    type: dict
author:
  - vmesh maintainers
"""

EXAMPLES = r"""
- name: Install the host kit
  vmesh.mesh.host_kit:

- name: Install the host kit, and see whether the proxies have their users
  vmesh.mesh.host_kit:
    users: [envoy-shop, envoy-stock]
"""

RETURN = r"""
version:
  description: Version of the kit.
  returned: always
  type: str
missing:
  description: Whether the host lacks this version.
  returned: always
  type: bool
missing_users:
  description: >-
    Those of O(users) that the host does not have. A role makes users when their list has changed.
    After a run that was interrupted between the two, the list does not change again.
  returned: always
  type: list
  elements: str
"""

from pathlib import Path  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402

from ..module_utils.file_writing import reason  # noqa: E402
from ..module_utils.host_kit import bring, missing_users  # noqa: E402


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "users": {"type": "list", "elements": "str", "default": []},
            "version": {"type": "str"},
            # Long, and of no use in the log of the host.
            "sources": {"type": "dict", "no_log": True},
        },
        supports_check_mode=True,
    )
    version = module.params["version"]
    try:
        changed, missing = bring(
            Path("/"), version, module.params["sources"], dry=module.check_mode
        )
    except OSError as error:
        module.fail_json(msg=f"the host kit cannot be installed: {reason(error)}")
    module.exit_json(
        changed=changed,
        version=version,
        missing=missing,
        missing_users=missing_users(module.params["users"]),
    )


if __name__ == "__main__":
    main()
