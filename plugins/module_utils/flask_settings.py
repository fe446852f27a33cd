# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""The settings of a host's Flask services, as the role flask_service describes them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .environment_file import environment_text

# A service as the role flask_service takes it (flask_service_instances), with every key.
Service = Mapping[str, Any]

# `network` of an app that reaches its own host's loopback only, and the directives that see to it:
# https://www.freedesktop.org/software/systemd/man/latest/systemd.resource-control.html
MESH = "mesh"
CONFINED = ("IPAddressDeny=any", "IPAddressAllow=localhost")

NAME = re.compile(r"[a-z][a-z0-9-]{0,25}")
# Variables that the role sets (see the package meshtrace); an app's environment cannot have them.
RESERVED = (
    "WSGI_APP",
    "WORKERS",
    "THREADS",
    "PRELOAD",
    "WORKER_CLASS",
    "GRACEFUL_TIMEOUT_SECONDS",
    "KEEP_ALIVE_SECONDS",
    "LOG_LEVEL",
    "ACCESS_LOG",
    "CONFIG_ID",
    "PYTHONPATH",
)


@dataclass(frozen=True)
class Wanted:
    """What a host is to have.

    services: the services of the host; users and folders are made for all
    only: names of those to install
    worker_class, keep_alive_seconds, log_level, access_log: what every gunicorn gets
    unit: text of the services' unit; a change of it is a change of every service
    socket_group: name of the group of a service's socket; %i stands for the service's name
    """

    services: Sequence[Service]
    only: Sequence[str]
    worker_class: str
    keep_alive_seconds: int
    log_level: str
    access_log: bool
    unit: str
    socket_group: str

    @property
    def installed(self) -> list[Service]:
        """The services to install."""
        return [each for each in self.services if each["name"] in self.only]

    def settings(self, service: Service) -> dict[str, Any]:
        """Return the variables that the role sets for a service."""
        return {
            "WSGI_APP": service["wsgi"],
            "WORKERS": service["workers"],
            "THREADS": service["threads"],
            "PRELOAD": "1" if service["preload"] else "0",
            "WORKER_CLASS": self.worker_class,
            "GRACEFUL_TIMEOUT_SECONDS": service["grace"],
            "KEEP_ALIVE_SECONDS": self.keep_alive_seconds,
            "LOG_LEVEL": self.log_level,
            "ACCESS_LOG": "1" if self.access_log else "0",
        }

    def config_id(self, service: Service) -> str:
        """Return the name of everything a process is started with: release, settings, unit.

        gunicorn shows it as its status, so a later run finds a process that runs with something
        older, even after an interrupted run. It has few digits, because the status is public and
        the environment has secrets.
        """
        content = [
            service["version"],
            service["environment"],
            self.settings(service),
            self.unit,
        ]
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def file_of(self, service: Service) -> str:
        """Return the text of /etc/flask/<name>/env."""
        return environment_text(
            f"Settings of flask@{service['name']}, written by the role flask_service.",
            {**service["environment"], **self.settings(service)},
            {"CONFIG_ID": self.config_id(service)},
        )

    @staticmethod
    def drop_in(service: Service) -> str:
        """Return the text of the addition to a service's unit; empty where it has none."""
        if service["network"] != MESH:
            return ""
        lines = ("# Written by the role flask_service for `network: mesh`.", "[Service]", *CONFINED)
        return "".join(f"{line}\n" for line in lines)


def mistakes(services: Iterable[Service]) -> list[str]:
    """Return what is wrong with the services that the user gave, a sentence for each mistake."""
    found = []
    for service in services:
        name, environment = service["name"], service["environment"]
        if not NAME.fullmatch(name):
            found.append(
                f"flask_service_instances: {name} is not a name for a service. Use 1 to 26"
                " characters: a-z, 0-9 and -, beginning with a letter (its user"
                f" flask-{name} may have 32)."
            )
        if taken := [variable for variable in environment if variable in RESERVED]:
            found.append(
                f"flask_service_instances, {name}: {', '.join(taken)} cannot be in environment."
                " The role sets it from its own variables."
            )
    return found
