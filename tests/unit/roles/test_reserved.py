"""What compile refuses in an app's environment is what the role flask_service refuses."""

from __future__ import annotations

import yaml

from vmesh.base import paths
from vmesh.compile.checks_apps import GUNICORN_ENVIRONMENT


def test_compile_knows_the_roles_own_variables() -> None:
    text = (paths.PROJECT / "roles" / "flask_service" / "vars" / "main.yml").read_text()
    assert set(GUNICORN_ENVIRONMENT) == set(yaml.safe_load(text)["__flask_service_reserved"])
