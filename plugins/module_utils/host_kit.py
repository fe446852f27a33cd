# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""The release of the host kit: /opt/vmesh/<version>/vmesh-host.pyz, a zipapp of this package.

The zipapp holds each module as source and compiled, because Python compiles a source in a zip file
anew at each start. Compiled code of another version of Python is left aside by Python itself
(https://docs.python.org/3/library/zipimport.html).
"""

from __future__ import annotations

import os
import pwd
import py_compile
import shutil
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from .file_writing import write_whole
from .releases import KIT, KIT_FILE, KIT_PATH, current_version, switch_release

PACKAGE = "vmesh_host"
SHEBANG = b"#!/usr/bin/python3\n"
# Commands of the kit, by their place below the root. Snapshots know them by the name of a role.
COMMANDS = {
    "usr/local/bin/envoy-control": f"""#!/bin/sh
# Written by the module host_kit, for the role envoy: starts, replaces and renews Envoys.
# -I and -S: the program needs Python's own library only, and starts sooner so.
exec /usr/bin/python3 -IS {KIT_PATH} envoy-control "$@"
""",
    "usr/local/bin/vmesh-acme": f"""#!/bin/sh
# Written by the module host_kit, for the role envoy: orders and renews certificates of edges.
exec /usr/bin/python3 -IS {KIT_PATH} vmesh-acme "$@"
""",
    "usr/local/bin/vmesh-certs": f"""#!/bin/sh
# Written by the module host_kit, for the role identity: renews and shows the proxies' identities.
exec /usr/bin/python3 -IS {KIT_PATH} vmesh-certs "$@"
""",
    # This is no shell program, because a running gunicorn starts its successor as
    # `python3 /usr/local/bin/flask-control serve NAME` (meshtrace.gunicorn_conf).
    "usr/local/bin/flask-control": f"""#!/usr/bin/python3
# Written by the module host_kit, for the role flask_service: starts, tries and renews gunicorns.
import os
import sys

KIT = "{KIT_PATH}"
os.execv(sys.executable, [sys.executable, KIT, "flask-control", *sys.argv[1:]])
""",
}
MAIN = f"import sys\nfrom {PACKAGE}.programs import main\nsys.exit(main(sys.argv[1:]))\n"


def is_there(root: Path, version: str) -> bool:
    """Tell whether a version of the kit is on the host, current or not."""
    return (root / "opt" / KIT / version / KIT_FILE).is_file()


def is_current(root: Path, version: str) -> bool:
    """Tell whether the commands are there and start this version of the kit."""
    return (
        is_there(root, version)
        and current_version(root, KIT) == version
        and all(_has(root / path, text) for path, text in COMMANDS.items())
    )


def _has(path: Path, text: str) -> bool:
    return path.is_file() and path.stat().st_mode & 0o777 == 0o755 and path.read_text() == text


def install(root: Path, version: str, sources: Mapping[str, str]) -> None:
    """Make a version of the kit the current one, and write its commands; raises OSError.

    sources: text of each module by its name; they may be missing where the version is there
    """
    folder = root / "opt" / KIT
    if not is_there(root, version):
        staging = folder / f".staging-{version}"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        # The users of the units read it, also where root's umask forbids that.
        for each in (folder, staging):
            each.chmod(0o755)
        _write(staging / KIT_FILE, sources)
        shutil.rmtree(folder / version, ignore_errors=True)
        staging.rename(folder / version)
    switch_release(root, KIT, version)
    for path, text in COMMANDS.items():
        if not _has(root / path, text):
            write_whole(root / path, text, 0o755)


def bring(
    root: Path, version: str, sources: Mapping[str, str] | None, *, dry: bool
) -> tuple[bool, bool]:
    """Install a version of the kit unless it is current, or its sources are still to be sent.

    Returns whether it was not current, and whether the host lacks its sources. Raises OSError.
    """
    missing, changed = not is_there(root, version), not is_current(root, version)
    if changed and not dry and (sources or not missing):
        install(root, version, sources or {})
        missing = False
    return changed, missing


def missing_users(names: Iterable[str]) -> list[str]:
    """Return those of the users that the host does not have."""
    there = {entry.pw_name for entry in pwd.getpwall()}
    return [name for name in names if name not in there]


def _write(path: Path, sources: Mapping[str, str]) -> None:
    """Write the zipapp: https://docs.python.org/3/library/zipapp.html."""
    work = path.parent / "work"
    package = work / PACKAGE
    package.mkdir(parents=True)
    for name, text in {"__init__": "", **sources}.items():
        (package / f"{name}.py").write_text(text, encoding="utf-8")
    (work / "__main__.py").write_text(MAIN)
    for source in sorted(package.glob("*.py")):
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(
            str(source),
            cfile=str(source.with_suffix(".pyc")),
            dfile=f"{KIT_FILE}/{PACKAGE}/{source.name}",
            doraise=True,
            invalidation_mode=mode,
        )
    with path.open("wb") as file:
        file.write(SHEBANG)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for each in sorted(work.rglob("*.py*")):
                archive.write(each, each.relative_to(work))
        file.flush()
        os.fsync(file.fileno())
    path.chmod(0o755)
    shutil.rmtree(work)
