"""The order in which hosts take part in a change: what is new first, then canaries, then batches.

Pure. What differs between a host's recorded state and the one that the inventory means decides
whether it takes part at all, and whom it must not share a batch with.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vmesh.compile.host_spec import GUARD, JAEGER
from vmesh.model.types import RolloutPolicy
from vmesh.rollout.record import HostRecord, left_behind, parts_of


@dataclass(frozen=True)
class Member:
    """A host that a change concerns.

    kinds: what runs there, each of which wants canaries of its own
    exclusive: those of `kinds` whose app is renewed: of their instances, one at a time
    """

    host: str
    kinds: frozenset[str]
    exclusive: frozenset[str] = frozenset()


@dataclass(frozen=True)
class RolloutPlan:
    """Who does what when.

    new: host -> its parts that are not there yet; they come first and disturb nobody
    batches: hosts whose parts change, in the order in which they do
    steady: hosts on which nothing should change; they come last, with the last batch
    removed: host -> parts that left the inventory; they go when all else is done
    """

    new: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    batches: tuple[tuple[str, ...], ...] = ()
    steady: tuple[str, ...] = ()
    removed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def rollout(
    wanted: Mapping[str, HostRecord],
    recorded: Mapping[str, HostRecord],
    there: Mapping[str, Collection[str]],
    settings: RolloutPolicy,
    interrupted_on: Collection[str] = (),
) -> RolloutPlan:
    """Return the order for the hosts of `wanted`, which stays as it is within a batch.

    wanted, recorded: host -> its state (vmesh.rollout.record) as the inventory means it, and as it
        was applied last; a host without a record is taken for one on which all changes
    there: host -> the parts that it answered it has, by the names of vmesh.rollout.record.parts_of
    interrupted_on: hosts on which an earlier run did not come to its end
    """
    new: dict[str, tuple[str, ...]] = {}
    removed: dict[str, tuple[str, ...]] = {}
    steady: list[str] = []
    members: list[Member] = []
    for host, state in wanted.items():
        before = recorded.get(host)
        planned = parts_of(state)
        if missing := _new_parts(state, there[host]):
            new[host] = missing
        # What was never recorded may be another inventory's, so it is left alone.
        if gone := tuple(part for part in left_behind(before, state) if part in there[host]):
            removed[host] = gone
        if len(missing) == len(planned):
            continue  # a bare host is done when its parts are there
        unchanged = before is not None and not missing and not differs(before, state)
        if unchanged and host not in interrupted_on:
            steady.append(host)
        else:
            members.append(Member(host, kinds(state), renewed(before, state)))
    return RolloutPlan(new, batches(members, settings), tuple(steady), removed)


def in_the_way(
    wanted: Mapping[str, HostRecord],
    recorded: Mapping[str, HostRecord],
    there: Mapping[str, Collection[str]],
) -> list[str]:
    """Return, in sentences, which new Envoys want a port that another one on the host has.

    wanted, recorded, there: as for `rollout`. What is new begins before anything else changes.
    """
    found = []
    for host, state in wanted.items():
        proxies = recorded.get(host, _NOTHING)["host"]["proxies"]
        running = [proxy for proxy in proxies if _part(proxy) in there[host]]
        for proxy in state["host"]["proxies"]:
            if _part(proxy) in there[host]:
                continue
            for other in running:
                ports = sorted(
                    {
                        mine[1]
                        for mine in _places(proxy)
                        for theirs in _places(other)
                        if _overlap(mine, theirs)
                    }
                )
                if ports:
                    numbers = ", ".join(map(str, ports))
                    found.append(
                        f"On {host} {_called(other)} listens on port {numbers}, which the new"
                        f" {_called(proxy)} is to have."
                    )
    return found


def _new_parts(state: HostRecord, there: Collection[str]) -> tuple[str, ...]:
    """Return the parts of a host that are not there, and that can come before all else.

    Jaeger's guard cannot where Jaeger has its ports: the two change together.
    """
    late = {_part(each) for each in state["host"]["proxies"] if each.get("kind") == GUARD}
    waiting = late if JAEGER in there else set()
    return tuple(part for part in parts_of(state) if part not in {*there, *waiting})


_NOTHING: HostRecord = {"host": {"proxies": []}}
_ANY = "0.0.0.0"


def _part(proxy: Mapping[str, Any]) -> str:
    return f"envoy@{proxy['name']}"


def _called(proxy: Mapping[str, Any]) -> str:
    return f"{proxy['kind']} {proxy['name']}"


def _places(proxy: Mapping[str, Any]) -> set[tuple[str, int]]:
    listeners = proxy["view"].get("listeners", ())
    return {(listener["address"], listener["port"]) for listener in listeners}


def _overlap(one: tuple[str, int], other: tuple[str, int]) -> bool:
    return one[1] == other[1] and (one[0] == other[0] or _ANY in (one[0], other[0]))


def rollback(states: Mapping[str, HostRecord], settings: RolloutPolicy) -> RolloutPlan:
    """Return the order in which hosts with these states go back to earlier ones.

    What they go back to is known to them alone, so each app counts as renewed.
    """
    members = [Member(host, kinds(state), renewed(None, state)) for host, state in states.items()]
    return RolloutPlan(batches=batches(members, settings))


def kinds(state: HostRecord) -> frozenset[str]:
    """Return what runs on a host: its services, edges and Jaeger, by name."""
    host = state["host"]
    names = {proxy["name"] for proxy in host["proxies"]}
    return frozenset(names | ({"jaeger"} if host["jaeger"] else set()))


def differs(before: HostRecord, after: HostRecord) -> bool:
    """Tell whether applying `after` changes anything where `before` was applied."""
    return any(
        before.get(key) != after.get(key) for key in before.keys() | after.keys() if key != "left"
    )


def renewed(before: HostRecord | None, after: HostRecord) -> frozenset[str]:
    """Return the services of a host whose app is renewed; not those whose Envoy hands over."""
    services = {service["name"]: service for service in after["host"]["flask_services"]}
    if before is None or _of_role(before, "flask_service") != _of_role(after, "flask_service"):
        return frozenset(services)
    known = {service["name"]: service for service in before["host"]["flask_services"]}
    return frozenset(
        name
        for name, service in services.items()
        if known.get(name) != service or before["bundles"].get(name) != after["bundles"].get(name)
    )


def _of_role(state: HostRecord, role: str) -> tuple[str | None, dict[str, object]]:
    settings = {k: v for k, v in state["settings"].items() if k.startswith(f"{role}_")}
    return state["roles"].get(role), settings


def batches(members: Sequence[Member], settings: RolloutPolicy) -> tuple[tuple[str, ...], ...]:
    """Return the hosts of `members` in batches: first `canary` of each kind, then the rest.

    A batch of the rest has at most `batch` hosts, a number or a share of all members. No batch
    has two hosts that interrupt the same kind.
    """
    canaries: list[Member] = []
    seen: dict[str, int] = {}
    for member in members:
        if any(seen.get(kind, 0) < settings.canary for kind in member.kinds):
            canaries.append(member)
            for kind in member.kinds:
                seen[kind] = seen.get(kind, 0) + 1
    rest = [member for member in members if member not in canaries]
    most = size(settings.batch, len(members))
    return (*_packed(canaries, len(canaries)), *_packed(rest, most))


def size(batch: int | str, hosts: int) -> int:
    """Return how many hosts `batch` is, a number or a share as in "25%"; at least one."""
    if isinstance(batch, int):
        return batch
    return max(1, hosts * int(batch.removesuffix("%")) // 100)


def _packed(members: Iterable[Member], most: int) -> list[tuple[str, ...]]:
    """Put each member into the first batch that has room for it."""
    packed: list[list[Member]] = []
    for member in members:
        for batch in packed:
            taken = frozenset().union(*(other.exclusive for other in batch))
            if len(batch) < most and not taken & member.exclusive:
                batch.append(member)
                break
        else:
            packed.append([member])
    return [tuple(member.host for member in batch) for batch in packed]
