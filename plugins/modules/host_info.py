#!/usr/bin/python
# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""Tell what a host is, what of vmesh is on it and what runs there."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: host_info
short_description: Tell what a host is, what of vmesh is on it and what runs there
description:
  - Reads what the host is, the configuration, the releases, the units and the running Envoys of
    vmesh there. C(./mesh plan --refresh) compares it with what was applied.
  - It finds by itself what is there, so it also tells of parts that the inventory no longer has.
  - Never changes anything, but that with O(anchor) a host without an anchor gets one.
  - Values of the apps' environments do not leave the host. For each there is a code that only
    who has O(key) can compare with that of another value.
options:
  brief:
    description: Whether to tell only what a run must know of a host, and to ask no process.
    type: bool
    default: false
  key:
    description: >-
      Makes the codes of the environments' values. Make one for each use, and throw it away after.
      Required without O(brief).
    type: str
  anchor:
    description: >-
      Makes the anchor of the host where it is missing, but not in check mode: for the C(name) of
      the host in its mesh, as in C(web1.shop.mesh). C(replace) has the names of hosts, with
      commas, on which an anchor for another name is replaced, and C(next) those that get a next
      anchor beside the one that signs. The action plugin makes each of these a truth value, and
      adds C(clock), the time of the controller (Unix seconds).
    type: dict
  served:
    description: Whether Envoys and systemd are asked too how it is with the identities.
    type: bool
    default: false
  answers:
    description: Folder on the controller for the answers, one file a host; for the action plugin.
    type: path
author:
  - vmesh maintainers
"""

EXAMPLES = r"""
- name: Ask what the host is
  vmesh.mesh.host_info:
    brief: true
  register: answer

- name: Ask for everything
  vmesh.mesh.host_info:
    key: "{{ key }}"
    answers: "{{ folder }}"
"""

RETURN = r"""
host:
  description: What the host is and has. With O(brief) it ends with C(certs).
  returned: always, but not with O(answers)
  type: dict
  contains:
    os:
      description: The distribution, as C(/etc/os-release) calls it.
      type: str
    os_version:
      description: Its version.
      type: str
    arch:
      description: The processor's architecture.
      type: str
    python:
      description: The minor version of Python.
      type: str
    authorities:
      description: Whether the package ca-certificates is there.
      type: bool
    nftables:
      description: Whether the package nftables is there.
      type: bool
    firewall:
      description: Whether vmesh's rules of the firewall are installed.
      type: bool
    drops:
      description: Whether the kernel drops packets by these rules.
      type: bool
    session:
      description: >-
        The address from which the ssh connection of this task comes, as the host sees it, and the
        port of the host that it came to (C(address), C(port)); empty without one.
      type: dict
    parts:
      description: The parts that have units, C(envoy@<name>), C(flask@<name>) and C(jaeger).
      type: list
      elements: str
    newest:
      description: Number of the newest snapshot that is kept on the host, 0 without one.
      type: int
    interrupted:
      description: >-
        The run that began on the host and did not end: its number (C(run)), who ran it (C(who)),
        and how many seconds ago it began (C(seconds)); empty without one.
      type: dict
    security:
      description: >-
        By proxy: what it accepts (C(accepts): plaintext, mtls or both; none where nobody calls
        it), how it calls each service (C(speaks)), the digests of the anchors of those who may call
        it by mTLS (C(knows)), and the names of these proxies (C(lets)).
      type: dict
    certs:
      description: >-
        The host's C(anchor) (PEM, or none; in a rollover the older and the newer one) and what
        proves that it has made the newer one (C(voucher)), its C(clock) (Unix seconds), by how many
        seconds that is off at least (C(offset)), and by proxy its leaf (C(leaves)): C(identity),
        C(serial), C(not_before), C(not_after), and C(why) it has to be renewed. C(installed) tells
        whether there is something of identities. With O(served) also C(timer), and of each leaf
        whether Envoy C(served) it.
      type: dict
    releases:
      description: The version to which C(/opt/<name>/current) leads, by name.
      type: dict
    proxies:
      description: >-
        By name: the SHA-256 of each configuration file (C(files)), the state of the unit (C(unit)),
        the binary that runs (C(runs)), the paths of files that the running Envoy has not accepted
        (C(waiting)), and whether it was started from the bootstrap that is there (C(bootstrap)).
      type: dict
    apps:
      description: >-
        By name: the state of unit and socket (C(unit), C(socket)), the codes of the environment
        (C(environment)), and whether the process was started with what is there (C(current)).
      type: dict
    offered:
      description: The codes of the environments offered to other apps, by the service's name.
      type: dict
    jaeger:
      description: The state of Jaeger's unit, and whether it was started with what is there.
      type: dict
"""

import time  # noqa: E402
from pathlib import Path  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402

from ..module_utils.certificates import CertificateError  # noqa: E402
from ..module_utils.envoy_admin import Admin  # noqa: E402
from ..module_utils.file_writing import reason  # noqa: E402
from ..module_utils.host_anchor import ensure_anchor, ensure_next  # noqa: E402
from ..module_utils.host_report import HostReport, brief  # noqa: E402
from ..module_utils.identity_install import facts  # noqa: E402
from ..module_utils.systemd import run  # noqa: E402


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "brief": {"type": "bool", "default": False},
            "key": {"type": "str", "no_log": True},
            "anchor": {
                "type": "dict",
                "options": {
                    "name": {"type": "str", "required": True},
                    "clock": {"type": "float", "required": True},
                    "replace": {"type": "bool", "default": False},
                    "next": {"type": "bool", "default": False},
                },
            },
            "served": {"type": "bool", "default": False},
            "answers": {"type": "path"},
        },
        required_if=[("brief", False, ["key"])],
        supports_check_mode=True,
    )
    root, options = Path("/"), module.params
    try:
        anchor, made = options["anchor"], False
        if anchor and not module.check_mode:
            wanted = (root, anchor["name"], anchor["clock"])
            made = ensure_anchor(*wanted, replace=anchor["replace"])
            # One that is new has signed nothing, so there is nothing to move from.
            if anchor["next"] and not made:
                made = ensure_next(*wanted)
        certs = facts(root, time.time(), run if options["served"] else None, Admin)
    except (CertificateError, OSError, ValueError) as error:
        module.fail_json(msg=f"the identities of this host cannot be read: {reason(error)}")
    if options["brief"]:
        module.exit_json(changed=made, host={**brief(root), "certs": certs})
    report = HostReport(root, options["key"], Admin, run)
    module.exit_json(changed=made, host={**report.whole(), "certs": certs})


if __name__ == "__main__":
    main()
