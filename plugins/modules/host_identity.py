#!/usr/bin/python
# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""Have a host renew the identities of its proxies."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: host_identity
short_description: Have a host renew the identities of its proxies
description:
  - Installs the host kit, whose program C(vmesh-certs) renews, and the unit, the timer and the user
    with which it does. Makes the host's anchor where it has none, and sees that each proxy has a
    good leaf.
  - Without O(identities) it removes all keys, leaves and units from the host.
  - No private key ever leaves the host.
options:
  name:
    description: Name of the host in its mesh, as in C(web1.shop.mesh).
    type: str
    default: ""
  identities:
    description: The identity of each proxy of the host, by the proxy's name.
    type: dict
    default: {}
  leaf_hours:
    description: How long a leaf lives. It is renewed when a third of that is used.
    type: int
    default: 72
  users:
    description: The users that the host shall have, as C(sysusers.d) takes them.
    type: str
    default: ""
  service:
    description: Text of C(vmesh-certs.service).
    type: str
    default: ""
  timer:
    description: Text of C(vmesh-certs.timer).
    type: str
    default: ""
  version:
    description: Version of the host kit; the action plugin sets it.
    type: str
  sources:
    description: Text of each module of the kit; the action plugin sets it.
    type: dict
author:
  - vmesh maintainers
"""

EXAMPLES = r"""
- name: Have the host renew the identity of its proxy
  vmesh.mesh.host_identity:
    name: web1.shop.mesh
    identities: {shop: "spiffe://web1.shop.mesh/shop"}
    users: "{{ lookup('ansible.builtin.template', 'users.conf.j2') }}"
    service: "{{ lookup('ansible.builtin.template', 'vmesh-certs.service.j2') }}"
    timer: "{{ lookup('ansible.builtin.template', 'vmesh-certs.timer.j2') }}"

- name: Leave no key on the host
  vmesh.mesh.host_identity:
"""

RETURN = r"""
what:
  description: What was changed, or would be in check mode, a line each.
  returned: success
  type: list
  elements: str
missing:
  description: Whether the host lacks this version of the host kit.
  returned: success
  type: bool
"""

import time  # noqa: E402
from pathlib import Path  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402

from ..module_utils.certificates import CertificateError  # noqa: E402
from ..module_utils.file_writing import reason  # noqa: E402
from ..module_utils.host_kit import bring  # noqa: E402
from ..module_utils.identities import Settings  # noqa: E402
from ..module_utils.identity_install import (  # noqa: E402
    UNIT_FILES,
    USERS,
    Wanted,
    in_use,
    install,
    remove,
)
from ..module_utils.systemd import CommandFailed, run  # noqa: E402


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "default": ""},
            "identities": {"type": "dict", "default": {}},
            "leaf_hours": {"type": "int", "default": 72},
            "users": {"type": "str", "default": ""},
            "service": {"type": "str", "default": ""},
            "timer": {"type": "str", "default": ""},
            "version": {"type": "str"},
            # Long, and of no use in the log of the host.
            "sources": {"type": "dict", "no_log": True},
        },
        supports_check_mode=True,
    )
    root, options, dry = Path("/"), module.params, module.check_mode
    try:
        if not options["identities"]:
            if proxies := in_use(root):
                module.warn(
                    f"{', '.join(proxies)}: mTLS is accepted or spoken there, so all identities"
                    " stay on this host. Run site.yml again when all hosts answer."
                )
                module.exit_json(changed=False, what=[], missing=False)
            what = remove(root, run, dry=dry)
            module.exit_json(changed=bool(what), what=what, missing=False)
        changed, missing = bring(root, options["version"], options["sources"], dry=dry)
        if missing and not dry:
            module.exit_json(changed=True, what=[], missing=True)
        settings = Settings(options["name"], options["identities"], options["leaf_hours"])
        texts = (options["users"], options["service"], options["timer"])
        files = dict(zip((USERS, *UNIT_FILES), texts, strict=True))
        what = install(root, Wanted(settings, files), run, time.time(), dry=dry)
    except (CertificateError, CommandFailed, OSError, ValueError) as error:
        module.fail_json(msg=f"the identities of the proxies cannot be renewed: {reason(error)}")
    module.exit_json(changed=changed or bool(what), what=what, missing=missing)


if __name__ == "__main__":
    main()
