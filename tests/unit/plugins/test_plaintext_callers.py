"""Who is found to speak plaintext to a service that accepts mTLS."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from plugins.module_utils.plaintext_callers import UNKNOWN, watch
from plugins.module_utils.systemd import Done


class Played:
    """An admin interface that counts as it is told to."""

    def __init__(self, counts: list[int]) -> None:
        self.counts = counts

    def plaintext_requests(self) -> int:
        return self.counts.pop(0)


def line(**found: Any) -> str:
    return json.dumps({"listener": "ingress", "downstream_direct": "10.0.0.7:4711", **found})


def seen(counts: list[int], lines: Sequence[str] = ()) -> dict[str, list[str]]:
    commands: list[Sequence[str]] = []

    def run(arguments: Sequence[str]) -> Done:
        commands.append(arguments)
        return Done(0, "\n".join(lines), "")

    played: Any = Played(counts)
    found = watch(["shop"], 5, lambda path: played, run, sleep=lambda seconds: None)
    assert all("envoy@shop.service" in command for command in commands)
    return found


def test_callers_are_named_by_the_access_log() -> None:
    lines = [
        line(tls=None),
        line(tls=None),
        line(tls="TLSv1.3", downstream_direct="10.0.0.8:1"),
        line(tls=None, listener="egress-stock", downstream_direct="127.0.0.1:1"),
        line(downstream_direct="10.0.0.9:1"),
        "[2026-11-28 12:00:00] [warning] no document",
        '"a string"',
    ]
    assert seen([3, 5], lines) == {"shop": ["10.0.0.7"]}


@pytest.mark.parametrize("counts", [[3, 3], [0, 0], [7, 0]], ids=["none", "never", "new process"])
def test_without_a_request_in_plaintext_nobody_is_named(counts: list[int]) -> None:
    assert seen(counts, [line(tls=None)]) == {}


@pytest.mark.parametrize("counts", [[3, 4], [7, 1]], ids=["more", "new process"])
def test_a_request_counts_also_where_its_line_is_not_found(counts: list[int]) -> None:
    assert seen(counts) == {"shop": [UNKNOWN]}
