"""What came of requests by mTLS, as `./mesh certs verify` shows it: who refused whom, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vmesh.base import words

HEADER = ("FROM", "TO", "RESULT", "TLS", "IDENTITY")
_SITE = "run site.yml"
# By `why` of plugins/module_utils/mutual_request.py: what it means, and the remedy. {proxy} on
# {host} asked {service} on {there}, at {address}.
_WORDS = {
    "no-answer-of-host": ("{host} did not answer, so nothing was asked", "./mesh ps"),
    "no-identity": ("{proxy} on {host} has no identity to show: {said}", _SITE),
    "no-anchor": ("the anchor of {there} is not known", _SITE),
    "timeout": (
        "{address} does not answer: a firewall drops it, or {there} is off",
        "a firewall of vmesh lets in the callers that `calls` declares; ./mesh ps tells what runs",
    ),
    "nobody-listens": (
        "nothing listens on {address}",
        "./mesh logs {service} --on {there}",
    ),
    "unreachable": ("{address} cannot be reached: {said}", "mend the network between both hosts"),
    "plaintext": ("{service} on {there} speaks plaintext", _SITE),
    "closed": (
        "the connection to {service} on {there} was closed: {said}",
        "./mesh logs {service} --on {there}",
    ),
    "no-answer": (
        "{service} on {there} took the connection and did not answer in time",
        "./mesh logs {service} --on {there}",
    ),
    "peer-expired": ("the leaf of {service} on {there} has expired", "./mesh certs renew {there}"),
    "peer-not-yet-valid": (
        "the leaf of {service} on {there} is not valid yet by the clock of {host}",
        "set the clock of {host}, and keep it right by NTP",
    ),
    "peer-unknown-authority": (
        "{proxy} on {host} does not trust who signed the leaf of {service} on {there}:"
        " an unknown authority",
        "run site.yml; if that refuses the anchor of {there}, it says why",
    ),
    "peer-foreign-name": (
        "{service} on {there} shows a leaf for another host, which its anchor may not sign for"
        " (name constraint)",
        "find out who put it there: ./mesh ssh {there}",
    ),
    "peer-other-identity": (
        "{there} has proven to be {identity}, and not {service} there (SAN)",
        _SITE,
    ),
    "peer-refused": ("the leaf of {service} on {there} is refused: {said}", _SITE),
    "expired": (
        "{service} on {there} refuses {proxy} on {host}: its leaf has expired",
        "./mesh certs renew {host}; if it has not, the clock of {there} is ahead",
    ),
    "unknown-authority": (
        "{service} on {there} does not know {host}, from which nobody may call it: an unknown"
        " authority",
        "add {service} to `calls` of {proxy}, and run site.yml",
    ),
    "no-leaf": ("{service} on {there} was shown no leaf by {proxy} on {host}", _SITE),
    "refused": (
        "{service} on {there} refuses the leaf of {proxy} on {host}: {said}",
        "its log says why: ./mesh logs {service} --on {there}",
    ),
    "forbidden": (
        "{service} on {there} knows {proxy} on {host}, and refuses its requests (RBAC)",
        "add {service} to `calls` of {proxy}, and run site.yml",
    ),
}
# Where the inventory has the call already.
_DECLARED = "run site.yml: {there} does not have yet what the inventory says"
NO_ANSWER = "no-answer-of-host"


@dataclass(frozen=True)
class Pair:
    """A request of a proxy to a service on one of its hosts, and what came of it.

    declared: whether the inventory has it that the proxy calls the service
    why: "" where it was answered, else a key of _WORDS; said: the text of the error
    tls, identity, status: None where it did not come to that
    """

    proxy: str
    host: str
    service: str
    there: str
    address: str
    declared: bool
    why: str
    said: str = ""
    tls: str | None = None
    identity: str | None = None
    status: int | None = None

    @property
    def note(self) -> str:
        """Return why it was refused, and the remedy; "" where it was answered."""
        if not self.why:
            return ""
        meaning, remedy = _WORDS[self.why]
        if self.declared and self.why in {"forbidden", "unknown-authority"}:
            remedy = _DECLARED
        return f"{meaning} -> {remedy}".format_map(asdict(self))


def table(pairs: list[Pair]) -> list[str]:
    """Return the lines of the table, and below them why requests were refused, each line once."""
    cells = [
        (
            f"{each.proxy} on {each.host}",
            f"{each.service} on {each.there}",
            _result(each),
            each.tls or "-",
            each.identity or "-",
        )
        for each in pairs
    ]
    notes = dict.fromkeys(each.note for each in pairs if each.why)
    return [*words.plain_table(HEADER, cells), *(f"  ! {note}" for note in notes)]


def _result(pair: Pair) -> str:
    if not pair.why:
        return f"ok ({pair.status})"
    return f"refused ({pair.status})" if pair.status else "refused"


def as_data(pairs: list[Pair]) -> list[Mapping[str, Any]]:
    """Return the pairs as `--json` prints them."""
    return [{**asdict(each), "ok": not each.why, "note": each.note} for each in pairs]
