"""The measurement of what mTLS costs measures what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import mtls
from bench.mtls_pair import EnvoyPair, FixedServer, Senders, rendered_pair
from vmesh.model.access_types import OFF, STRICT


def test_both_pairs_are_measured_side_by_side(envoy: Path, tmp_path: Path) -> None:
    found = mtls.measured(envoy, tmp_path, rounds=2, requests=100)
    assert {mode: len(rounds) for mode, rounds in found.rounds.items()} == {OFF: 2, STRICT: 2}
    assert all(each > 1 for rounds in found.rounds.values() for each in rounds)
    text = mtls.table(found)
    assert "`mtls: strict`" in text
    assert mtls.record(found, 100, 1.4)["microseconds"]["ratio"] == round(found.ratio, 3)


def test_the_ratio_is_of_the_medians() -> None:
    found = mtls.summary({OFF: [10, 20, 90], STRICT: [11, 30, 99]})
    assert (found.ratio, found.ratios) == (1.5, [1.1, 1.1, 1.5])


def test_another_answer_than_the_apps_ends_it(envoy: Path, tmp_path: Path) -> None:
    with (
        FixedServer(200, b"x" * 10) as app,
        EnvoyPair(envoy, rendered_pair(tmp_path, STRICT, app.port, app.port)) as pair,
        Senders(pair.port, 1, 10) as senders,
    ):
        senders.send(1)
        app.answer = b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n"
        with pytest.raises(RuntimeError, match=r"answered b'HTTP/1\.1 500"):
            senders.send(1)
