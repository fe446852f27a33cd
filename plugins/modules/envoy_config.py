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
    first, then clusters, routes, certificates and listeners; what is no longer needed goes in
    the other order.
  - Confirms each step by the version that Envoy reports for it. When Envoy refuses, the
    files of before go back, are confirmed themselves, and the module fails with Envoy's reason.
  - Starts the unit when it is not running, and has it started at boot.
  - A changed C(bootstrap.json) is placed and reported as RV(restart_required), as is a
    process that runs another release than O(binary) or is older than its unit file.
  - A process that an earlier release of vmesh has started watches C(.yaml) files. It goes on with
    what it has read until a new process takes over, which reads the files that are placed now.
options:
  name:
    description: Name of the proxy, the instance of its unit.
    type: str
    required: true
  files:
    description: >-
      What is in each JSON file, by its path below the proxy's folder. The action plugin fills
      this in from O(config_dir).
    type: dict
    required: true
  secrets:
    description: >-
      What of the files neither Ansible nor its log may show, by path of the file and JSON pointer.
      The action plugin takes it out of O(files), and the module puts it in again.
    type: dict
    default: {}
  config_dir:
    description: Folder on the controller that holds the rendered files; for the action plugin.
    type: path
  only:
    description: >-
      Paths of the files to bring; the others stay as they are on the host. Without it the host gets
      all files of O(config_dir), and no others.
    type: list
    elements: str
    default: []
  private_keys:
    description: >-
      Private keys of the certificates in O(config_dir), whose files there have none, by the name of
      the certificate; for the action plugin.
    type: dict
    default: {}
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
  started_by:
    description: >-
      A unit that wants O(unit) and is ordered after it. Where O(unit) is not running, a restart of
      that one starts it. So that one stops before O(unit) starts, and starts afterwards.
    type: str
    default: ""
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

from ..module_utils.envoy_admin import Admin  # noqa: E402
from ..module_utils.envoy_apply import FAULTS, Proxy, configure  # noqa: E402
from ..module_utils.envoy_documents import reveal_secrets, shown, text_of  # noqa: E402
from ..module_utils.envoy_files import Files, Store, differences  # noqa: E402
from ..module_utils.envoy_unit import Systemd  # noqa: E402
from ..module_utils.file_writing import reason  # noqa: E402


def diff(old: Files, new: Files) -> list[dict[str, str]]:
    """Return what Ansible shows of the files that differ."""
    return [
        {
            "before_header": name,
            "after_header": name,
            "before": shown(old.get(name, "")),
            "after": shown(new.get(name, "")),
        }
        for name in differences(old, new)
    ]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "files": {"type": "dict", "required": True},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "private_keys": {"type": "dict", "default": {}, "no_log": True},
            "config_dir": {"type": "path"},
            "only": {"type": "list", "elements": "str", "default": []},
            "path": {"type": "path", "required": True},
            "group": {"type": "str", "required": True},
            "unit": {"type": "str", "required": True},
            "started_by": {"type": "str", "default": ""},
            "unit_changed": {"type": "bool", "default": False},
            "admin_socket": {"type": "path", "required": True},
            "binary": {"type": "path", "default": "/opt/envoy/current/bin/envoy"},
            "timeout": {"type": "float", "default": 60},
        },
        supports_check_mode=True,
    )
    options: dict[str, Any] = module.params
    new: Files = {
        name: text_of(reveal_secrets(document, options["secrets"].get(name, {})))
        for name, document in options["files"].items()
    }
    try:
        gid = grp.getgrnam(options["group"]).gr_gid
    except KeyError:
        if not module.check_mode:
            module.fail_json(msg=f"The group {options['group']} does not exist; create it first.")
        gid = -1
    store = Store(Path(options["path"]), gid)
    admin = Admin(options["admin_socket"])
    service = Systemd(options["unit"], started_by=options["started_by"])
    proxy = Proxy(store, service, admin, options["timeout"])
    try:
        old = store.read()
        if options["only"]:
            new = {**old, **new}
        done = configure(
            proxy,
            new,
            options["binary"],
            unit_changed=options["unit_changed"],
            dry=module.check_mode,
        )
    except FAULTS as fault:
        module.fail_json(
            msg=f"Envoy {options['name']} did not take its configuration: {reason(fault)}"
        )
    start = {"prepared": f"{options['unit']} is not running and will be started\n"}
    module.exit_json(
        changed=done.restart_required or not done.settled,
        started=done.started,
        restart_required=done.restart_required,
        changed_files=differences(old, new),
        diff=diff(old, new) or ([start] if done.started else []),
    )


if __name__ == "__main__":
    main()
