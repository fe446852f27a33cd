"""Makes the Python package vmesh importable for plugins, which run on the controller.

A plugin imports this module before it imports vmesh. In a checkout, vmesh is the folder beside
plugins/. An installed collection takes the installed package, which must have its version: the
plugins use the package's inner functions.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ansible.errors import AnsibleError

COLLECTION = Path(__file__).resolve().parents[2]


def find(collection: Path) -> None:
    """Make vmesh importable for the plugins of `collection`, a folder.

    Raises AnsibleError where it is not installed, or in another version.
    """
    if (collection / "vmesh" / "__init__.py").is_file():
        sys.path.insert(0, str(collection))
        return
    wanted = collection_version(collection)
    try:
        from vmesh import __version__  # noqa: PLC0415 - its absence is what this tells
    except ModuleNotFoundError:
        raise AnsibleError(
            f"The collection vmesh.mesh needs the Python package vmesh, which {sys.executable} does"
            f" not have. Install it for that Python: pip install {_requirement(wanted)}"
        ) from None
    if wanted not in ("", __version__):
        raise AnsibleError(
            f"The collection vmesh.mesh in {collection} is version {wanted}, but the Python package"
            f" vmesh of {sys.executable} is version {__version__}. Install the same version of"
            f" both: pip install {_requirement(wanted)}, or vmesh.mesh {__version__}"
            " by ansible-galaxy"
        )


def collection_version(collection: Path) -> str:
    """Return the version of an installed collection; "" for the one that the package carries."""
    try:
        manifest = json.loads((collection / "MANIFEST.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ""
    return str(manifest["collection_info"]["version"])


def _requirement(version: str) -> str:
    return f"vmesh=={version}" if version else "vmesh"


find(COLLECTION)
