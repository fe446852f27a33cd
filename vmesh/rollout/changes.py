"""What would change, in words: two states of the hosts in, sentences out.

Pure. A state is what vmesh.rollout.record describes. Every difference gets a sentence: what no rule
here has words for is told by its key, and files that are written differently although the inventory
says the same are told, too. Nothing changes silently.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vmesh.compile.host_spec import url_variable
from vmesh.compile.topology import EGRESS, match_words, own_answer, target_shares, upstream_words
from vmesh.rollout.record import MASKED, State, left_behind, parts_of

ADD, REMOVE, CHANGE, RESTART, NOTE = "add", "remove", "change", "restart", "note"

View = Mapping[str, Any]
# A recorded proxy in, the hashes of its files as today's templates write them out, by path;
# None when it cannot be rendered any more.
Rerender = Callable[[View], Mapping[str, str] | None]

BOOTSTRAP = "bootstrap.yaml"


@dataclass(frozen=True)
class Change:
    """One sentence about one part of one host. A NOTE tells of something that does not change."""

    host: str
    part: str
    kind: str
    text: str


@dataclass(frozen=True)
class Grouped:
    """The same sentence for several hosts."""

    hosts: tuple[str, ...]
    part: str
    kind: str
    text: str


def group(changes: Iterable[Change]) -> list[Grouped]:
    """Return each sentence once, with its hosts, in the order in which they first come."""
    hosts: dict[tuple[str, str, str], list[str]] = {}
    for change in changes:
        hosts.setdefault((change.part, change.kind, change.text), []).append(change.host)
    return [Grouped(tuple(dict.fromkeys(on)), *what) for what, on in hosts.items()]


def compare(
    old: Mapping[str, State],
    new: Mapping[str, State],
    rerender: Rerender,
    in_inventory: Collection[str] = (),
) -> list[Change]:
    """Return what applying `new` changes on hosts that have `old`, host by host.

    in_inventory: all hosts of the inventory, also those without a part in the mesh
    """
    before, after = (
        {state["host"]["address"]: host for host, state in states.items()} for states in (old, new)
    )
    found: list[Change] = []
    for host in sorted(old.keys() | new.keys()):
        comparison = _Comparison(host, {**after, **before}, {**before, **after}, rerender)
        if host not in new:
            comparison.gone(old[host], there=host in in_inventory)
        elif host not in old:
            comparison.first(new[host])
        else:
            comparison.both(old[host], new[host])
        found += comparison.found
    return found


def pending(changes: Iterable[Change]) -> list[Change]:
    """Return those of `changes` that applying the inventory would bring about."""
    return [change for change in changes if change.kind != NOTE]


# Words for values


def said(value: Any) -> str:
    """Return a value of a view as a person would write it."""
    if value is None or value in ([], {}, ""):
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(key)} {said(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(said(item) for item in value)
    return str(value)


def _words(key: str) -> str:
    return str(key).replace("_", " ")


def _seconds(value: Any) -> str:
    return f"{value:g} s" if isinstance(value, int | float) else said(value)


def _percent(value: Any) -> str:
    return f"{value:g} %" if isinstance(value, int | float) else said(value)


def _networks(value: Any) -> str:
    return ", ".join(f"{each['address_prefix']}/{each['prefix_len']}" for each in value) or "none"


def _retry(value: Any) -> str:
    if not isinstance(value, Mapping):
        return said(value)
    each = value.get("per_try_timeout")
    limit = f", {_seconds(each)} each" if each is not None else ""
    return f"{value['attempts']} on {value['on'].replace(',', ', ')}{limit}"


def _bucket(value: Any) -> str:
    if not isinstance(value, Mapping):
        return said(value)
    return f"{value['tokens'] / value['interval']:.4g} per second, {value['burst']} at once"


def _mirror(value: Any) -> str:
    if not isinstance(value, Mapping):
        return said(value)
    return f"{_percent(value['percent'])} to {value['cluster']}"


def _tags(value: Any) -> str:
    return ", ".join(each["name"] for each in value) if isinstance(value, list) else said(value)


def _headers(value: Any) -> str:
    if not isinstance(value, Mapping):
        return "as the tracer writes them"
    b3 = "with B3" if value["tell_b3"] else "without B3"
    if value["removes"]:
        return f"without {said(value['removes'])}"
    if value["outside"]:
        return f"trace context as {said(value['keep'])} alone, {b3}"
    return f"request ids as they came, {b3}"


def _rewrite(value: Any) -> str:
    """Return a rewrite as the user said it: an expression beside a prefix is how Envoy does it."""
    if isinstance(value, Mapping) and "prefix" in value:
        return said({k: v for k, v in value.items() if k not in ("regex", "substitution")})
    return said(value)


Words = Callable[[Any], str]

_ROUTE_WORDS: Mapping[str, tuple[str, Words]] = {
    "timeout": ("timeout", _seconds),
    "idle_timeout": ("idle timeout", _seconds),
    "retry": ("retries", _retry),
    "operation": ("name of its spans", said),
    "rewrite": ("rewrite", _rewrite),
    "request_body_buffer_limit": ("bytes of a body kept for a retry", said),
    "mirror": ("mirror", _mirror),
    "hash_on": ("instance chosen by", said),
    "websocket": ("WebSocket", said),
}
_TRACING_WORDS: Mapping[str, tuple[str, Words]] = {
    "sampling": ("sampling", _percent),
    "follows": ("follows the decision of the edge", said),
    "export": ("spans sent as", said),
    "service": ("service name of its spans", said),
    "collector": ("collector of spans", upstream_words),
    "collector_host": ("collector's host", said),
    "collector_path": ("collector's path", said),
    "headers": ("headers to the collector", said),
    "tags": ("tags of spans", _tags),
}
_LISTENER_WORDS: Mapping[str, tuple[str, Words]] = {
    "websocket": ("WebSocket", said),
    "proxy_100_continue": ("Expect: 100-continue passed on to the app", said),
    "control_networks": ("networks that may control Envoy", _networks),
    "trusted_hops": ("trusted hops", said),
    "proxy_protocol": ("PROXY protocol", said),
    "headers_with_underscores": ("header names with underscores", said),
    "escaped_slashes": ("escaped slashes", said),
    "merge_slashes": ("merged slashes", said),
    "http10_host": ("HTTP/1.0", lambda host: f"taken, as for {host}" if host else "refused"),
}
_TABLE_WORDS = {"tell_client": "client's address in x-envoy-external-address"}
# What a record by an earlier release, which does not say it, stands for.
_EARLIER_LISTENER: View = {
    "control_networks": [], "trusted_hops": 1, "proxy_protocol": None, "http10_host": None,
    "headers_with_underscores": "allow", "escaped_slashes": "keep", "merge_slashes": False,
}  # fmt: skip
_EARLIER_EDGE: View = {
    **_EARLIER_LISTENER,
    "headers_with_underscores": "reject", "escaped_slashes": "redirect", "merge_slashes": True,
}  # fmt: skip
_FILTER_WORDS: Mapping[str, tuple[str, Words]] = {
    "rate_limit": ("rate limit", _bucket),
    "max_request_bytes": ("largest request body in bytes", said),
    "cors": ("CORS", said),
    "compression": ("compression", said),
    "fault": ("fault", said),
}
_CLUSTER_WORDS: Mapping[str, tuple[str, Words]] = {
    "connect_timeout": ("connect timeout", _seconds),
    "idle_timeout": ("idle timeout", _seconds),
    "load_balancing": ("load balancing", said),
    "http2": ("HTTP/2", said),
    "headers": ("headers of its requests", _headers),
    "grpc": ("gRPC", said),
    "keepalive": ("dead connections found by", said),
    "type": ("found by", lambda kind: {"eds": "its file", "dns": "DNS"}.get(kind, said(kind))),
}
_NESTED_CLUSTER_WORDS = {
    "circuit_breaker": "circuit breaker",
    "outlier_detection": "outlier detection",
    "health_check": "health check",
    "tls": "TLS",
}
_SECONDS_INSIDE = frozenset({"interval", "timeout", "ejection_time"})
_HOST_KEYS = (
    "address", "zone", "needs_authorities", "proxies", "flask_services", "external_apps", "jaeger",
)  # fmt: skip
_PROXY_KEYS = ("name", "ports", "view")
_APP_WORDS = {"source": "folder", "wsgi": "WSGI app", "listening": "listens on"}
_APP_KEYS = ("name", "environment", "address", "port")


def _differing(old: View, new: View, but: Collection[str] = ()) -> Iterator[tuple[str, Any, Any]]:
    """Yield the keys with other values, in the order of `new`; a missing one counts as None.

    A key that the record of an earlier release lacks, and that is switched off, is no change.
    """
    for key in dict.fromkeys([*new, *old]):
        if key not in old and not new[key]:
            continue
        if key not in but and old.get(key) != new.get(key):
            yield key, old.get(key), new.get(key)


def _arrow(label: str, before: str, after: str) -> str:
    """Say a change. Two values that look the same, as hidden ones do, are said to differ."""
    return f"{label} changes" if before == after else f"{label} {before} -> {after}"


def _nested(label: str, old: Any, new: Any) -> Iterator[str]:
    """Yield what changes in a mapping that may be there or not."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key, before, after in _differing(old, new):
            words = _seconds if key in _SECONDS_INSIDE else said
            yield _arrow(f"{label}: {_words(key)}", words(before), words(after))
    elif isinstance(new, Mapping):
        yield f"{label} on: {said(new)}" if new else f"{label} on"
    else:
        yield f"{label} off"


