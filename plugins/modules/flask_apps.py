#!/usr/bin/python
# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""See that a host's Flask services run with what is in place, and renew those that do not."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: flask_apps
short_description: Run the Flask services of a host, and renew those that run with something older
description:
  - Has the sockets and services of all O(apps) started at boot, and starts those that do not run.
  - Finds the services whose process was started with something older than is in place (in its
    status it shows the CONFIG_ID of the settings it was started with), and returns them as
    RV(outdated). With O(renew) they are renewed, as many at once as the host has processors.
  - A new process takes over from the old one, so that no request waits (C(systemctl reload)). It
    keeps the settings of the unit with which the old one was started. Where the unit itself has
    changed, a service in O(left) is restarted; the others are returned as RV(older_units).
  - Each service that was started or renewed must answer its health path with a status below 500,
    on its own socket and through its own Envoy, if that runs.
options:
  apps:
    description: The services.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the service, the instance of its units.
        type: str
        required: true
      health:
        description: Path that must be answered.
        type: str
        default: /healthz
      address:
        description: Where its own Envoy listens; empty for one without.
        type: str
        default: ""
      port:
        description: Port of that Envoy.
        type: int
        default: 0
  changing:
    description: Names of the services whose settings this run has changed; or would, in check mode.
    type: list
    elements: str
    default: []
  renew:
    description: Whether to renew what is outdated, or only to tell.
    type: bool
    default: false
  left:
    description: >-
      Names of the services that all their callers leave out meanwhile. While a service restarts,
      requests wait in its socket.
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds that a service may take until it answers.
    type: float
    default: 120
author:
  - vmesh maintainers
"""

EXAMPLES = r"""
- name: Renew the shop
  vmesh.mesh.flask_apps:
    apps:
      - {name: shop, address: 10.0.0.11, port: 9001}
    renew: true
"""

RETURN = r"""
outdated:
  description: Names of the services that run with something older; with O(renew), that did.
  returned: always
  type: list
  elements: str
older_units:
  description: >-
    Units of the renewed services that have changed since systemd started them. Their new settings
    count from the next start.
  returned: always
  type: list
  elements: str
started:
  description: Names of the services that did not run.
  returned: always
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule  # noqa: E402

from ..module_utils import flask_renew  # noqa: E402


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "apps": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "health": {"type": "str", "default": "/healthz"},
                    "address": {"type": "str", "default": ""},
                    "port": {"type": "int", "default": 0},
                },
            },
            "changing": {"type": "list", "elements": "str", "default": []},
            "renew": {"type": "bool", "default": False},
            "left": {"type": "list", "elements": "str", "default": []},
            "timeout": {"type": "float", "default": 120},
        },
        supports_check_mode=True,
    )
    given = module.params
    result, failure = flask_renew.work(
        flask_renew.Apps(given["apps"], given["timeout"], left=given["left"]),
        renew=given["renew"],
        check=module.check_mode,
        changing=given["changing"],
    )
    if failure:
        module.fail_json(msg=failure, **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
