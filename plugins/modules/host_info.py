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
  - Never changes anything.
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
  description: What the host is and has. With O(brief) it ends with C(interrupted).
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

from pathlib import Path  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402

from ..module_utils.envoy_admin import Admin  # noqa: E402
from ..module_utils.host_report import HostReport, brief  # noqa: E402
from ..module_utils.systemd import run  # noqa: E402


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "brief": {"type": "bool", "default": False},
            "key": {"type": "str", "no_log": True},
            "answers": {"type": "path"},
        },
        required_if=[("brief", False, ["key"])],
        supports_check_mode=True,
    )
    root = Path("/")
    if module.params["brief"]:
        module.exit_json(changed=False, host=brief(root))
    report = HostReport(root, module.params["key"], Admin, run)
    module.exit_json(changed=False, host=report.whole())


if __name__ == "__main__":
    main()
