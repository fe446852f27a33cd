"""What a comparison of two states says: one sentence about one part of one host, and its kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

ADD, REMOVE, CHANGE, RESTART, NOTE = "add", "remove", "change", "restart", "note"

View = Mapping[str, Any]
# A recorded proxy in, the hashes of its files as today's templates write them out, by path;
# None when it cannot be rendered any more.
Rerender = Callable[[View], Mapping[str, str] | None]


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


def pending(changes: Iterable[Change]) -> list[Change]:
    """Return those of `changes` that applying the inventory would bring about."""
    return [change for change in changes if change.kind != NOTE]


@dataclass
class HostReport:
    """Collects the changes of one host. `names_...` map mesh addresses to hosts.

    moved: the host's address before and after
    """

    host: str
    names_before: Mapping[str, str]
    names_after: Mapping[str, str]
    rerender: Rerender
    found: list[Change] = field(default_factory=list)
    moved: tuple[str, str] = ("", "")

    def say(self, part: str, kind: str, text: str) -> None:
        """Add one sentence."""
        self.found.append(Change(self.host, part, kind, text))
