"""What changes in the apps of a host, Flask apps and others, and in its Jaeger."""

from __future__ import annotations

from vmesh.compile.topology import EGRESS
from vmesh.rollout.change_report import ADD, CHANGE, REMOVE, RESTART, HostReport, View
from vmesh.rollout.change_roles import role_differs, role_words, setting_changes
from vmesh.rollout.change_words import (
    by_name,
    changed_keys,
    differing,
    format_value,
    key_words,
    listens_on,
    url_of,
)
from vmesh.rollout.record import HostRecord

_APP_WORDS = {
    "source": "folder",
    "wsgi": "WSGI app",
    "listening": "listens on",
}
_APP_KEYS = ("name", "environment", "address", "port", "network")


def compare_apps(report: HostReport, old: HostRecord, new: HostRecord) -> None:
    """Say what changes in the apps of a host."""
    before, after = (
        by_name(old["host"]["flask_services"]),
        by_name(new["host"]["flask_services"]),
    )
    rewritten = role_differs(old, new, "flask_service")
    if before and after and rewritten:
        report.say("Flask apps", CHANGE, role_words("their unit or settings"))
    settings = setting_changes(old, new, "flask_service_") if before and after else []
    for text in settings:
        report.say("Flask apps", CHANGE, text)
    for name, app in after.items():
        if name not in before:
            new_flask(report, app)
            continue
        begin = len(report.found)
        if old["bundles"].get(name) != new["bundles"].get(name):
            report.say(f"app {name}", CHANGE, "new release (code or libraries)")
        _compare_app(report, before[name], app, old, new)
        if len(report.found) > begin or rewritten or settings:
            text = "restart of the app; its socket keeps taking requests"
            report.say(f"app {name}", RESTART, text)
        # A record by an earlier release does not say it.
        reaches = before[name].get("network", "any"), app["network"]
        if reaches[0] != reaches[1]:
            text = f"may reach {reaches[0]} -> {reaches[1]}, without a restart"
            report.say(f"app {name}", CHANGE, text)
    was, becomes = (by_name(state["host"].get("external_apps") or ()) for state in (old, new))
    for name, app in becomes.items():
        if name in was:
            _compare_app(report, was[name], app, old, new)
        else:
            new_external(report, app)
    if was and becomes and role_differs(old, new, "external_app"):
        report.say("other apps", CHANGE, role_words("what they are offered"))


def _compare_app(
    report: HostReport, old: View, new: View, old_state: HostRecord, new_state: HostRecord
) -> None:
    part, name = f"app {new['name']}", new["name"]
    words = {key: (label, format_value) for key, label in _APP_WORDS.items()}
    for text in changed_keys(old, new, words, _APP_KEYS):
        report.say(part, CHANGE, text)
    told = _told_urls(name, old_state, new_state) | {"MESH_ADDRESS", "SERVICE_NAME"}
    before, after = old["environment"], new["environment"]
    for variable in sorted(before.keys() | after.keys()):
        if variable in told:
            continue
        if variable not in before:
            report.say(part, ADD, f"environment {variable} is new")
        elif variable not in after:
            report.say(part, REMOVE, f"environment {variable} is gone")
        elif before[variable] != after[variable]:
            report.say(part, CHANGE, f"environment {variable} changes")


def new_flask(report: HostReport, app: View) -> None:
    """Say that a Flask app is new."""
    report.say(f"app {app['name']}", ADD, f"new Flask app from {app['source']}")


def new_external(report: HostReport, app: View) -> None:
    """Say that an app that vmesh does not install is new."""
    text = f"stands on the host already, on {app['listening']}"
    report.say(f"app {app['name']}", ADD, text)


def new_jaeger(report: HostReport, jaeger: View) -> None:
    """Say that Jaeger is new."""
    report.say("Jaeger", ADD, f"new Jaeger; pages on {jaeger['endpoints']['ui']}")


def compare_jaeger(report: HostReport, old: HostRecord, new: HostRecord) -> None:
    """Say what changes in the Jaeger of a host."""
    before, after = old["host"]["jaeger"], new["host"]["jaeger"]
    if after and not before:
        new_jaeger(report, after)
    if not (before and after):
        return
    begin = len(report.found)
    versions = old["versions"].get("jaeger"), new["versions"].get("jaeger")
    if versions[0] != versions[1]:
        report.say("Jaeger", CHANGE, f"version {versions[0]} -> {versions[1]}")
    for name, was, becomes in differing(before["endpoints"], after["endpoints"]):
        label = {"ui": "pages"}.get(name, key_words(name))
        # Of a host that moved, its own line tells the address.
        if name == "ui" or str(was).split(":")[-1] != str(becomes).split(":")[-1]:
            report.say(
                "Jaeger", CHANGE, f"{label} on {format_value(was)} -> {format_value(becomes)}"
            )
    for text in changed_keys(before, after, {}, ("endpoints", "ports")):
        report.say("Jaeger", CHANGE, text)
    for text in setting_changes(old, new, "jaeger_"):
        report.say("Jaeger", CHANGE, text)
    if role_differs(old, new, "jaeger"):
        report.say("Jaeger", CHANGE, role_words("its unit or settings"))
    if len(report.found) > begin or before["endpoints"] != after["endpoints"]:
        report.say("Jaeger", RESTART, "restart of Jaeger")


def _told_urls(service: str, old: HostRecord, new: HostRecord) -> set[str]:
    """Return the variables of the upstreams' URLs that a change of a listener tells."""
    before, after = (
        {
            listener["name"]: listens_on(listener)
            for proxy in state["host"]["proxies"]
            if proxy["name"] == service
            for listener in proxy["view"]["listeners"]
            if listener["name"].startswith(EGRESS)
        }
        for state in (old, new)
    )
    names = before.keys() | after.keys()
    return {url_of(name) for name in names if before.get(name) != after.get(name)}