def _table(
    old: View, new: View, words: Mapping[str, tuple[str, Words]], but: Collection[str] = ()
) -> Iterator[str]:
    """Yield what changes by a table of words; keys it lacks are told by their name."""
    for key, before, after in _differing(old, new, but):
        label, word = words.get(key, (_words(key), said))
        yield _arrow(label, word(before), word(after))


def _tracing(old: View | None, new: View | None) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        yield from _table(old, new, _TRACING_WORDS)
    elif isinstance(new, Mapping):
        yield f"tracing: {', '.join(_tracing_said(new))}"
    else:
        yield _arrow("tracing", "on" if old else "none", said(new))


def _tracing_said(tracing: View) -> Iterator[str]:
    for key in ("sampling", "tags"):
        if tracing.get(key) not in (None, []):
            label, word = _TRACING_WORDS[key]
            yield f"{label} {word(tracing[key])}"


@dataclass
class _Comparison:
    """Collects the changes of one host. `names_...` map mesh addresses to hosts."""

    host: str
    names_before: Mapping[str, str]
    names_after: Mapping[str, str]
    rerender: Rerender
    found: list[Change] = field(default_factory=list)
    moved: tuple[str, str] = ("", "")

    def say(self, part: str, kind: str, text: str) -> None:
        self.found.append(Change(self.host, part, kind, text))

    # A host as a whole

    def gone(self, old: State, *, there: bool) -> None:
        units = ", ".join(sorted({*parts_of(old), *old["left"]}))
        if there:
            text = (
                f"has no part in the mesh any more; these are drained, stopped and removed: {units}"
            )
            self.say("host", REMOVE, text)
            return
        self.say(
            "host",
            NOTE,
            "is no longer in the inventory; vmesh's parts still run there, nothing removes them:"
            f" {units}",
        )

    def first(self, new: State) -> None:
        for proxy in new["host"]["proxies"]:
            self._new_proxy(proxy)
        for service in new["host"]["flask_services"]:
            self._new_flask(service)
        for service in new["host"].get("external_apps") or ():
            self._new_external(service)
        if new["host"]["jaeger"]:
            self._new_jaeger(new["host"]["jaeger"])

    def both(self, old: State, new: State) -> None:
        before, after = old["host"], new["host"]
        self.moved = (before["address"], after["address"])
        if before["address"] != after["address"]:
            self.say("host", CHANGE, f"mesh address {before['address']} -> {after['address']}")
        if before.get("zone") != after.get("zone"):
            zones = said(before.get("zone")), said(after.get("zone"))
            self.say("host", CHANGE, _arrow("zone", *zones))
        for text in _table(before, after, {}, _HOST_KEYS):
            self.say("host", CHANGE, text)
        self._proxies(old, new)
        self._apps(old, new)
        self._jaeger(old, new)
        for unit in left_behind(old, new):
            text = f"{unit} is no longer planned here: it is drained, stopped and removed"
            self.say("host", REMOVE, text)

    # Envoys

    def _proxies(self, old: State, new: State) -> None:
        before, after = _by_name(old["host"]["proxies"]), _by_name(new["host"]["proxies"])
        versions = old["versions"].get("envoy"), new["versions"].get("envoy")
        rewritten_unit = _role_differs(old, new, "envoy")
        if before and after and versions[0] != versions[1]:
            self.say("Envoy", CHANGE, f"version {versions[0]} -> {versions[1]}")
        if before and after and rewritten_unit:
            self.say("Envoy", CHANGE, _role_words("its unit or settings"))
        for label in self._settings(old, new, "envoy_") if before and after else ():
            self.say("Envoy", CHANGE, label)
        for name, proxy in after.items():
            if name not in before:
                self._new_proxy(proxy)
                continue
            self._proxy(before[name], proxy)
            old_files, new_files = old["files"].get(name, {}), new["files"].get(name, {})
            self._rewritten(before[name], proxy, old_files, new_files)
            reasons = []
            if old_files.get(BOOTSTRAP) != new_files.get(BOOTSTRAP):
                reasons.append("another bootstrap")
            if versions[0] != versions[1]:
                reasons.append("another release")
            if rewritten_unit or any(self._settings(old, new, "envoy_")):
                reasons.append("another unit")
            if reasons:
                self.say(_label(proxy), RESTART, f"restart of Envoy ({', '.join(reasons)})")

    def _new_proxy(self, proxy: View) -> None:
        view = proxy["view"]
        listeners = {each["name"]: each for each in view["listeners"]}
        calls = [name.removeprefix(EGRESS) for name in listeners if name.startswith(EGRESS)]
        if proxy["kind"] == "edge":
            public = listeners["public"]
            count = sum(len(table["routes"]) for table in _virtual_hosts(view, "public"))
            text = f"new Envoy for clients on {_at(public)}, with {count} {_plural('route', count)}"
        else:
            text = f"new Envoy in front of its app, port {listeners['ingress']['port']}"
            text += f"; calls {', '.join(calls)}" if calls else ""
        self.say(_label(proxy), ADD, text)

    def _proxy(self, old: View, new: View) -> None:
        begin = len(self.found)
        part, before, after = _label(new), old["view"], new["view"]
        for key, one, other in _differing(old, new, _PROXY_KEYS):
            self.say(part, CHANGE, _arrow(_words(key), said(one), said(other)))
        self._listeners(part, new["kind"], before, after)
        for table in dict.fromkeys([*after["routes"], *before["routes"]]):
            if table in before["routes"] and table in after["routes"]:
                one, other = before["routes"][table], after["routes"][table]
                self._routes(part, table, one, other)
        self._clusters(part, new["kind"], before, after)
        for key, one, other in _differing(before, after, ("listeners", "routes", "clusters")):
            if key == "node":
                for inner, was, becomes in _differing(one or {}, other or {}, ("zone",)):
                    self.say(
                        part, CHANGE, _arrow(f"node's {_words(inner)}", said(was), said(becomes))
                    )
            else:
                self.say(part, CHANGE, _arrow(_words(key), said(one), said(other)))
        if len(self.found) == begin and not self._moved_only(before, after):
            self.say(part, CHANGE, "its configuration changes in its order only; see --diff")

    def _moved_only(self, before: View, after: View) -> bool:
        """Tell whether two views differ in nothing but what the host's own lines tell."""
        old, new = self.moved
        node = {**after["node"], "zone": before["node"].get("zone")}
        text = json.dumps({**after, "node": node}, sort_keys=True)
        return text.replace(f'"{new}"', f'"{old}"') == json.dumps(before, sort_keys=True)

    def _listeners(self, part: str, kind: str, before: View, after: View) -> None:
        old, new = _by_name(before["listeners"]), _by_name(after["listeners"])
        for name, listener in new.items():
            if name not in old:
                url = f" ({_url(name)})" if kind == "service" and name.startswith(EGRESS) else ""
                self.say(part, ADD, f"new {_listener(name)} on {_at(listener)}{url}")
        for name, listener in old.items():
            if name not in new:
                self.say(part, REMOVE, f"no {_listener(name)} on {_at(listener)} any more")
        common = [name for name in new if name in old]
        traced = {
            name: tuple(_tracing(old[name]["tracing"], new[name]["tracing"]))
            for name in common
            if old[name]["tracing"] != new[name]["tracing"]
        }
        alike = len(set(traced.values())) == 1
        for text in next(iter(traced.values())) if alike else ():
            self.say(part, CHANGE, text)
        for name in common:
            texts = list(self._listener_changes(old[name], new[name]))
            texts += () if alike else traced.get(name, ())
            for text in texts:
                self.say(part, CHANGE, f"{_listener(name)}: {text}")

    def _listener_changes(self, old: View, new: View) -> Iterator[str]:
        old = {**(_EARLIER_EDGE if old["edge"] else _EARLIER_LISTENER), **old}
        own = old["address"] in self.names_before and new["address"] in self.names_after
        if (old["address"], old["port"]) != (new["address"], new["port"]):
            if own and old["port"] != new["port"]:
                yield f"port {old['port']} -> {new['port']}"
            elif not own:
                yield f"{_at(old)} -> {_at(new)}"
        if old["trusted_networks"] != new["trusted_networks"]:
            yield _arrow(
                "trusted networks",
                _networks(old["trusted_networks"]),
                _networks(new["trusted_networks"]),
            )
        elif (
            old["internal_networks"] != new["internal_networks"]
            and old["control_networks"] == new["control_networks"]
        ):
            yield _arrow(
                "internal networks",
                _networks(old["internal_networks"]),
                _networks(new["internal_networks"]),
            )
        told = ("address", "port", "trusted_networks", "internal_networks", "tracing")
        yield from _table(old, new, _LISTENER_WORDS, told)

    def _routes(self, part: str, table: str, old: View, new: View) -> None:
        for key, before, after in _differing(old, new, ("virtual_hosts",)):
            text = _arrow(_TABLE_WORDS.get(key, _words(key)), said(before), said(after))
            self.say(part, CHANGE, f"{_table_words(table)}: {text}")
        before_hosts, after_hosts = _by_name(old["virtual_hosts"]), _by_name(new["virtual_hosts"])
        for name, host in after_hosts.items():
            if name not in before_hosts:
                count = len(host["routes"])
                text = f"new virtual host for {said(host['domains'])}"
                self.say(part, ADD, f"{text}, with {count} {_plural('route', count)}")
        for name, host in before_hosts.items():
            if name not in after_hosts:
                self.say(part, REMOVE, f"no virtual host for {said(host['domains'])} any more")
        common = [name for name in after_hosts if name in before_hosts]
        for name in common:
            self._virtual_host(part, table, before_hosts[name], after_hosts[name])
        if [name for name in before_hosts if name in after_hosts] != common:
            self.say(part, CHANGE, "its virtual hosts stand in another order")

    def _virtual_host(self, part: str, table: str, old: View, new: View) -> None:
        site = "" if table != "public" or new["domains"] == ["*"] else f" of {new['domains'][0]}"
        whole = f"all routes{site}" if table == "public" else _table_words(table)
        for text in _table(old, new, {"domains": ("answers for", said)}, ("routes", "filters")):
            self.say(part, CHANGE, f"{whole}: {text}")
        for text in _table(old["filters"], new["filters"], _FILTER_WORDS):
            self.say(part, CHANGE, f"{whole}: {text}")
        before, after = _by_match(old["routes"]), _by_match(new["routes"])
        for key, route in after.items():
            label = _route_label(table, route, site)
            if key not in before:
                self.say(part, ADD, f"new {label}: {_target(route)}")
                continue
            for text in _route_changes(before[key], route):
                self.say(part, CHANGE, f"{label}: {text}")
        for key, route in before.items():
            if key not in after:
                self.say(part, REMOVE, f"no {_route_label(table, route, site)} any more")
        if [key for key in before if key in after] != [key for key in after if key in before]:
            self.say(part, CHANGE, f"{whole}: tried in another order")

    def _clusters(self, part: str, kind: str, before: View, after: View) -> None:
        old, new = _by_name(before["clusters"]), _by_name(after["clusters"])
        listeners = _by_name(after["listeners"]), _by_name(before["listeners"])
        for name, cluster in new.items():
            # A new listener for calls says it already.
            if name not in old and f"{EGRESS}{name}" not in listeners[0]:
                where = ", ".join(
                    _endpoint(each, self.names_after) for each in cluster["endpoints"]
                )
                self.say(
                    part, ADD, f"new upstream {upstream_words(name)}: {where or 'no instance'}"
                )
        for name in old:
            if name not in new and f"{EGRESS}{name}" not in listeners[1]:
                self.say(part, REMOVE, f"no upstream {upstream_words(name)} any more")
        for name in [name for name in new if name in old]:
            what = "calls to " if kind == "service" else ""
            label = f"{what}{upstream_words(name)}"
            self._endpoints(part, upstream_words(name), old[name], new[name])
            for text in _cluster_changes(old[name], new[name]):
                self.say(part, CHANGE, f"{label}: {text}")

    def _endpoints(self, part: str, upstream: str, old: View, new: View) -> None:
        before = _by_place(old["endpoints"], self.names_before)
        after = _by_place(new["endpoints"], self.names_after)
        ports = _ports_changed(before, after)
        if ports:
            self.say(part, CHANGE, f"endpoints of {upstream}: port {ports[0]} -> {ports[1]}")
        for place, endpoint in after.items():
            where = _endpoint(endpoint, self.names_after)
            if place not in before:
                self.say(part, ADD, f"new endpoint of {upstream}: {where}")
                continue
            was = before[place]
            if not ports and _address_of(was) != _address_of(endpoint):
                moved = f"{_address_of(was)} -> {_address_of(endpoint)}"
                self.say(part, CHANGE, f"endpoint of {upstream} on {place}: {moved}")
            for text in _zone_changes(was, endpoint):
                self.say(part, CHANGE, f"endpoint of {upstream}: {where}: {text}")
        for place, endpoint in before.items():
            if place not in after:
                where = _endpoint(endpoint, self.names_before)
                self.say(part, REMOVE, f"endpoint of {upstream} gone: {where}")

    def _rewritten(self, old: View, new: View, before: View, after: View) -> None:
        """Tell of files that today's templates write differently for the same view."""
        if before == after:
            return
        before, after = _unmarked(before), _unmarked(after)
        now = after if old["view"] == new["view"] else self.rerender(old)
        if now is None:
            self.say(
                _label(new),
                CHANGE,
                "what was applied cannot be written again by this version of vmesh, so its files"
                " may differ in more than is told here",
            )
            return
        names = sorted(
            name for name in now.keys() | before.keys() if now.get(name) != before.get(name)
        )
        if names:
            files = [cluster["tls"]["ca_file"] for cluster in old["view"]["clusters"]
                     if cluster.get("tls") and cluster["tls"].get("ca_file")]  # fmt: skip
            cause = f", or {' or '.join(files)} has changed" if files else ""
            self.say(
                _label(new),
                CHANGE,
                f"Envoy's configuration is written differently by this version of vmesh{cause}"
                f" ({shorter(names)})",
            )

    # Apps

    def _apps(self, old: State, new: State) -> None:
        before, after = (
            _by_name(old["host"]["flask_services"]),
            _by_name(new["host"]["flask_services"]),
        )
        rewritten = _role_differs(old, new, "flask_service")
        if before and after and rewritten:
            self.say("Flask apps", CHANGE, _role_words("their unit or settings"))
        settings = self._settings(old, new, "flask_service_") if before and after else []
        for text in settings:
            self.say("Flask apps", CHANGE, text)
        for name, app in after.items():
            if name not in before:
                self._new_flask(app)
                continue
            begin = len(self.found)
            if old["bundles"].get(name) != new["bundles"].get(name):
                self.say(f"app {name}", CHANGE, "new release (code or libraries)")
            self._app(before[name], app, old, new)
            if len(self.found) > begin or rewritten or settings:
                text = "restart of the app; its socket keeps taking requests"
                self.say(f"app {name}", RESTART, text)
        was, becomes = (_by_name(state["host"].get("external_apps") or ()) for state in (old, new))
        for name, app in becomes.items():
            if name in was:
                self._app(was[name], app, old, new)
            else:
                self._new_external(app)
        if was and becomes and _role_differs(old, new, "external_app"):
            self.say("other apps", CHANGE, _role_words("what they are offered"))

    def _app(self, old: View, new: View, old_state: State, new_state: State) -> None:
        part, name = f"app {new['name']}", new["name"]
        words = {key: (label, said) for key, label in _APP_WORDS.items()}
        for text in _table(old, new, words, _APP_KEYS):
            self.say(part, CHANGE, text)
        told = _told_urls(name, old_state, new_state) | {"MESH_ADDRESS", "SERVICE_NAME"}
        before, after = old["environment"], new["environment"]
        for variable in sorted(before.keys() | after.keys()):
            if variable in told:
                continue
            if variable not in before:
                self.say(part, ADD, f"environment {variable} is new")
            elif variable not in after:
                self.say(part, REMOVE, f"environment {variable} is gone")
            elif before[variable] != after[variable]:
                self.say(part, CHANGE, f"environment {variable} changes")

    def _new_flask(self, app: View) -> None:
        self.say(f"app {app['name']}", ADD, f"new Flask app from {app['source']}")

    def _new_external(self, app: View) -> None:
        text = f"stands on the host already, on {app['listening']}"
        self.say(f"app {app['name']}", ADD, text)

    # Jaeger

    def _new_jaeger(self, jaeger: View) -> None:
        self.say("Jaeger", ADD, f"new Jaeger; pages on {jaeger['endpoints']['ui']}")

    def _jaeger(self, old: State, new: State) -> None:
        before, after = old["host"]["jaeger"], new["host"]["jaeger"]
        if after and not before:
            self._new_jaeger(after)
        if not (before and after):
            return
        begin = len(self.found)
        versions = old["versions"].get("jaeger"), new["versions"].get("jaeger")
        if versions[0] != versions[1]:
            self.say("Jaeger", CHANGE, f"version {versions[0]} -> {versions[1]}")
        for name, was, becomes in _differing(before["endpoints"], after["endpoints"]):
            label = {"ui": "pages"}.get(name, _words(name))
            # Of a host that moved, its own line tells the address.
            if name == "ui" or str(was).split(":")[-1] != str(becomes).split(":")[-1]:
                self.say("Jaeger", CHANGE, f"{label} on {said(was)} -> {said(becomes)}")
        for text in _table(before, after, {}, ("endpoints", "ports")):
            self.say("Jaeger", CHANGE, text)
        for text in self._settings(old, new, "jaeger_"):
            self.say("Jaeger", CHANGE, text)
        if _role_differs(old, new, "jaeger"):
            self.say("Jaeger", CHANGE, _role_words("its unit or settings"))
        if len(self.found) > begin or before["endpoints"] != after["endpoints"]:
            self.say("Jaeger", RESTART, "restart of Jaeger")

    @staticmethod
    def _settings(old: State, new: State, prefix: str) -> list[str]:
        before, after = old["settings"], new["settings"]
        return [
            _arrow(f"setting {name}:", said(was), said(becomes))
            for name, was, becomes in _differing(before, after)
            if name.startswith(prefix)
        ]


