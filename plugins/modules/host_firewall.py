#!/usr/bin/python
# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""Change the host's firewall, and keep the change once a new ssh connection has proven it."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: host_firewall
short_description: Change the host's firewall without locking anybody out
description:
  - Keeps a table of nftables, C(inet vmesh), and touches no other. C(/etc/vmesh/firewall.nft) has
    it for the next boot. The host needs the package nftables.
  - Rules that drop packets count only once they are proven. The action plugin ends the ssh
    connection and makes a new one through the new rules. Without it the host itself puts the
    earlier rules back after 60 seconds.
  - On a host without such a table, C(open) begins with one that drops nothing, so that the kernel
    follows the connections that are there. C(close) makes it drop.
options:
  operation:
    description:
      - C(open) adds what O(rules) let in, and takes nothing away.
      - C(close) lets in what O(rules) do, and nothing else.
      - C(reopen) lets in what the last three C(close) have taken away; for a rollback.
      - C(remove) removes the table.
    type: str
    choices: [open, close, reopen, remove]
    required: true
  rules:
    description: What can be reached from where, for C(open) and C(close).
    type: list
    elements: dict
    default: []
    suboptions:
      port:
        description: The port; C(ssh) is the one that Ansible came in by.
        type: str
        required: true
      protocol:
        description: Its protocol.
        type: str
        choices: [tcp, udp]
        default: tcp
      what:
        description: Who answers there, in a word or two.
        type: str
        required: true
      sources:
        description: Networks that can reach it.
        type: list
        elements: str
        required: true
  confirm:
    description: Whether this is the new connection; the action plugin sets it.
    type: bool
    default: false
author:
  - vmesh maintainers
"""

EXAMPLES = r"""
- name: Let web1 call the service on this host, and let anybody try to log in
  vmesh.mesh.host_firewall:
    operation: open
    rules:
      - {port: ssh, what: ssh, sources: [0.0.0.0/0, "::/0"]}
      - {port: 9002, what: stock, sources: [10.0.0.11/32]}
"""

RETURN = r"""
more:
  description: Whether something is left for C(close).
  returned: open
  type: bool
pending:
  description: Whether the rules still wait for a new connection.
  returned: always, but for C(remove)
  type: bool
"""

from pathlib import Path  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402

from ..module_utils import firewall  # noqa: E402
from ..module_utils.file_writing import reason  # noqa: E402
from ..module_utils.ssh_session import session  # noqa: E402
from ..module_utils.systemd import CommandFailed, run  # noqa: E402

RULE = {
    "port": {"type": "str", "required": True},
    "protocol": {"type": "str", "choices": ["tcp", "udp"], "default": "tcp"},
    "what": {"type": "str", "required": True},
    "sources": {"type": "list", "elements": "str", "required": True},
}
OPERATIONS = [firewall.OPEN, firewall.CLOSE, firewall.REOPEN, firewall.REMOVE]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "operation": {"type": "str", "choices": OPERATIONS, "required": True},
            "rules": {"type": "list", "elements": "dict", "default": [], "options": RULE},
            "confirm": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    host = firewall.Host(Path("/"), run, session())
    operation = module.params["operation"]
    try:
        if operation == firewall.REMOVE:
            module.exit_json(changed=firewall.remove(host, dry=module.check_mode))
        wanted = firewall.target(host, operation, module.params["rules"])
        if module.params["confirm"]:
            firewall.confirm(host, wanted)
            module.exit_json(changed=True, more=wanted.more, pending=False)
        result = firewall.apply(host, wanted, dry=module.check_mode)
    except (CommandFailed, OSError) as fault:
        module.fail_json(msg=f"the firewall: {reason(fault)}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
