#!/usr/bin/python
# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""Make requests by mTLS to other proxies, as the proxies of this host would."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: mutual_requests
short_description: Make requests by mTLS to other proxies, as the proxies of this host would
description:
  - Connects to listeners of services with the identity of a proxy of this host, sends one request
    to each, and tells what came of it. C(./mesh certs verify) shows that.
  - Never changes anything. An app that is reached gets C(GET /).
options:
  requests:
    description: >-
      Each has the C(proxy) that asks; the C(service), its C(host), C(address) and C(port); and, as
      a proxy that does not call the service knows neither, the C(anchor) of that host (PEM) and the
      C(identity) of the service there.
    type: list
    elements: dict
    required: true
  answers:
    description: Folder on the controller for the answers, one file a host; for the action plugin.
    type: path
author:
  - vmesh maintainers
"""

EXAMPLES = r"""
- name: Ask as the proxy shop
  vmesh.mesh.mutual_requests:
    requests:
      - proxy: shop
        service: stock
        host: web2
        address: 10.0.0.2
        port: 9002
        anchor: "{{ anchors.web2 }}"
        identity: spiffe://web2.shop.mesh/stock
"""

RETURN = r"""
found:
  description: >-
    What came of each request, in their order: C(proxy), C(service), C(host), C(tls), C(identity),
    C(status), C(why) and C(said), as C(plugins/module_utils/mutual_request.py) describes them.
  returned: success, but not with O(answers)
  type: list
  elements: dict
"""

from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402

from ..module_utils.mutual_request import ask  # noqa: E402


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "requests": {"type": "list", "elements": "dict", "required": True},
            "answers": {"type": "path"},
        },
        supports_check_mode=True,
    )
    found: list[dict[str, Any]] = [
        {
            **{key: each[key] for key in ("proxy", "service", "host")},
            **ask(Path("/etc/envoy") / each["proxy"], each),
        }
        for each in module.params["requests"]
    ]
    module.exit_json(changed=False, found=found)


if __name__ == "__main__":
    main()