def _role_differs(old: State, new: State, role: str) -> bool:
    return bool(old["roles"].get(role) != new["roles"].get(role))


def _role_words(what: str) -> str:
    return f"{what} may be written differently by this version of vmesh"


def _by_name(items: Iterable[View]) -> dict[str, View]:
    return {item["name"]: item for item in items}


def _by_match(routes: Iterable[View]) -> dict[str, View]:
    """Return the routes by what they match; of the same match, the first, the second, ..."""
    found: dict[str, View] = {}
    for route in routes:
        key, count = match_words(route["match"]), 1
        while (numbered := f"{key} #{count}") in found:
            count += 1
        found[numbered] = route
    return found


def _virtual_hosts(view: View, table: str) -> Sequence[View]:
    hosts: Sequence[View] = view["routes"].get(table, {}).get("virtual_hosts", ())
    return hosts


def _label(proxy: View) -> str:
    return f"edge {proxy['name']}" if proxy["kind"] == "edge" else f"{proxy['name']}'s Envoy"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _at(listener: View) -> str:
    return f"{listener['address']}:{listener['port']}"


def _listener(name: str) -> str:
    if name.startswith(EGRESS):
        return f"listener for calls to {name.removeprefix(EGRESS)}"
    words = {"public": "clients", "admin": "the admin pages", "ingress": "callers"}
    return f"listener for {words.get(name, name)}"


