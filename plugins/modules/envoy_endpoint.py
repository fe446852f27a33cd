#!/usr/bin/python
# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""Have the Envoys of a host send no new requests to an endpoint, or send them again."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: envoy_endpoint
short_description: Mark an endpoint as draining or serving in the Envoys of a calling host
description:
  - Marks one endpoint of one upstream cluster in the watched files of all given proxies of a host,
    moves the files into place, and confirms by their versions that each running Envoy took them.
    An Envoy sends no new request to a draining endpoint while it has others; requests under way
    end as they would.
  - Either all of the proxies take it, or those that did get back what they had.
  - A proxy that has no such endpoint is left alone. So is one that an earlier release has set up,
    and one that does not run, except that its file is put right when the endpoint is to serve.
  - The marks are no part of a configuration. M(envoy_config) removes what an interrupted run left.
options:
  proxies:
    description: Names of the proxies of this host that may call the endpoint.
    type: list
    elements: str
    required: true
  cluster:
    description: Name of the upstream cluster.
    type: str
    required: true
  address:
    description: Address of the endpoint, as it stands in the cluster's file.
    type: str
    required: true
  port:
    description: Port of the endpoint.
    type: int
    required: true
  state:
    description: What it is to be.
    type: str
    choices: [draining, serving]
    required: true
  timeout:
    description: Seconds to wait for each Envoy to accept its file.
    type: float
    default: 60
author:
  - vmesh maintainers
"""

EXAMPLES = r"""
- name: Send service2 on web2 no more requests
  vmesh.mesh.envoy_endpoint:
    proxies: [front-proxy, service1]
    cluster: service2
    address: 10.0.0.13
    port: 9002
    state: draining
"""

RETURN = r"""
proxies:
  description: Names of the proxies whose file was changed.
  returned: always
  type: list
  elements: str
left_alone:
  description: Why a proxy was left alone, by its name; without those that had the mark already.
  returned: always
  type: dict
"""

from pathlib import Path  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402

from ..module_utils.endpoint_health import Endpoint, mark  # noqa: E402
from ..module_utils.envoy_apply import Refused, installed_proxy  # noqa: E402


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "proxies": {"type": "list", "elements": "str", "required": True},
            "cluster": {"type": "str", "required": True},
            "address": {"type": "str", "required": True},
            "port": {"type": "int", "required": True},
            "state": {"type": "str", "choices": ["draining", "serving"], "required": True},
            "timeout": {"type": "float", "default": 60},
        },
        supports_check_mode=True,
    )
    options = module.params
    proxies = {}
    for name in options["proxies"]:
        folder = Path("/etc/envoy") / name
        if folder.is_dir():
            proxies[name] = installed_proxy(name, folder.stat().st_gid, options["timeout"])
    endpoint = Endpoint(options["cluster"], options["address"], options["port"])
    try:
        marked = mark(proxies, endpoint, options["state"], dry=module.check_mode)
    except Refused as refusal:
        module.fail_json(msg=str(refusal))
    missing = {name: "it is not here" for name in options["proxies"] if name not in proxies}
    module.exit_json(
        changed=bool(marked.changed),
        proxies=marked.changed,
        left_alone={**missing, **marked.skipped},
    )


if __name__ == "__main__":
    main()
