"""The stages by which a mesh changes how its proxies speak, so that no request fails on the way.

Pure. A service accepts plaintext, mTLS or both; those who call it speak one of the two. Each host
changes at a time of its own. So a way of speaking is accepted everywhere before the first caller
uses it, and is refused only when the last caller has left it:

grant    who is called knows those who are about to call it
rollout  who is called accepts what it accepted so far and what the mode wants as well; everybody
         speaks as before
speak    callers speak as the mode wants, to the services that accept it on all their hosts
narrow   what nobody speaks any more is refused, and who does not call any more is forgotten

Between two stages each host that takes part has completed the one before: that is the barrier. Each
service is on its way alone, so a host that takes no part holds back only what it runs and what it
calls. The stages follow from what the hosts have, not from what an earlier run did: a run that was
interrupted is completed by the next.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vmesh.base.words import shortened
from vmesh.compile.host_spec import GUARD, JAEGER, MeshSpec
from vmesh.compile.security import BOTH, GOALS, MTLS, PLAINTEXT, callee, callees

Ways = frozenset[str]
_WAYS: Mapping[str, Ways] = {
    PLAINTEXT: frozenset({PLAINTEXT}),
    MTLS: frozenset({MTLS}),
    BOTH: frozenset({PLAINTEXT, MTLS}),
}
_NAMES = {ways: name for name, ways in _WAYS.items()}
# What a person calls a service that accepts it.
_STATES = {PLAINTEXT: "in plaintext", MTLS: "strict", BOTH: "permissive"}


@dataclass(frozen=True)
class Seen:
    """How a proxy speaks, as its files on the host say.

    accepts: plaintext, mtls or both; None for a proxy that no other calls, such as an edge
    speaks: service that it calls -> plaintext or mtls
    knows: digests of the anchors of those who may call it by mTLS
    lets: names of the proxies that may call it by mTLS; None where each that it knows may
    """

    accepts: str | None = None
    speaks: Mapping[str, str] = field(default_factory=dict)
    knows: frozenset[str] = frozenset()
    lets: frozenset[str] | None = frozenset()

    @classmethod
    def told(cls, answer: Mapping[str, Any]) -> Seen:
        """Return what a host has told of a proxy (plugins/module_utils/envoy_security.py)."""
        return cls(
            answer["accepts"],
            dict(answer["speaks"]),
            frozenset(answer["knows"]),
            None if answer["lets"] is None else frozenset(answer["lets"]),
        )

    def speaks_like(self, other: Seen) -> bool:
        """Tell whether both accept the same and speak in the same way to those that both call."""
        common = self.speaks.keys() & other.speaks
        return self.accepts == other.accepts and all(
            self.speaks[name] == other.speaks[name] for name in common
        )

    def is_plaintext(self) -> bool:
        """Tell whether the proxy neither accepts nor speaks mTLS."""
        return self.accepts in {None, PLAINTEXT} and MTLS not in self.speaks.values()


# host -> proxy -> what it has; a proxy that is not there yet is not named.
Reports = Mapping[str, Mapping[str, Seen]]


@dataclass(frozen=True)
class Wanted:
    """What the inventory says.

    mode: off, permissive or strict
    hosts: proxy -> the hosts that have it
    calls: proxy -> the services of the mesh that it calls
    services: the proxies that others may call, not the edges; Jaeger's is one of them
    anchors: host -> the digest of its anchor, where that is known
    """

    mode: str
    hosts: Mapping[str, Collection[str]]
    calls: Mapping[str, Collection[str]]
    services: Collection[str]
    anchors: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, spec: MeshSpec, anchors: Mapping[str, str]) -> Wanted:
        """Return what a compiled mesh says, with the digests of the anchors that are known.

        In plaintext nobody stands before Jaeger, and yet proxies call it.
        """
        hosts: dict[str, list[str]] = {}
        calls: dict[str, list[str]] = {}
        services = frozenset(callees(spec.mesh))
        for host, each in spec.hosts.items():
            for proxy in each.proxies:
                if proxy.kind != GUARD:
                    hosts.setdefault(proxy.name, []).append(host)
                called = map(callee, proxy.view["clusters"])
                calls[proxy.name] = [name for name in called if name in services]
            if each.jaeger is not None:
                hosts.setdefault(JAEGER, []).append(host)
        return cls(spec.mesh.security.mtls, hosts, calls, services, anchors)

    def callers(self, service: str) -> list[tuple[str, str]]:
        """Return host and name of each proxy that is to call `service`."""
        names = sorted(name for name, calls in self.calls.items() if service in calls)
        return [(host, name) for name in names for host in sorted(self.hosts.get(name, ()))]


@dataclass(frozen=True)
class Wire:
    """How the mesh speaks in a stage.

    accept: service -> what it accepts: plaintext, mtls or both
    speak: service -> how it is spoken to: plaintext or mtls
    """

    accept: Mapping[str, str]
    speak: Mapping[str, str]


@dataclass(frozen=True)
class Stages:
    """What a run does.

    grant: host -> those of its proxies that must know new callers before these are there
    rollout, speak, narrow: how the mesh speaks in each of these stages
    gone: service -> (host, proxy) of those that call it and that the inventory has no more
    forget: the services that no longer know who called them before, from the last stage on
    refused: sentences on calls that this run would make fail; with any, it must not begin
    stays: sentences on what does not become what the mode wants
    """

    grant: Mapping[str, tuple[str, ...]]
    rollout: Wire
    speak: Wire
    narrow: Wire
    gone: Mapping[str, frozenset[tuple[str, str]]]
    forget: frozenset[str]
    refused: tuple[str, ...] = ()
    stays: tuple[str, ...] = ()


def stages(
    wanted: Wanted,
    reports: Reports,
    taking_part: Collection[str],
    plaintext: Mapping[str, Collection[str]] | None = None,
) -> Stages:
    """Return the stages that bring the mesh as near to `wanted` as those who take part allow.

    reports: of all hosts that are known to have proxies, whether they take part or not
    plaintext: service -> the addresses that still speak plaintext to it, once that is known;
        such a service goes on accepting it
    """
    left = {name for seen in reports.values() for name, each in seen.items() if each.accepts}
    courses = [
        _Course(name, wanted, reports, frozenset(taking_part), (plaintext or {}).get(name, ()))
        for name in sorted({*wanted.services, *left})
    ]
    grant: dict[str, list[str]] = {}
    for course in courses:
        for host in course.to_grant():
            grant.setdefault(host, []).append(course.service)
    before = {course.service: course.spoken() for course in courses}
    after = {course.service: course.to_speak() for course in courses}
    wide = {course.service: _NAMES[course.wide()] for course in courses}
    narrow = {course.service: _NAMES[course.narrow()] for course in courses}
    return Stages(
        {host: tuple(names) for host, names in sorted(grant.items())},
        Wire(wide, before),
        Wire(wide, after),
        Wire(narrow, after),
        {course.service: found for course in courses if (found := course.gone())},
        frozenset(course.service for course in courses if not course.still_called()),
        tuple(sentence for course in courses for sentence in course.refused()),
        tuple(sentence for course in courses for sentence in course.stays()),
    )


@dataclass(frozen=True)
class _Course:
    """The way of one service and of those who call it."""

    service: str
    wanted: Wanted
    reports: Reports
    taking_part: frozenset[str]
    plaintext: Collection[str]

    @property
    def goal(self) -> Ways:
        return _WAYS[GOALS[self.wanted.mode][0]]

    @property
    def spoken_goal(self) -> str:
        return GOALS[self.wanted.mode][1]

    def instances(self) -> dict[str, Seen]:
        """Return host -> what the service has there now."""
        return {
            host: seen[self.service]
            for host, seen in self.reports.items()
            if self.service in seen and seen[self.service].accepts is not None
        }

    def staying(self) -> dict[str, Seen]:
        """Return those of its instances that the inventory still has."""
        hosts = self.wanted.hosts.get(self.service, ())
        return {host: seen for host, seen in self.instances().items() if host in hosts}

    def calling(self) -> dict[tuple[str, str], str]:
        """Return (host, proxy) -> how it speaks to the service now."""
        return {
            (host, name): proxy.speaks[self.service]
            for host, seen in self.reports.items()
            for name, proxy in seen.items()
            if self.service in proxy.speaks
        }

    def spoken(self) -> str:
        """Return how callers speak until all that they call accept what the mode wants."""
        everywhere = _WAYS[BOTH].intersection(*map(_accepted, self.staying().values()))
        now = set(self.calling().values())
        if len(now) == 1 and now <= everywhere:
            return now.pop()
        # Nobody calls it so far, or an earlier run was interrupted between two callers.
        return (
            self.spoken_goal
            if self.spoken_goal in everywhere or not everywhere
            else min(everywhere)
        )

    def wide(self) -> Ways:
        """Return what the service accepts until its last caller speaks as the mode wants."""
        now = frozenset[str]().union(*map(_accepted, self.instances().values()))
        return now | self.goal | {self.spoken_goal, self.spoken()}

    def to_speak(self) -> str:
        return self.spoken() if self.deaf() else self.spoken_goal

    def deaf(self) -> list[str]:
        """Return the hosts of the service that may not accept what callers are to speak."""
        if self.spoken() == self.spoken_goal:
            return []
        there = self.instances()
        return [
            host
            for host in sorted(set(self.wanted.hosts.get(self.service, ())) - self.taking_part)
            if host not in there
            or self.spoken_goal not in _accepted(there[host])
            or (self.spoken_goal == MTLS and self.strangers(there[host]))
        ]

    def narrow(self) -> Ways:
        """Return what the service accepts in the end."""
        wide = self.wide()
        if (
            self.to_speak() not in self.goal
            or self.others()
            or (self.plaintext and PLAINTEXT not in self.goal and PLAINTEXT in wide)
        ):
            return wide
        return self.goal

    def others(self) -> list[str]:
        """Return the hosts whose callers may go on speaking what the mode does not want."""
        if self.wide() == self.goal:
            return []
        found = {host for (host, _), way in self.calling().items() if way not in self.goal}
        found |= {host for host, _ in self.wanted.callers(self.service)} - self.reports.keys()
        return sorted((found & self.in_inventory()) - self.taking_part)

    def still_called(self) -> list[str]:
        """Return the hosts with callers that the inventory has no more, and that go on calling."""
        hosts = {host for host, _ in self.gone()}
        return sorted((hosts & self.in_inventory()) - self.taking_part)

    def gone(self) -> frozenset[tuple[str, str]]:
        """Return (host, proxy) of those that call the service and that the inventory has no more.

        A host that runs another proxy now is one of them too.
        """
        return frozenset(self.calling().keys() - set(self.wanted.callers(self.service)))

    def in_inventory(self) -> set[str]:
        return {host for hosts in self.wanted.hosts.values() for host in hosts}

    def strangers(self, seen: Seen) -> list[tuple[str, str]]:
        """Return the callers (host, proxy) that an instance would refuse to hear by mTLS.

        Of a host that never told its anchor nothing can be heard.
        """
        return [
            (host, name)
            for host, name in self.wanted.callers(self.service)
            if (anchor := self.wanted.anchors.get(host)) is not None
            and (anchor not in seen.knows or (seen.lets is not None and name not in seen.lets))
        ]

    def to_grant(self) -> list[str]:
        """Return the hosts where an instance must know new callers before these are there."""
        if self.spoken() != MTLS:
            return []
        return [
            host
            for host, seen in self.staying().items()
            if host in self.taking_part and self.strangers(seen)
        ]

    def refused(self) -> Iterator[str]:
        """Yield sentences on calls that an instance which takes no part would refuse."""
        # Spans that are lost are no reason against a change.
        if self.service == JAEGER:
            return
        for host, caller in self.unheard():
            yield (
                f"{caller[1]} on {caller[0]} is to call {self.service}, and"
                f" {self.service} on {host} does not know it: {host} takes no part in this"
                f" run, so it would refuse these calls. Have {host} take part, or take it"
                " out of the inventory."
            )

    def unheard(self) -> Iterator[tuple[str, tuple[str, str]]]:
        """Yield the host of an instance that takes no part, and a new caller that it refuses."""
        if self.spoken() != MTLS:
            return
        for host, seen in self.staying().items():
            if host not in self.taking_part:
                for caller in self.strangers(seen):
                    if caller[0] in self.taking_part:
                        yield host, caller

    def stays(self) -> Iterator[str]:
        """Yield why the service does not become what the mode wants."""
        new, old = ("mTLS", "plaintext") if self.spoken_goal == MTLS else ("plaintext", "mTLS")
        state = f"{self.service} stays {_STATES[_NAMES[self.narrow()]]}"
        if self.service == JAEGER and (unheard := list(self.unheard())):
            callers = sorted({caller for _, (caller, _) in unheard})
            yield (
                f"jaeger on {unheard[0][0]} takes no spans of {shortened(callers)}, which it does"
                f" not know: it takes no part in this run. Run site.yml again with"
                f" {unheard[0][0]}."
            )
        if deaf := self.deaf():
            yield (
                f"{self.service} is called in {old} as before: {shortened(deaf)} took no part, and"
                f" {self.service} there may not accept {new} yet."
            )
        elif self.narrow() == self.goal:
            return
        elif others := self.others():
            yield f"{state}: {shortened(others)} took no part and may call it in {old}."
        elif self.plaintext:
            yield f"{state}: {shortened(sorted(self.plaintext))} spoke plaintext."


def _accepted(seen: Seen) -> Ways:
    return _WAYS[seen.accepts] if seen.accepts else frozenset()