def _url(listener: str) -> str:
    return url_variable(listener.removeprefix(EGRESS))


def _endpoint(endpoint: View, names: Mapping[str, str]) -> str:
    """Return an endpoint as it is told: its host, where it is one's, and its address."""
    name = names.get(endpoint.get("address", ""))
    return f"{name} {_address_of(endpoint)}" if name else _address_of(endpoint)


def _address_of(endpoint: View) -> str:
    return endpoint.get("pipe") or f"{endpoint['address']}:{endpoint['port']}"


def _by_place(endpoints: Iterable[View], names: Mapping[str, str]) -> dict[str, View]:
    """Return the endpoints by host; by address where no host has it, or one has several."""
    found: dict[str, View] = {}
    for each in endpoints:
        place = names.get(each.get("address", ""), _address_of(each))
        found[_address_of(each) if place in found else place] = each
    return found


def _ports_changed(old: Mapping[str, View], new: Mapping[str, View]) -> tuple[int, int] | None:
    """Return the ports of before and after where all endpoints got another, and only that."""
    pairs = [(old[place], new[place]) for place in old if place in new]
    ports = {(was.get("port"), becomes.get("port")) for was, becomes in pairs}
    if len(ports) != 1 or any(was.get("address") != now.get("address") for was, now in pairs):
        return None
    was, becomes = ports.pop()
    return (was, becomes) if was and becomes and was != becomes else None


