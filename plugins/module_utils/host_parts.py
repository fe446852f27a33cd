# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""The parts of vmesh on a host: their names, their units, and the files that are vmesh's.

A part is named `envoy@<proxy>`, `flask@<service>`, `env@<service>` (the environment of an app that
something else runs) or `jaeger`. Paths are relative to the root of the host.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

PART = re.compile(r"jaeger|(envoy|flask|env)@[a-z0-9][a-z0-9-]*")
# Folders whose files are all vmesh's; some have one folder for each part.
FOLDERS = ("etc/envoy", "etc/flask", "etc/jaeger", "etc/vmesh")
FILES = ("etc/envoy/*/**/*", "etc/flask/*/**/*", "etc/jaeger/**/*", "etc/vmesh/*.env")
# Where files of vmesh lie among others. They are known by WRITTEN_BY_A_ROLE near their beginning.
SHARED = (
    "etc/systemd/system/envoy@*.service",
    "etc/systemd/system/envoy@*.service.d/*.conf",
    "etc/systemd/system/flask@*.service",
    "etc/systemd/system/flask@*.service.d/*.conf",
    "etc/systemd/system/flask@*.socket",
    "etc/systemd/system/jaeger.service",
    "etc/systemd/system/vmesh-*.service",
    "etc/systemd/system/vmesh-*.timer",
    "etc/systemd/envoy-*.conf",
    "etc/systemd/flask-*.conf",
    "etc/sysctl.d/*.conf",
    "etc/sysusers.d/*.conf",
    "etc/tmpfiles.d/*.conf",
    "usr/local/bin/envoy-*",
    "usr/local/bin/flask-*",
    "usr/local/bin/vmesh-*",
    "usr/local/sbin/envoy-*",
    "usr/local/sbin/flask-*",
)
WRITTEN_BY_A_ROLE = re.compile(rb"\brole (envoy|flask_service|external_app|identity|jaeger)\b")
UNITS = "etc/systemd/system/"
# Has a folder for each edge whose certificate comes by ACME: its keys, which no snapshot has.
ACME_STATE = "var/lib/vmesh-acme"
# Below the folder of a proxy: its leaf and key. No snapshot has them: an older leaf is a worse one.
IDENTITY = "identity"
JAEGER_UNIT = f"{UNITS}jaeger.service"
# The Envoy that has Jaeger's ports where proxies speak mTLS.
GUARD = "envoy@jaeger"
# A file that every installed part of its kind has. A proxy of an earlier release has the first.
_PROXY_FILES = ("etc/envoy/*/bootstrap.yaml", "etc/envoy/*/bootstrap.json")
_APP_FILE = "etc/flask/*/env"
_OF_AN_APP = re.compile(rf"{UNITS}flask@([a-z0-9-]+)\.service\.d/")


def part_of(path: str) -> str | None:
    """Return the part to which a file belongs; None for a file that parts share."""
    steps = path.split("/")
    if steps[:2] == ["etc", "envoy"]:
        return f"envoy@{steps[2]}"
    if steps[:2] == ["etc", "flask"]:
        return f"flask@{steps[2]}"
    if steps[:2] == ["etc", "vmesh"]:
        return f"env@{steps[2].removesuffix('.env')}"
    if steps[:2] == ["etc", "jaeger"] or path == JAEGER_UNIT:
        return "jaeger"
    found = _OF_AN_APP.match(path)
    return f"flask@{found[1]}" if found else None


def app_drop_in(service: str) -> str:
    """Return the path of the addition to the unit of one Flask service."""
    return f"{UNITS}flask@{service}.service.d/vmesh-network.conf"


def units_of(part: str) -> list[str]:
    """Return the units of a part, the one of its main process first."""
    kind, _, name = part.partition("@")
    return {
        "envoy": [f"envoy@{name}.service"],
        "flask": [f"flask@{name}.service", f"flask@{name}.socket"],
        "jaeger": ["jaeger.service"],
    }.get(kind, [])


def helpers_of(part: str) -> list[str]:
    """Return the units that work for a part and have no part in its state; it may lack them."""
    kind, _, name = part.partition("@")
    return [f"vmesh-acme@{name}.timer", f"vmesh-acme@{name}.service"] if kind == "envoy" else []


def part_of_unit(unit: str) -> str:
    """Return the part to which a unit belongs."""
    return unit.rpartition(".")[0]


def proxies_on(root: Path) -> list[str]:
    """Return the names of the proxies that are installed on a host."""
    return sorted({path.parent.name for each in _PROXY_FILES for path in root.glob(each)})


def apps_on(root: Path) -> list[str]:
    """Return the names of the Flask services that are installed on a host."""
    return sorted(path.parent.name for path in root.glob(_APP_FILE))


def parts_on(root: Path) -> list[str]:
    """Return the parts that are installed on a host and have units."""
    parts = [f"envoy@{name}" for name in proxies_on(root)]
    parts += [f"flask@{name}" for name in apps_on(root)]
    return [*parts, *(["jaeger"] if (root / JAEGER_UNIT).exists() else [])]


def app_folders(root: Path) -> set[str]:
    """Return the names of the Flask services that have a folder, installed or half installed."""
    return {path.name for path in root.glob("etc/flask/*") if path.is_dir()}


def our_files(root: Path) -> Iterator[Path]:
    """Yield the files of vmesh below `root`, without those that a run has only laid beside."""
    for pattern in FILES:
        for path in sorted(root.glob(pattern)):
            beside = path.name.startswith(".") or path.name.endswith(".next")
            if (
                not beside
                and path.parent.name != IDENTITY
                and path.is_file()
                and not path.is_symlink()
            ):
                yield path
    yield from shared_files(root)


def shared_files(root: Path) -> Iterator[Path]:
    """Yield the files of vmesh that lie among files of others."""
    for pattern in SHARED:
        for path in sorted(root.glob(pattern)):
            if path.is_file() and not path.is_symlink() and _is_ours(path):
                yield path


def _is_ours(path: Path) -> bool:
    with path.open("rb") as file:
        return WRITTEN_BY_A_ROLE.search(file.read(500)) is not None


def status_of_jaeger(unit: str) -> str:
    """Return what a process of Jaeger says of itself that was started from the unit file `unit`.

    Empty when the text of that file has it say nothing.
    """
    found = re.search(r"--status=(Configuration \w+)", unit)
    return found.group(1) if found else ""
