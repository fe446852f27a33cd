"""The views of proxies that speak mTLS: whom they trust, whom they let in, what they tell.

The handshake trusts hosts: those of a service's callers, and those of an upstream. Each request is
judged by the name of the proxy that sends it, in the route table, so that a change of `calls` acts
on open connections and cuts none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from vmesh.compile import identities
from vmesh.compile.host_spec import GUARD, JAEGER, HostSpec, ProxySpec, View
from vmesh.compile.listener_views import distinct, network
from vmesh.compile.security import MTLS, PLAINTEXT, SecurityPlan, callee
from vmesh.model.access_types import WATCH
from vmesh.model.types import Mesh

INGRESS = "ingress"
# The names of the bundles, and of their files. No DNS label has an underscore, so no service's
# name makes a bundle that is called as another secret of its proxy.
CALLERS = "callers"
_UPSTREAM = "upstream_"


@dataclass(frozen=True)
class Trust:
    """Who may call whom, and by which certificates that is proven.

    hosts: proxy -> the hosts that run it
    """

    mesh: Mesh
    hosts: Mapping[str, Iterable[str]]
    domain: str
    plan: SecurityPlan

    @cached_property
    def _callers(self) -> dict[str, list[tuple[str, str]]]:
        return {
            service: sorted(
                {
                    *self.plan.still.get(service, ()),
                    *((host, name) for name in names for host in self.hosts[name]),
                }
            )
            for service, names in identities.callers(self.mesh).items()
        }

    def callers(self, service: str, host: str) -> View:
        """Return the bundle by which an instance of `service` on `host` knows its callers.

        It calls itself to see whether it answers. Without authorization everybody may call.
        """
        hosts = {host, *(each for each, _ in self._callers[service])}
        if self.mesh.security.authorization == WATCH:
            hosts.update(each for found in self.hosts.values() for each in found)
        return self._bundle(hosts, ())

    def senders(self) -> View:
        """Return the bundle by which Jaeger's guard knows who sends spans: all proxies."""
        gone = {host for host, _ in self.plan.still.get(JAEGER, ())}
        return self._bundle(gone.union(*self.hosts.values()), ())

    def upstream(self, service: str) -> View:
        """Return the bundle by which callers know the instances of `service`."""
        return self._bundle(self.hosts[service], [service])

    def _bundle(self, hosts: Iterable[str], proxies: Iterable[str]) -> View:
        """Return who is trusted: anchors of hosts, and if `proxies` are named, those there alone.

        Where no anchor is known the bundle is empty, which Envoy refuses: it trusts nobody then.
        """
        trusted = sorted(set(hosts) - set(self.mesh.security.revoked))
        return {
            "anchors": {h: self.plan.anchors[h] for h in trusted if h in self.plan.anchors},
            "identities": [
                identities.identity(host, self.domain, proxy)
                for proxy in proxies
                for host in trusted
            ],
            "accept_expired": self.mesh.security.accept_expired,
        }

    def rules(self, service: str) -> View:
        """Return by which names a service knows those whom it lets in, and the hosts it refuses."""
        return {
            "callers": sorted({service, *(name for _, name in self._callers[service])}),
            "revoked": [
                identities.identity(host, self.domain, "")
                for host in sorted(self.mesh.security.revoked)
            ],
            "watch": self.mesh.security.authorization == WATCH,
        }


def with_security(
    hosts: Mapping[str, HostSpec], mesh: Mesh, domain: str, plan: SecurityPlan
) -> dict[str, HostSpec]:
    """Return the hosts with proxies that speak as `plan` says."""
    running: dict[str, list[str]] = {}
    for host, spec in hosts.items():
        for proxy in spec.proxies:
            running.setdefault(proxy.name, []).append(host)
    trust = Trust(mesh, running, domain, plan)
    return {
        host: replace(
            spec,
            proxies=tuple(_secured(_called(each, host, trust), trust) for each in spec.proxies),
        )
        for host, spec in hosts.items()
    }


def _secured(proxy: ProxySpec, trust: Trust) -> ProxySpec:
    """Return a proxy whose clusters speak mTLS to the services that are to be spoken to so."""
    upstreams = {
        each["name"]: called
        for each in proxy.view["clusters"]
        if (called := callee(each)) and trust.plan.speak.get(called) == MTLS
    }
    if not upstreams:
        return proxy
    clusters = [
        {**each, "mtls": upstream_bundle(upstreams[each["name"]])}
        if each["name"] in upstreams
        else each
        for each in proxy.view["clusters"]
    ]
    bundles = {upstream_bundle(name): trust.upstream(name) for name in upstreams.values()}
    trusted = {**proxy.view.get("trust", {}), **bundles}
    return replace(proxy, view={**proxy.view, "clusters": clusters, "trust": trusted})


def _guarding(proxy: ProxySpec, trust: Trust) -> ProxySpec:
    """Return Jaeger's guard, which takes spans of all proxies; it reads no request."""
    mtls: View = {
        "accept": trust.plan.accept[proxy.name],
        "bundle": CALLERS,
        "plaintext_from": [
            network(str(each)) for each in distinct(trust.mesh.tracing.plaintext_from)
        ],
        "identify_callers": False,
    }
    listeners = [{**each, "mtls": mtls} for each in proxy.view["listeners"]]
    view = {**proxy.view, "listeners": listeners, "trust": {CALLERS: trust.senders()}}
    return replace(proxy, view=view)


def _called(proxy: ProxySpec, host: str, trust: Trust) -> ProxySpec:
    """Return a service's proxy, or Jaeger's, that accepts what it is to accept."""
    if proxy.kind == GUARD:
        return _guarding(proxy, trust)
    service = trust.mesh.services.get(proxy.name)
    accept = trust.plan.accept.get(proxy.name, PLAINTEXT)
    if service is None or accept == PLAINTEXT:
        return proxy
    mtls: View = {
        "accept": accept,
        "bundle": CALLERS,
        "plaintext_from": [network(str(each)) for each in distinct(service.plaintext_from)],
        "identify_callers": service.identify_callers,
    }
    listeners = [
        {**each, "mtls": mtls} if each["name"] == INGRESS else each
        for each in proxy.view["listeners"]
    ]
    table = proxy.view["routes"][INGRESS]
    filters = {"callers": trust.rules(service.name)}
    site = [{**each, "filters": {**each["filters"], **filters}} for each in table["virtual_hosts"]]
    return replace(
        proxy,
        view={
            **proxy.view,
            "listeners": listeners,
            "routes": {**proxy.view["routes"], INGRESS: {**table, "virtual_hosts": site}},
            "trust": {CALLERS: trust.callers(service.name, host)},
        },
    )


def upstream_bundle(service: str) -> str:
    """Return the name of the bundle by which callers know a service."""
    return f"{_UPSTREAM}{service}"