def _zone_changes(old: View, new: View) -> Iterator[str]:
    zones = old.get("zone"), new.get("zone")
    if zones[0] != zones[1]:
        yield _arrow("zone", said(zones[0]), said(zones[1]))
    first = [not endpoint.get("priority") for endpoint in (old, new)]
    if first[0] != first[1]:
        yield "used first now" if first[1] else "used last now"


def _unmarked(files: View) -> dict[str, str]:
    """Return hashes without the mark of those made of a text with hidden values."""
    return {path: sha256.removeprefix(MASKED) for path, sha256 in files.items()}


def _told_urls(service: str, old: State, new: State) -> set[str]:
    """Return the variables of the upstreams' URLs that a change of a listener tells."""
    before, after = (
        {
            listener["name"]: _at(listener)
            for proxy in state["host"]["proxies"]
            if proxy["name"] == service
            for listener in proxy["view"]["listeners"]
            if listener["name"].startswith(EGRESS)
        }
        for state in (old, new)
    )
    names = before.keys() | after.keys()
    return {_url(name) for name in names if before.get(name) != after.get(name)}


def _table_words(table: str) -> str:
    if table.startswith(EGRESS):
        return f"calls to {table.removeprefix(EGRESS)}"
    return {"ingress": "requests to the app", "admin": "admin pages"}.get(table, f"routes {table}")


