"""Runs on a host: tells what it is, and which parts of vmesh are there. Standard library only."""

import json
import platform
import time
from pathlib import Path
from typing import Any

release = platform.freedesktop_os_release()
numbers = [int(path.stem) for path in Path("/var/lib/vmesh/states").glob("[0-9]*.json")]
parts = [f"envoy@{path.parent.name}" for path in Path("/etc/envoy").glob("*/bootstrap.yaml")]
parts += [f"flask@{path.parent.name}" for path in Path("/etc/flask").glob("*/env")]
if Path("/etc/systemd/system/jaeger.service").exists():
    parts.append("jaeger")


def interrupted() -> dict[str, Any]:
    """Return the run that began to change this host and has not ended; empty without one."""
    path = Path("/var/lib/vmesh/pending.json")
    if not path.exists():
        return {}
    begun = {"run": 0, "who": "", "seconds": max(0.0, time.time() - path.stat().st_mtime)}
    try:
        kept = json.loads(path.read_text())
        return {**begun, **{key: kept[key] for key in ("run", "who") if key in kept}}
    except (OSError, ValueError, TypeError):
        return begun


answer = {
    "os": release["ID"],
    "os_version": release.get("VERSION_ID", ""),
    "arch": platform.machine(),
    "python": ".".join(platform.python_version_tuple()[:2]),
    "authorities": Path("/etc/ssl/certs/ca-certificates.crt").exists(),
    "parts": sorted(parts),
    "newest": max(numbers, default=0),
    "interrupted": interrupted(),
}
print(json.dumps(answer))
