# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""The hardening that the units of all roles share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.lookup import LookupBase

DOCUMENTATION = r"""
name: hardening
short_description: Directives of systemd that take from a unit what no service of the mesh needs
description:
  - Returns the text of C(files/systemd/hardening.conf) in the collection. It belongs in the section
    C([Service]) of a unit.
  - The roles' variables C(<role>_hardening) have it as default. A later line overrides an
    earlier one.
author: vmesh maintainers
options: {}
"""

EXAMPLES = r"""
- name: Run Jaeger with one directive more
  ansible.builtin.import_role: {name: vmesh.mesh.jaeger}
  vars:
    jaeger_hardening: |
      {{ lookup('vmesh.mesh.hardening') }}
      MemoryDenyWriteExecute=yes
"""

RETURN = r"""
_raw:
  description: The directives, one a line.
  type: list
  elements: str
"""

DIRECTIVES = Path(__file__).resolve().parents[2] / "files" / "systemd" / "hardening.conf"


class LookupModule(LookupBase):  # type: ignore[misc]
    """Reads the file of the collection, wherever it is installed."""

    def run(self, terms: list[Any], variables: Any = None, **kwargs: Any) -> list[str]:
        return [DIRECTIVES.read_text(encoding="utf-8").rstrip()]