def _route_label(table: str, route: View, site: str) -> str:
    words = match_words(route["match"])
    if table == "public":
        return f"route {words}{site}"
    whole = words == "/"
    return f"{_table_words(table)}" if whole else f"{_table_words(table)}, {words}"


def _target(route: View) -> str:
    """Return in words where a route leads."""
    if own := own_answer(route):
        return own
    shares = target_shares(route)
    return "to " + ", ".join(
        upstream_words(name) if share is None else f"{upstream_words(name)} {share:.4g} %"
        for name, share in shares.items()
    )


def _route_changes(old: View, new: View) -> Iterator[str]:
    if _target(old) != _target(new):
        yield f"{_target(old)} -> {_target(new)}"
    elif (old.get("answer") or {}).get("body") != (new.get("answer") or {}).get("body"):
        yield "body of the answer changes"
    elif any(old.get(key) != new.get(key) for key in ("weights", "redirect", "answer")):
        yield "written in another way, to the same effect"
    told = ("cluster", "weights", "redirect", "answer", "match", "tracing", "filters")
    if ("timeout" in old) == ("timeout" in new):  # a route to an upstream before and after
        yield from _table(old, new, _ROUTE_WORDS, told)
    if old.get("tracing") != new.get("tracing"):
        yield from _tracing(old.get("tracing"), new.get("tracing"))
    yield from _table(old.get("filters") or {}, new.get("filters") or {}, _FILTER_WORDS)


def _cluster_changes(old: View, new: View) -> Iterator[str]:
    for key, label in _NESTED_CLUSTER_WORDS.items():
        if old.get(key) != new.get(key):
            yield from _nested(label, old.get(key), new.get(key))
    told = ("endpoints", *_NESTED_CLUSTER_WORDS)
    yield from _table(old, new, _CLUSTER_WORDS, told)


def shorter(names: Sequence[str], most: int = 3) -> str:
    """Return the first few names and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
