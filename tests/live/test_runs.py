"""What the runs of site.yml before these tests said and did; molecule recorded them."""

from __future__ import annotations

import pytest

from tests.live.runs import Run, read_runs, untruths
from tests.live.target import Target, results_dir

# What a run with nothing to do may cost a host.
MOST_TASKS = 20


@pytest.fixture(scope="module")
def runs(target: Target) -> list[Run]:
    """The check of the bare VMs, the run that set them up, the run with nothing to do."""
    found = read_runs(results_dir() / "runs.jsonl")
    for three in zip(found, found[1:], found[2:], strict=False):
        same_vms = all(set(run.counts) == set(target.vms) for run in three)
        if same_vms and [run.check for run in three] == [True, False, False]:
            return list(three)
    pytest.skip("no record of these three runs on these VMs: `molecule test` writes it")


def test_check_of_bare_vms_tells_what_the_run_then_changes(runs: list[Run]) -> None:
    check, real, _ = runs
    assert untruths(check, real) == []


def test_run_with_nothing_to_do_is_short(runs: list[Run]) -> None:
    again = runs[2]
    print(f"{again.seconds:.0f} s, {again.counts}")
    assert {host: counts["changed"] for host, counts in again.counts.items()} == dict.fromkeys(
        again.counts, 0
    )
    assert max(counts["ok"] for counts in again.counts.values()) <= MOST_TASKS, again.counts
