"""What a run decided, for a person: which host takes part, when and why."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from vmesh.base.words import plain_table, plural
from vmesh.rollout.batches import RolloutPlan

HEADER = ("HOST", "WHEN", "WHY")
MOST_SENTENCES = 2


def decision_lines(
    plan: RolloutPlan,
    sentences: Mapping[str, Sequence[str]],
    interrupted_on: Collection[str] = (),
    absent: Mapping[str, str] | None = None,
) -> list[str]:
    """Return a line with the sum, and a table with a row for each host.

    sentences: host -> what changes there (vmesh.rollout.changes.sentences)
    interrupted_on: hosts on which an earlier run did not come to its end
    absent: host -> why it takes no part
    """
    batches = "1 batch" if len(plan.batches) == 1 else f"{len(plan.batches)} batches"
    counts = (
        (len(plan.new), "new parts"),
        (sum(map(len, plan.batches)), f"changes, in {batches}"),
        (len(plan.steady), "nothing to change"),
        (len(plan.removed), "parts to remove"),
        (len(absent or ()), "no turn"),
    )
    total = "; ".join(f"{count} with {words}" for count, words in counts if count)
    hosts = dict.fromkeys(
        [*plan.new, *(host for batch in plan.batches for host in batch), *plan.steady]
    )
    hosts |= dict.fromkeys([*plan.removed, *(absent or ())])
    rows = [
        (
            host,
            ", then ".join(_when(plan, host)) or "not at all",
            (absent or {}).get(host) or _why(plan, host, sentences.get(host, ()), interrupted_on),
        )
        for host in hosts
    ]
    return [f"{len(rows)} {plural('host', len(rows))}: {total}", *plain_table(HEADER, rows)]


def _when(plan: RolloutPlan, host: str) -> Iterator[str]:
    if host in plan.new:
        yield "add"
    for number, batch in enumerate(plan.batches, 1):
        if host in batch:
            yield f"batch {number}"
    if host in plan.steady:
        yield f"batch {max(1, len(plan.batches))}"
    if host in plan.removed:
        yield "remove"


def _why(
    plan: RolloutPlan, host: str, sentences: Sequence[str], interrupted_on: Collection[str]
) -> str:
    reasons = ["an earlier run was interrupted"] if host in interrupted_on else []
    reasons += sentences[:MOST_SENTENCES]
    if more := len(sentences[MOST_SENTENCES:]):
        reasons.append(f"{more} more")
    if not sentences:
        reasons += [f"without {part}" for part in plan.new.get(host, ())]
        reasons += [f"{part} left the inventory" for part in plan.removed.get(host, ())]
    return "; ".join(reasons) or "nothing changes"
