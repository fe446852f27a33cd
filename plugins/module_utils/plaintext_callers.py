# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""Who calls a service in plaintext, while its Envoy accepts mTLS as well."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .envoy_admin import Admin
from .systemd import Run

# What stands for callers whose line is not in the journal any more.
UNKNOWN = "an unknown address"
# The listeners of a service and of Jaeger's guard on which others call them.
_LISTENERS = {"ingress", "otlp_grpc", "otlp_http", "zipkin"}
# Envoy writes its access log each second (see envoy_process), and the journal takes it from there.
FLUSH_SECONDS = 2


def watch(
    proxies: Iterable[str],
    seconds: float,
    admin: Callable[[str], Admin],
    run: Run,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, list[str]]:
    """Return proxy -> addresses of the callers that it heard in plaintext in `seconds`.

    A proxy that heard none is not named. Raises what is in unix_http.FAULTS.
    """
    names = list(proxies)
    began = time.time()
    before = {name: admin(_socket(name)).plaintext_requests() for name in names}
    sleep(seconds)
    after = {name: admin(_socket(name)).plaintext_requests() for name in names}
    # A process that began meanwhile counts from 0.
    heard = [name for name in names if after[name] != before[name] and after[name]]
    if heard:
        sleep(FLUSH_SECONDS)
    return {name: sorted(set(_addresses(name, began, run))) or [UNKNOWN] for name in heard}


def _socket(proxy: str) -> str:
    return f"/run/envoy/{proxy}/admin.sock"


def _addresses(proxy: str, began: float, run: Run) -> Iterator[str]:
    """Yield the addresses in the access log of a proxy, of what came without TLS."""
    command = ["journalctl", "--unit", f"envoy@{proxy}.service", "--output", "cat", "--no-pager"]
    for line in run([*command, "--since", f"@{int(began)}"]).out.splitlines():
        found = _document(line)
        # The edges' access log has no `tls`.
        if found.get("listener") in _LISTENERS and "tls" in found and not found["tls"]:
            yield str(found.get("downstream_direct")).rpartition(":")[0]


def _document(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
