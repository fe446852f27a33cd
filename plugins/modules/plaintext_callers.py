#!/usr/bin/python
# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""See who calls a host's services in plaintext, although they accept mTLS."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: plaintext_callers
short_description: See who calls a host's services in plaintext, although they accept mTLS
description:
  - Watches for a while the Envoys that accept plaintext beside mTLS. Whoever still speaks
    plaintext then would be refused as soon as mTLS alone is accepted.
  - Callers in the networks of C(plaintext_from) do not count. Changes nothing.
options:
  proxies:
    description: Names of the Envoys.
    type: list
    elements: str
    required: true
  seconds:
    description: How long to watch.
    type: int
    default: 10
author:
  - vmesh maintainers
"""

EXAMPLES = r"""
- name: See who still speaks plaintext
  vmesh.mesh.plaintext_callers:
    proxies: [shop]
    seconds: 60
  register: plaintext
"""

RETURN = r"""
callers:
  description: >-
    By name of the Envoy the addresses of callers that it heard in plaintext. One that heard none is
    not named.
  returned: success
  type: dict
  sample: {shop: [10.0.0.7]}
"""

from ansible.module_utils.basic import AnsibleModule  # noqa: E402

from ..module_utils.envoy_admin import Admin  # noqa: E402
from ..module_utils.file_writing import reason  # noqa: E402
from ..module_utils.plaintext_callers import watch  # noqa: E402
from ..module_utils.systemd import run  # noqa: E402
from ..module_utils.unix_http import FAULTS  # noqa: E402


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "proxies": {"type": "list", "elements": "str", "required": True},
            "seconds": {"type": "int", "default": 10},
        },
        supports_check_mode=True,
    )
    options = module.params
    if module.check_mode:
        module.exit_json(changed=False, callers={})
    try:
        callers = watch(options["proxies"], options["seconds"], Admin, run)
    except FAULTS as fault:
        module.fail_json(msg=f"Envoy does not tell who speaks plaintext: {reason(fault)}")
    module.exit_json(changed=False, callers=callers)


if __name__ == "__main__":
    main()
