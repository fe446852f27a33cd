"""The bounds by which the shop's tests judge weights and faults."""

from __future__ import annotations

import random

import pytest

from tests.live_shop.chance import bounds


@pytest.mark.parametrize(
    ("trials", "share", "runs", "wanted"),
    [
        (1, 0.5, 10_000, (0, 1)),
        (20, 0.5, 20, (6, 14)),  # as in tables of the binomial distribution: 0.0207 below 6
        (10, 0.1, 20, (0, 3)),  # 0.0128 above 3, 0.0702 above 2
        (500, 0.1, 10_000, (26, 78)),
    ],
)
def test_known_bounds(trials: int, share: float, runs: int, wanted: tuple[int, int]) -> None:
    assert bounds(trials, share, runs) == wanted


def test_both_sides_are_treated_alike() -> None:
    low, high = bounds(300, 0.2)
    assert bounds(300, 0.8) == (300 - high, 300 - low)


def test_chance_stays_within_and_another_share_does_not() -> None:
    chance = random.Random(1)
    low, high = bounds(400, 0.1)
    counts = [sum(chance.random() < 0.1 for _ in range(400)) for _ in range(200)]
    assert all(low <= count <= high for count in counts)
    assert not any(low <= sum(chance.random() < 0.3 for _ in range(400)) <= high for _ in range(50))
