"""How a run changes the way proxies speak: from what the hosts have to a plan for each stage.

Pure. The actions mesh_rollout and mesh_stage make it of the same answers and records, so all steps
of a run agree.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vmesh.base.pem import digests_of, newest
from vmesh.compile.host_spec import MeshSpec, ProxySpec
from vmesh.compile.security import BOTH, MTLS, PLAINTEXT, SecurityPlan, callee
from vmesh.compile.security_views import CALLERS, INGRESS
from vmesh.rollout.record import HostRecord
from vmesh.rollout.stages import Reports, Seen, Stages, Wanted, Wire, stages

# The names of the stages, in their order.
ROLLOUT, SPEAK, NARROW = "rollout", "speak", "narrow"
# A listener of Jaeger's guard has it.
_HANDS_ON = "hands_on_to"


@dataclass(frozen=True)
class SecurityRun:
    """What a run does, and the anchors (PEM, by host) by which it is proven who speaks.

    turned: the hosts that sign by their newest anchor before the last stage, which ends the trust
    in the former one
    """

    stages: Stages
    anchors: Mapping[str, str]
    turned: Collection[str] = ()

    @classmethod
    def of(  # noqa: PLR0913, PLR0917 - what a run is decided by
        cls,
        spec: MeshSpec,
        anchors: Mapping[str, str],
        answers: Mapping[str, Mapping[str, Any]],
        recorded: Mapping[str, HostRecord],
        plaintext: Mapping[str, Collection[str]] | None = None,
        turned: Collection[str] = (),
    ) -> SecurityRun:
        """Return what a run does for the mesh of `spec`, however that was compiled.

        answers: host -> what host_info told, of those that take part
        recorded: host -> its record, of all that have one
        plaintext: as for `stages`
        """
        digests = {host: digest_of(pem) for host, pem in anchors.items()}
        wanted = Wanted.of(spec, digests)
        found = stages(wanted, reports(answers, recorded), answers.keys(), plaintext)
        return cls(found, dict(anchors), turned)

    def plan(self, stage: str) -> SecurityPlan:
        """Return how the mesh speaks once a stage is done."""
        found = self.stages
        wire: Wire = {ROLLOUT: found.rollout, SPEAK: found.speak, NARROW: found.narrow}[stage]
        forgotten: Collection[str] = found.forget if stage == NARROW else ()
        still = {name: callers for name, callers in found.gone.items() if name not in forgotten}
        turned = self.turned if stage == NARROW else ()
        anchors = {h: newest(pem) if h in turned else pem for h, pem in self.anchors.items()}
        return SecurityPlan(anchors, wire.accept, wire.speak, still)


def reports(
    answers: Mapping[str, Mapping[str, Any]], recorded: Mapping[str, HostRecord]
) -> Reports:
    """Return host -> proxy -> how it speaks: as the host tells, else as it was recorded."""
    return {
        **{
            host: {proxy["name"]: seen_in(proxy["view"]) for proxy in state["host"]["proxies"]}
            for host, state in recorded.items()
        },
        **{
            host: {name: Seen.told(each) for name, each in answer["security"].items()}
            for host, answer in answers.items()
        },
    }


def all_plaintext(found: Reports) -> bool:
    """Tell whether no proxy accepts or speaks mTLS."""
    return all(seen.is_plaintext() for proxies in found.values() for seen in proxies.values())


def seen_in(view: Mapping[str, Any]) -> Seen:
    """Return how a proxy with this view speaks.

    plugins/module_utils/envoy_security.py finds the same in the files that are rendered from it.
    """
    called = next((each for each in view["listeners"] if _is_called(each)), None)
    mtls = (called or {}).get("mtls") or {}
    trusted = view.get("trust", {}).get(CALLERS, {}).get("anchors", {})
    return Seen(
        mtls.get("accept", PLAINTEXT) if called else None,
        {
            name: MTLS if each.get("mtls") else PLAINTEXT
            for each in view["clusters"]
            if (name := callee(each)) is not None
        },
        frozenset(digest for pem in trusted.values() for digest in digests_of(pem)),
        None if called and _HANDS_ON in called else frozenset(_let_in(view)),
    )


def distrusted(view: Mapping[str, Any], anchors: Mapping[str, str]) -> list[str]:
    """Return the hosts that a proxy with this view trusts by other anchors than they have.

    anchors: host -> PEM, of today
    """
    return sorted(
        host
        for host, digests in trusting(view).items()
        if host in anchors and not set(digests_of(anchors[host])) <= digests
    )


def trusting(view: Mapping[str, Any]) -> dict[str, set[str]]:
    """Return host -> digests of the anchors by which a proxy with this view trusts it everywhere.

    Where it trusts it by different ones, these are those that all its bundles have.
    """
    found: dict[str, set[str]] = {}
    for bundle in view.get("trust", {}).values():
        for host, pem in bundle["anchors"].items():
            digests = set(digests_of(pem))
            found[host] = found.get(host, digests) & digests
    return found


def _is_called(listener: Mapping[str, Any]) -> bool:
    return listener["name"] == INGRESS or _HANDS_ON in listener


def _let_in(view: Mapping[str, Any]) -> Iterator[str]:
    for site in view["routes"].get(INGRESS, {}).get("virtual_hosts", ()):
        yield from (site.get("filters", {}).get("callers") or {}).get("callers", ())


def digest_of(pem: str) -> str:
    """Return what stands for the anchor of a host.

    In a rollover that is the older one, which is trusted wherever the newer one is.
    """
    return digests_of(pem)[0]


def same(one: SecurityPlan, other: SecurityPlan, services: Collection[str]) -> bool:
    """Tell whether two plans are the same for these services."""
    return bool(_told(one, services) == _told(other, services))


def _told(plan: SecurityPlan, services: Collection[str]) -> Any:
    encrypted = {
        name: (
            plan.accept.get(name, PLAINTEXT),
            plan.speak.get(name, PLAINTEXT),
            frozenset(plan.still.get(name, ())),
        )
        for name in services
    }
    plain = all(each[:2] == (PLAINTEXT, PLAINTEXT) for each in encrypted.values())
    # Nobody reads an anchor where nobody speaks mTLS.
    return encrypted, {} if plain else dict(plan.anchors)


def differing(before: MeshSpec, after: MeshSpec) -> dict[str, list[str]]:
    """Return host -> the names of its proxies that `after` gives another configuration, or none.

    None has Jaeger's guard where nobody speaks mTLS any more.
    """
    found: dict[str, list[str]] = {}
    for host, spec in after.hosts.items():
        there = {proxy.name: proxy for proxy in spec.proxies}
        known = before.hosts[host].proxies
        names = [proxy.name for proxy in known if there.get(proxy.name) != proxy]
        if names:
            found[host] = names
    return found


def needs_identity(proxies: Collection[ProxySpec]) -> bool:
    """Tell whether any of these proxies speaks or accepts mTLS."""
    return any(
        seen.accepts in {MTLS, BOTH} or MTLS in seen.speaks.values()
        for seen in (seen_in(proxy.view) for proxy in proxies)
    )
