"""Lets the modules that run on hosts be imported as Python modules.

They import what they share as Ansible ships it, from ansible.module_utils. Tests import the same
from plugins.module_utils, where it is in this project; both names are of one module.
"""

from __future__ import annotations

import importlib
import sys

import ansible.module_utils

from vmesh.base import paths

_FOLDER = paths.PROJECT / "plugins" / "module_utils"
ansible.module_utils.__path__.append(str(_FOLDER))
for _path in _FOLDER.glob("*.py"):
    _module = importlib.import_module(f"ansible.module_utils.{_path.stem}")
    sys.modules[f"plugins.module_utils.{_path.stem}"] = _module
