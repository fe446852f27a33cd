"""The rows of `./mesh bench change`, by name: see the table of bench/README.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bench import change_accidents as accidents
from bench import change_edits as edits
from bench import change_identities as identities
from bench.change_edits import Edit
from bench.change_report import Row
from bench.change_world import World


def _row(make: Callable[[World], Edit]) -> Callable[[World], Row]:
    return lambda world: edits.applied(world, make)


CHANGES: Mapping[str, Callable[[World], Row]] = {
    "routes": _row(edits.routes),
    "replica-removed": _row(edits.replica_removed),
    "replica-added": _row(edits.replica_added),
    "envoy-upgrade": _row(edits.envoy_upgraded),
    "envoy-rollback": edits.envoy_back,
    "bootstrap": _row(edits.bootstrap),
    "bootstrap-beside": _row(edits.bootstrap_beside),
    "release": _row(edits.release),
    "release-rollback": edits.release_back,
    "jaeger": _row(edits.jaeger_settings),
    "jaeger-release": _row(edits.jaeger_release),
    "firewall": _row(edits.walled),
    "mtls-strict": _row(edits.strict),
    "rollover": identities.rolled_over,
    "revoke": identities.revoked,
    "mtls-off": _row(edits.unsecured),
    "kill-envoy": lambda world: accidents.killed(world, edits.ENVOY_UNIT),
    "kill-app": lambda world: accidents.killed(world, edits.APP_UNIT),
    "vanish": accidents.vm_vanished,
    "reboot": accidents.vm_rebooted,
    "drift": accidents.drifted,
}
