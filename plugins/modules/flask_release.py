#!/usr/bin/python
# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""Compare and install the releases and settings of a host's Flask services."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: flask_release
short_description: Install the releases and settings of Flask services, after a trial
description:
  - With O(operation=plan), checks O(services) and returns what differs on the host. This changes
    nothing.
  - With O(operation=install), makes the releases below C(/opt/<name>) the current ones and writes
    C(/etc/flask/<name>/env). An app that may reach the mesh only gets an addition to its unit.
    Where a service has a release already, the new release is started with the new settings beside
    the running one first, and must answer its health path with a status
    below 500. Else the module fails, and what was in place is unchanged.
  - A new service has no callers yet, so it is not tried; its start shows whether it works.
  - The values of an app's environment are neither logged nor returned.
options:
  operation:
    description: What to do.
    type: str
    choices: [plan, install]
    required: true
  services:
    description: The services of the host, as the role flask_service takes them.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the service.
        type: str
        required: true
      version:
        description: Version of its release, the folder below C(/opt/<name>).
        type: str
        required: true
      archive:
        description: Path on the controller of the release's archive; only returned.
        type: str
        default: ""
      wsgi:
        description: Module and object that gunicorn serves.
        type: str
        default: app:app
      workers:
        description: Worker processes.
        type: int
        default: 1
      threads:
        description: Threads of each worker process.
        type: int
        default: 8
      preload:
        description: Whether the app is imported once, before gunicorn makes the workers.
        type: bool
        default: false
      grace:
        description: Seconds that running requests get when a new process takes over.
        type: int
        default: 30
      health:
        description: Path that a trial requests.
        type: str
        default: /healthz
      network:
        description: >-
          Whom the app may reach. C(mesh) is the loopback of its host alone, C(any) is everybody.
        type: str
        choices: [mesh, any]
        default: any
      address:
        description: Where its own Envoy listens; only returned.
        type: str
        default: ""
      port:
        description: Port of that Envoy; only returned.
        type: int
        default: 0
      environment:
        description: Environment variables of the app.
        type: dict
        default: {}
  only:
    description: Names of the services to compare and install.
    type: list
    elements: str
    required: true
  worker_class:
    description: gunicorn's worker class.
    type: str
    default: gthread
  keep_alive_seconds:
    description: Seconds an idle connection is kept.
    type: int
    default: 75
  log_level:
    description: Level of the app's and gunicorn's log.
    type: str
    default: info
  access_log:
    description: Whether gunicorn writes a line for every request.
    type: bool
    default: false
  unit:
    description: Text of the services' unit. A changed unit changes the CONFIG_ID of every service.
    type: str
    default: ""
  socket_group:
    description: Group of a service's socket; C(%i) stands for the service's name.
    type: str
    default: envoy-%i
  timeout:
    description: Seconds that an app may take in a trial until it answers.
    type: float
    default: 120
author:
  - vmesh maintainers
"""

EXAMPLES = r"""
- name: Install a release of the shop that was unpacked to /opt/shop/3f2a9c0d1b5e
  vmesh.mesh.flask_release:
    operation: install
    services:
      - {name: shop, version: 3f2a9c0d1b5e, environment: {DATABASE_URL: "{{ vaulted_url }}"}}
    only: [shop]
"""

RETURN = r"""
unprepared:
  description: Names of the services that lack a user, a group or a folder.
  returned: with O(operation=plan)
  type: list
  elements: str
missing:
  description: Name, version and archive of the releases that are not on the host.
  returned: with O(operation=plan)
  type: list
  elements: dict
changing:
  description: Names of the services whose settings change.
  returned: with O(operation=plan)
  type: list
  elements: str
installing:
  description: Names of the services that get another release or other settings.
  returned: with O(operation=plan)
  type: list
  elements: str
apps:
  description: Name, health, address and port of the services of O(only).
  returned: with O(operation=plan)
  type: list
  elements: dict
installed:
  description: Names of the services that got another release or other settings.
  returned: with O(operation=install)
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule  # noqa: E402

from ..module_utils import flask_release  # noqa: E402
from ..module_utils.flask_settings import Wanted  # noqa: E402

SERVICE = {
    "name": {"type": "str", "required": True},
    "version": {"type": "str", "required": True},
    "archive": {"type": "str", "default": ""},
    "wsgi": {"type": "str", "default": "app:app"},
    "workers": {"type": "int", "default": 1},
    "threads": {"type": "int", "default": 8},
    "preload": {"type": "bool", "default": False},
    "grace": {"type": "int", "default": 30},
    "health": {"type": "str", "default": "/healthz"},
    "network": {"type": "str", "choices": ["mesh", "any"], "default": "any"},
    "address": {"type": "str", "default": ""},
    "port": {"type": "int", "default": 0},
    "environment": {"type": "dict", "default": {}, "no_log": True},
}


WANTED = {
    "services": {"type": "list", "elements": "dict", "required": True, "options": SERVICE},
    "only": {"type": "list", "elements": "str", "required": True},
    "worker_class": {"type": "str", "default": "gthread"},
    "keep_alive_seconds": {"type": "int", "default": 75},
    "log_level": {"type": "str", "default": "info"},
    "access_log": {"type": "bool", "default": False},
    "unit": {"type": "str", "default": ""},
    "socket_group": {"type": "str", "default": "envoy-%i"},
}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "operation": {"type": "str", "choices": ["plan", "install"], "required": True},
            **WANTED,
            "timeout": {"type": "float", "default": 120},
        },
        supports_check_mode=True,
    )
    # Ansible would blank each of the environment's values wherever it occurs in the result: `1` in
    # a version, or `shop` in a name. The result has none of the values, so they need no blanking;
    # the arguments, which have them, are not returned.
    module.no_log_values.clear()
    given = module.params
    wanted = Wanted(**{key: given[key] for key in WANTED})
    host = flask_release.Host()
    try:
        if given["operation"] == "plan":
            result = flask_release.plan_result(host, wanted)
        else:
            result = flask_release.install_result(
                host, wanted, given["timeout"], check=module.check_mode
            )
    except flask_release.Refused as refusal:
        module.fail_json(msg=str(refusal), invocation={})
    module.exit_json(**result, invocation={})


if __name__ == "__main__":
    main()
