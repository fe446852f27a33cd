"""The identities of the proxies, as `./mesh certs` shows them, and what needs attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cryptography import x509

from vmesh.base import words
from vmesh.base.pem import certificates_in, newest
from vmesh.compile.host_spec import HostIdentity

HEADER = ("PROXY", "HOST", "IDENTITY", "LEAF", "ANCHOR", "CALLED BY", "CLOCK")
HOUR, DAY, YEAR = 3600, 86400, 365 * 86400
LEAST_LEFT = 24 * HOUR
MOST_OFF = HOUR
SIGN = "(!)"


@dataclass(frozen=True)
class Row:
    """A proxy: times are seconds; None where the host has not told.

    leaf, anchor: what is left of them; clock: by how much the host's is off
    attention: what is wrong, with the remedy
    """

    proxy: str
    host: str
    identity: str
    leaf: float | None
    anchor: float | None
    called_by: tuple[str, ...]
    clock: int | None
    attention: tuple[str, ...]


def rows(  # noqa: PLR0913, PLR0917 - what a table is made of
    host: str,
    planned: HostIdentity,
    answer: Mapping[str, Any] | None,
    known: str | None,
    called_by: Mapping[str, tuple[str, ...]],
    now: float,
) -> Iterator[Row]:
    """Yield the row of each proxy on a host.

    answer: what host_info told as `certs`; None where the host did not answer
    known: the anchor that the controller has of it
    """
    for proxy, identity in planned.identities.items():
        if answer is None:
            said = (f"{host} did not answer",)
            yield Row(proxy, host, identity, None, None, called_by[proxy], None, said)
            continue
        leaf = answer["leaves"].get(proxy) or {"why": "it is missing"}
        pem = answer["anchor"]
        yield Row(
            proxy,
            host,
            leaf.get("identity", identity),
            leaf["not_after"] - now if "not_after" in leaf else None,
            _until(pem) - now if pem else None,
            called_by[proxy],
            answer["offset"],
            (*_of_host(host, answer, known, now), *_of_leaf(host, proxy, leaf, now)),
        )


def _of_host(host: str, answer: Mapping[str, Any], known: str | None, now: float) -> Iterator[str]:
    """Yield what is wrong with all identities on a host."""
    if answer["anchor"] is None:
        yield f"{host} has no anchor -> run site.yml"
        return
    told, before = (set(certificates_in(pem or "")) for pem in (answer["anchor"], known))
    if len(told) > 1 and told & before:
        yield f"a rollover of {host} is under way -> ./mesh certs rollover {host} completes it"
    elif known is not None and not told <= before:
        yield f"the anchor of {host} is another one than before -> run site.yml, which says more"
    elif _until(answer["anchor"]) - now < YEAR:
        yield f"the anchor of {host} ends within a year -> ./mesh certs rollover {host}"
    if answer["timer"] != "active":
        yield (
            f"{host}: vmesh-certs.timer is not running"
            f" -> ./mesh ssh {host} sudo systemctl enable --now vmesh-certs.timer"
        )
    if abs(answer["offset"]) > MOST_OFF:
        off = duration(answer["offset"])
        yield f"{host}: its clock is off by {off} -> set it, and keep it right by NTP"


def _of_leaf(host: str, proxy: str, leaf: Mapping[str, Any], now: float) -> Iterator[str]:
    """Yield what is wrong with the leaf of a proxy."""
    if "not_after" not in leaf:
        yield f"{proxy} on {host}: its leaf: {leaf['why']} -> run site.yml"
    elif leaf["not_after"] - now < LEAST_LEFT:
        yield (
            f"{proxy} on {host}: its leaf ends soon, because nothing renews it"
            f" -> ./mesh ssh {host} sudo journalctl -u vmesh-certs"
        )
    if leaf.get("served") is False:
        yield (
            f"{proxy} on {host}: Envoy serves an earlier leaf than the file has"
            f" -> ./mesh logs {proxy} --on {host}"
        )


def table(found: list[Row]) -> list[str]:
    """Return the lines of the table, and below them what needs attention, each line once."""
    cells = [
        (
            row.proxy,
            row.host,
            row.identity,
            _left(row.leaf, LEAST_LEFT),
            _left(row.anchor, YEAR),
            ", ".join(row.called_by) or "-",
            "-" if row.clock is None else _off(row.clock),
        )
        for row in found
    ]
    notes = dict.fromkeys(note for row in found for note in row.attention)
    return [*words.plain_table(HEADER, cells), *(f"  ! {note}" for note in notes)]


def as_data(found: list[Row]) -> list[dict[str, Any]]:
    """Return the rows as `--json` prints them."""
    return [asdict(row) for row in found]


def duration(seconds: float) -> str:
    """Return a time in the largest unit of which there are two or more."""
    size, sign = abs(seconds), "-" if seconds < 0 else ""
    for unit, name in ((YEAR, "years"), (DAY, "days"), (HOUR, "h"), (60, "min")):
        if size >= 2 * unit and not (name == "days" and size < 7 * DAY):
            return f"{sign}{size // unit:.0f} {name}"
    return f"{sign}{size:.0f} s"


def _left(seconds: float | None, least: float) -> str:
    if seconds is None:
        return f"none {SIGN}"
    return duration(seconds) + (f" {SIGN}" if seconds < least else "")


def _off(seconds: int) -> str:
    text = duration(seconds) if seconds <= 0 else f"+{duration(seconds)}"
    return text + (f" {SIGN}" if abs(seconds) > MOST_OFF else "")


def _until(pem: str) -> float:
    found = x509.load_pem_x509_certificate(newest(pem).encode())
    return found.not_valid_after_utc.timestamp()
