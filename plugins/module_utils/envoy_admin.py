# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""The admin interface of a running Envoy (https://www.envoyproxy.io/docs/envoy/latest/operations/admin)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from .unix_http import FAULTS, ask

# Names of the counters and readouts that tell what Envoy took of its watched files.
VERSIONS = "/stats?format=json&type=TextReadouts&filter=version_text%24"
REFUSALS = (
    "/stats?format=json&type=Counters"
    "&filter=%5C.%28update_failure%7Cupdate_rejected%7Clistener_create_failure%29%24"
)
# Of HTTP its requests, of TCP its connections; not those of the admin interface itself.
SERVED = (
    "/stats?format=json"
    "&filter=%5E%28http%5C..*downstream_rq%7Ctcp%5C..*downstream_cx%29_%28active%7Ctotal%29%24"
)
# Requests that Envoy sends, spans among them.
UPSTREAM_ACTIVE = "/stats?format=json&type=Gauges&filter=%5Ecluster%5C..*upstream_rq_active%24"
# How often the tracers send what they have, in milliseconds.
FLUSH_INTERVALS = ("tracing.opentelemetry.flush_interval_ms", "tracing.zipkin.flush_interval_ms")
# Requests by way of the plaintext chain of a listener that has one for mTLS, too.
IN_PLAINTEXT = (
    "/stats?format=json&type=Counters"
    "&filter=%5E%28http%5C..*_plain%5C.downstream_rq_total"
    "%7Ctcp%5C..*_plain%5C.downstream_cx_rx_bytes_total%29%24"
)


@dataclass(frozen=True)
class Server:
    """What a process says of itself.

    epoch: its number among hot restarts
    bootstrap_version, config_path: the version of its bootstrap, and the file it was read from
    """

    epoch: int
    bootstrap_version: str
    config_path: str = ""


class Admin:
    """The admin interface of whichever Envoy has the unix socket at `path` now.

    Every method that asks for more than readiness raises unix_http.FAULTS when nobody answers,
    and ValueError when the answer is not what Envoy says.
    """

    # Of both tracers, where the bootstrap says nothing.
    DEFAULT_FLUSH_SECONDS = 5.0

    def __init__(self, path: str, seconds: float = 30) -> None:
        self.path, self.seconds = path, seconds

    def get(self, url: str) -> tuple[int, str]:
        """Return status and body of `url`."""
        return ask(self.path, url, "GET", self.seconds)

    def post(self, url: str) -> tuple[int, str]:
        """Have Envoy do what `url` stands for; returns as `get`."""
        return ask(self.path, url, "POST", self.seconds)

    def is_ready(self) -> bool:
        """Tell whether Envoy serves."""
        try:
            return self.get("/ready")[0] == 200
        except FAULTS:
            return False

    def server(self) -> Server:
        """Return what the process says of itself."""
        status, body = self.get("/server_info")
        if status != 200:
            raise ValueError(f"/server_info: status {status}")
        info = json.loads(body)
        metadata = info.get("node", {}).get("metadata", {})
        options = info.get("command_line_options", {})
        return Server(
            int(options.get("restart_epoch", 0)),
            str(metadata.get("bootstrap_version", "")),
            str(options.get("config_path", "")),
        )

    def versions(self) -> dict[str, str]:
        """Return the version of every watched file that Envoy has accepted, by stats prefix."""
        return {
            name.removesuffix(".version_text"): str(value)
            for name, value in self._stats(VERSIONS).items()
        }

    def refusals(self) -> dict[str, int]:
        """Return the counters that tell of refused files, by name."""
        return {name: int(value) for name, value in self._stats(REFUSALS).items()}

    def leaves(self) -> dict[str, str]:
        """Return the serial number of every leaf that Envoy serves or shows, by its identity.

        It is in hexadecimal, without zeros before it.
        """
        answer = json.loads(self.get("/certs")[1])
        return {
            name["uri"]: str(leaf["serial_number"]).lower().lstrip("0")
            for each in answer.get("certificates", [])
            for leaf in each.get("cert_chain", [])
            for name in leaf.get("subject_alt_names", [])
            if "uri" in name
        }

    def under_way(self) -> int:
        """Return how many requests, streams and TCP connections of clients Envoy serves now."""
        return self.served()[0]

    def served(self) -> tuple[int, int]:
        """Return how many requests, streams and TCP connections of clients there are, and were."""
        found = {"active": 0, "total": 0}
        for name, number in self._stats(SERVED).items():
            if not name.startswith("http.admin."):
                found[name.rpartition("_")[2]] += int(number)
        return found["active"], found["total"]

    def upstream_active(self) -> int:
        """Return how many requests to its clusters, spans among them, have no answer yet."""
        return sum(int(number) for number in self._stats(UPSTREAM_ACTIVE).values())

    def flush_seconds(self) -> float:
        """Return how long a span may wait before it is sent."""
        entries = json.loads(self.get("/runtime")[1]).get("entries", {})
        default = self.DEFAULT_FLUSH_SECONDS * 1000
        values = (entries.get(name, {}).get("final_value", default) for name in FLUSH_INTERVALS)
        return max(map(float, values)) / 1000

    def plaintext_requests(self) -> int:
        """Return how much came in plaintext to listeners that accept mTLS as well.

        That is requests, and bytes where a listener reads no request, since the process began;
        https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/stats
        """
        return sum(int(count) for count in self._stats(IN_PLAINTEXT).values())

    def _stats(self, url: str) -> dict[str, Any]:
        stats = json.loads(self.get(url)[1]).get("stats", [])
        return {each["name"]: each["value"] for each in stats if "name" in each}
