"""What chance allows: bounds that a count of random events leaves once in so many runs. No I/O."""

from __future__ import annotations

import math
from itertools import accumulate

# A test that judges by chance is wrong about a sound mesh once in so many runs.
RUNS = 10_000


def bounds(trials: int, share: float, runs: int = RUNS) -> tuple[int, int]:
    """Return the least and the greatest count that is no surprise.

    Of `trials` independent events, each true with probability `share` (above 0 and below 1), so
    many are true; it is less than the one or more than the other at most once in `runs` each.
    """
    chances = [
        math.exp(
            math.lgamma(trials + 1)
            - math.lgamma(count + 1)
            - math.lgamma(trials - count + 1)
            + count * math.log(share)
            + (trials - count) * math.log1p(-share)
        )
        for count in range(trials + 1)
    ]
    fewer = sum(1 for total in accumulate(chances) if total <= 1 / (2 * runs))
    more = sum(1 for total in accumulate(reversed(chances)) if total <= 1 / (2 * runs))
    return fewer, trials - more
