"""The package and the collection are made of one tree, so they have one version."""

from __future__ import annotations

import yaml

import vmesh
from vmesh.base import paths


def test_the_package_and_the_collection_have_the_same_version() -> None:
    collection = yaml.safe_load((paths.PROJECT / "galaxy.yml").read_text())
    assert collection["version"] == vmesh.__version__
