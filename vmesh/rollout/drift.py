"""What is on a host other than what was applied, in words.

Pure. It compares an answer of plugins/modules/host_info.py with a host's recorded state or,
where nothing was recorded, with what the inventory means.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vmesh.base.words import shorter
from vmesh.compile.host_spec import ExternalSpec, FlaskSpec, HostSpec
from vmesh.rollout.description import MASKED, Described
from vmesh.rollout.record import HostRecord

Answer = Mapping[str, Any]


@dataclass(frozen=True)
class Drift:
    """One sentence about one part of one host."""

    host: str
    part: str
    text: str


def code(key: str, value: str) -> str:
    """Return what the module calls `value` by, made with the same `key`."""
    return hmac.new(key.encode(), value.encode(), hashlib.sha256).hexdigest()


def environments(spec: HostSpec) -> dict[str, dict[str, str]]:
    """Return service -> the environment of its app on a host."""
    apps: tuple[FlaskSpec | ExternalSpec, ...] = (*spec.flask_services, *spec.external_apps)
    return {app.name: app.environment for app in apps}


def drift(  # noqa: PLR0913 - two states of a host, its answer, and how to read it
    host: str,
    recorded: HostRecord | None,
    wanted: Described | None,
    answer: Answer,
    environments: Mapping[str, Mapping[str, str]],
    *,
    key: str,
) -> list[Drift]:
    """Return what differs on `host`.

    wanted: what the inventory means for it; None when it has no part in the mesh any more
    environments: service -> the whole environment of its app on this host, secrets included
    key: that the module was given
    """
    applied = recorded or (wanted.state if wanted else None)
    if applied is None:
        return [Drift(host, part, text) for part, text in _left(answer, {})]
    found: list[tuple[str, str]] = [
        *_platform(applied, answer),
        *_releases(applied, answer),
    ]
    for proxy in applied["host"]["proxies"]:
        name = proxy["name"]
        part = f"edge {name}" if proxy["kind"] == "edge" else f"{name}'s Envoy"
        exact = wanted.exact.get(name, {}) if wanted else {}
        there = answer["proxies"].get(name)
        if there is None:
            found.append((part, "is not on the host"))
            continue
        found += [(part, text) for text in _files(applied["files"].get(name, {}), exact, there)]
        found += [(part, text) for text in _envoy(there, answer["releases"].get("envoy"))]
    for service in applied["host"]["flask_services"]:
        found += _app(service, applied, answer, environments, key)
    for service in applied["host"].get("external_apps") or ():
        offered = answer["offered"].get(service["name"])
        part = f"app {service['name']}"
        if offered is None:
            found.append((part, f"/etc/vmesh/{service['name']}.env is not on the host"))
            continue
        variables = _environment(service, offered, environments, key)
        found += [(part, text) for text in variables]
    found += _jaeger(applied, answer)
    found += _firewall(applied, answer)
    found += _left(answer, applied["host"])
    return [Drift(host, part, text) for part, text in found]


def _platform(applied: HostRecord, answer: Answer) -> Iterator[tuple[str, str]]:
    before, now = applied["platform"], answer
    if before and any(before[key] != now[key] for key in before):
        yield (
            "host",
            f"is Python {now['python']} on {now['arch']} now, and was {before['python']} on"
            f" {before['arch']}: site.yml brings what fits",
        )


def _releases(applied: HostRecord, answer: Answer) -> Iterator[tuple[str, str]]:
    wanted = {**applied["versions"], **applied["bundles"]}
    for name, version in sorted(wanted.items()):
        there = answer["releases"].get(name)
        if there is not None and there != version:
            what = {"envoy": "Envoy", "jaeger": "Jaeger"}.get(name, f"app {name}")
            yield what, f"another release is installed: {there}, not {version}"


def _files(recorded: Mapping[str, str], exact: Mapping[str, str], there: Answer) -> Iterator[str]:
    """Yield what is wrong with a proxy's files.

    A recorded hash of a text with hidden values is of no use here; then what the inventory
    means must do, and a difference may be either's.
    """
    files: Mapping[str, str] = there["files"]
    edited: list[str] = []
    unsure: list[str] = []
    for path in sorted(recorded.keys() & files.keys()):
        if files[path] in {recorded[path], exact.get(path)}:
            continue
        (unsure if recorded[path].startswith(MASKED) else edited).append(path)
    if edited:
        yield f"edited by hand, or applied from elsewhere: {shorter(edited)}"
    if unsure:
        yield (
            f"not what the inventory says, or a hidden value has changed in it: {shorter(unsure)}"
        )
    if gone := sorted(recorded.keys() - files.keys()):
        yield f"missing: {shorter(gone)}"
    if strange := sorted(files.keys() - recorded.keys() - exact.keys()):
        yield f"not from vmesh: {shorter(strange)}"


def _envoy(there: Answer, installed: str | None) -> Iterator[str]:
    yield from _unit(there["unit"])
    if there["unit"]["active"] != "active":
        return
    if not there["answers"]:
        yield "does not answer on its admin socket"
        return
    if there["runs"] and installed and there["runs"] != installed:
        yield f"another release runs: {there['runs']}, while {installed} is installed"
    if there["waiting"]:
        yield f"Envoy has not accepted {shorter(there['waiting'])}"
    if there["bootstrap"] is False:
        yield "was started from another bootstrap than the one that is there"


def _unit(unit: Mapping[str, str], what: str = "") -> Iterator[str]:
    active, enabled = unit["active"], unit["enabled"]
    if active == "not installed":
        yield f"{what}unit is not installed"
        return
    if active not in {"active", "reloading"}:
        word = {"inactive": "stopped", "activating": "starting"}.get(active, active)
        yield f"{what}{word}"
    if enabled not in {"enabled", "enabled-runtime"}:
        yield f"{what}not enabled: it would not start after a reboot"


def _app(
    service: Mapping[str, Any],
    applied: HostRecord,
    answer: Answer,
    environments: Mapping[str, Mapping[str, str]],
    key: str,
) -> Iterator[tuple[str, str]]:
    name = service["name"]
    part = f"app {name}"
    there = answer["apps"].get(name)
    if there is None:
        yield part, "is not on the host"
        return
    if name in applied["bundles"] and name not in answer["releases"]:
        yield part, "no release of it is installed"
    for text in [*_unit(there["unit"]), *_unit(there["socket"], "socket: ")]:
        yield part, text
    for text in _environment(service, there["environment"], environments, key):
        yield part, text
    if there["unit"]["active"] == "active" and not there["current"]:
        yield part, "runs with an older release or older settings than are there"


def _environment(
    service: Mapping[str, Any],
    there: Mapping[str, str],
    environments: Mapping[str, Mapping[str, str]],
    key: str,
) -> Iterator[str]:
    """Yield the variables that differ. Of one that was not recorded the inventory's value counts.

    What the role itself adds to the environment is not told.
    """
    now = environments.get(service["name"], {})
    for name, recorded in sorted(service["environment"].items()):
        if name not in there:
            yield f"environment {name} is missing"
        elif recorded is not None:
            if there[name] not in {code(key, recorded), code(key, now.get(name, recorded))}:
                yield f"environment {name} was changed by hand"
        elif name in now and there[name] != code(key, now[name]):
            yield f"environment {name} is not what the inventory says (its value is not recorded)"


def _jaeger(applied: HostRecord, answer: Answer) -> Iterator[tuple[str, str]]:
    if not applied["host"]["jaeger"]:
        return
    there = answer["jaeger"]
    if there is None:
        yield "Jaeger", "is not on the host"
        return
    for text in _unit(there["unit"]):
        yield "Jaeger", text
    if there["unit"]["active"] == "active" and not there["current"]:
        yield "Jaeger", "runs with older settings than are there"


def _firewall(applied: HostRecord, answer: Answer) -> Iterator[tuple[str, str]]:
    wanted = applied["host"].get("firewall") is not None
    if wanted and not answer["firewall"]:
        yield "firewall", "is not on the host"
    elif wanted and not answer["drops"]:
        yield (
            "firewall",
            "its rules are not loaded: `systemctl reload vmesh-firewall` there does it",
        )
    elif answer["firewall"] and not wanted:
        yield "firewall", "is on the host, and the inventory has none"


def _left(answer: Answer, host: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the parts that are on the host and that nobody has planned there."""
    planned = {each["name"] for each in host.get("proxies", ())}
    apps = {each["name"] for each in host.get("flask_services", ())}
    left = [f"envoy@{name}" for name in answer["proxies"] if name not in planned]
    left += [f"flask@{name}" for name in answer["apps"] if name not in apps]
    if answer["jaeger"] is not None and not host.get("jaeger"):
        left.append("jaeger")
    for unit in left:
        yield "host", f"{unit} was not put there by this inventory; nothing removes it"
