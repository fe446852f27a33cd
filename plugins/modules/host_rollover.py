#!/usr/bin/python
# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""Have a host sign by its next anchor."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: host_rollover
short_description: Have a host sign by its next anchor
description:
  - Makes the next anchor of a host, which the module M(vmesh.mesh.host_info) has made, the one that
    signs. Has the host renew the leaves of all its proxies, sees that their Envoys show these, and
    removes the former anchor.
  - All who trust the host must trust both anchors before.
  - Completes what an earlier run has begun. Does nothing on a host without a next anchor.
author:
  - vmesh maintainers
"""

EXAMPLES = r"""
- name: Have the host sign by its next anchor
  vmesh.mesh.host_rollover:
"""

RETURN = r"""
done:
  description: Whether the host signs by its newest anchor, or would after this.
  returned: success
  type: bool
"""

import time  # noqa: E402
from pathlib import Path  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402

from ..module_utils.certificates import CertificateError  # noqa: E402
from ..module_utils.envoy_admin import Admin  # noqa: E402
from ..module_utils.file_writing import reason  # noqa: E402
from ..module_utils.identity_install import roll_over  # noqa: E402
from ..module_utils.systemd import CommandFailed, run  # noqa: E402


def main() -> None:
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    try:
        changed = roll_over(Path("/"), run, time.time(), Admin, dry=module.check_mode)
    except (CertificateError, CommandFailed, OSError, ValueError) as error:
        module.fail_json(msg=f"the rollover of the anchor was not completed: {reason(error)}")
    module.exit_json(changed=changed, done=True)


if __name__ == "__main__":
    main()
