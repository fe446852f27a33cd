#!/usr/bin/python
# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""Bring one Envoy's configuration files to a host in safe order and see them accepted."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: envoy_config
short_description: Apply the configuration files of one Envoy and confirm that it took them
description:
  - Places the files of one proxy by rename, each kind in its own watched directory, in an
    order in which no file ever refers to what Envoy does not know yet. Endpoints come
    first, then clusters, routes and listeners; what is no longer needed goes in the other
    order.
  - Confirms each step by the version that Envoy reports for it. When Envoy refuses, the
    files of before go back, are confirmed themselves, and the module fails with Envoy's reason.
  - Starts the unit when it is not running, and has it started at boot.
  - A changed C(bootstrap.yaml) is placed and reported as RV(restart_required), as is a
    process that runs another release than O(binary) or is older than its unit file.
options:
  name:
    description: Name of the proxy, the instance of its unit.
    type: str
    required: true
  files:
    description: >-
      Content of each file by its path below the proxy's folder. The action plugin fills
      this in from O(config_dir).
    type: dict
    required: true
  secrets:
    description: >-
      What of the files neither Ansible nor its log may show, in the order in which it stands in
      each. The action plugin takes it out of O(files), and the module puts it in again.
    type: dict
    default: {}
  config_dir:
    description: Folder on the controller that holds the rendered files; for the action plugin.
    type: path
  path:
    description: Folder of the proxy on the host.
    type: path
    required: true
  group:
    description: Group that may read the files; they belong to root.
    type: str
    required: true
  unit:
    description: Its systemd unit.
    type: str
    required: true
  unit_changed:
    description: Whether this run has changed the file of the unit; or would, in check mode.
    type: bool
    default: false
  admin_socket:
    description: Unix socket of its admin interface.
    type: path
    required: true
  binary:
    description: The Envoy that the unit starts; a symlink to the current release.
    type: path
    default: /opt/envoy/current/bin/envoy
  timeout:
    description: Seconds to wait for Envoy to accept each step.
    type: float
    default: 60
author:
  - vmesh maintainers
"""

EXAMPLES = r"""
- name: Apply the configuration
  vmesh.mesh.envoy_config:
    name: shop
    config_dir: build/lab/web1/shop
    path: /etc/envoy/shop
    group: envoy-shop
    unit: envoy@shop.service
    admin_socket: /run/envoy/shop/admin.sock
"""

RETURN = r"""
changed_files:
  description: Paths of the files that were placed or removed.
  returned: always
  type: list
  elements: str
started:
  description: Whether the unit was not running before.
  returned: always
  type: bool
restart_required:
  description: Whether the running Envoy was started from an older bootstrap, binary or unit.
  returned: always
  type: bool
"""

import grp  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402

from ..module_utils.mesh_envoy import (  # noqa: E402
    Admin,
    Files,
    Proxy,
    Refused,
    Store,
    Systemd,
    bring,
    concealed,
    differences,
    revealed,
)


def _diff(old: Files, new: Files) -> list[dict[str, str]]:
    return [
        {
            "before_header": name,
            "after_header": name,
            "before": concealed(old.get(name, ""))[0],
            "after": concealed(new.get(name, ""))[0],
        }
        for name in differences(old, new)
    ]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "files": {"type": "dict", "required": True},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "config_dir": {"type": "path"},
            "path": {"type": "path", "required": True},
            "group": {"type": "str", "required": True},
            "unit": {"type": "str", "required": True},
            "unit_changed": {"type": "bool", "default": False},
            "admin_socket": {"type": "path", "required": True},
            "binary": {"type": "path", "default": "/opt/envoy/current/bin/envoy"},
            "timeout": {"type": "float", "default": 60},
        },
        supports_check_mode=True,
    )
    options: dict[str, Any] = module.params
    new: Files = {
        name: revealed(text, options["secrets"].get(name, []))
        for name, text in options["files"].items()
    }
    try:
        gid = grp.getgrnam(options["group"]).gr_gid
    except KeyError:
        if not module.check_mode:
            module.fail_json(msg=f"The group {options['group']} does not exist; create it first.")
        gid = -1
    store = Store(Path(options["path"]), gid)
    systemd = Systemd(options["unit"])
    proxy = Proxy(store, systemd, Admin(options["admin_socket"]), options["timeout"])
    old = store.read()
    running = proxy.service.is_running()
    changed_files = differences(old, new)
    settled = running and not changed_files and not store.wrong_rights() and proxy.accepts(new)
    result: dict[str, Any] = {"changed_files": changed_files, "diff": _diff(old, new)}
    if not running and not changed_files:
        result["diff"] = [{"prepared": f"{options['unit']} is not running and will be started\n"}]
    enabled = systemd.is_enabled()
    if not module.check_mode:
        try:
            if not settled:
                bring(proxy, new)
            if not enabled:
                systemd.enable()
        except Refused as refusal:
            module.fail_json(
                msg=f"Envoy {options['name']} did not take its configuration: {refusal}"
            )
    restart = proxy.admin.is_ready() and (
        (running and options["unit_changed"])
        or systemd.is_older_than_its_unit()  # a run that changed it was interrupted
        or proxy.needs_restart(new, options["binary"])
    )
    module.exit_json(
        changed=restart or not settled or not enabled,
        started=not running,
        restart_required=restart,
        **result,
    )


if __name__ == "__main__":
    main()
