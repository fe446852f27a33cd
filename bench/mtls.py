"""What does mTLS with authorization cost a proxy, beside plaintext in the same run?

    .venv/bin/python -m bench.mtls [--rounds 10] [--requests 10000] [-o FILE]

Natively, without a VM: the Envoys of a caller and of a callee as vmesh renders them, twice, with
`mesh_security.mtls` off and strict. The app behind them answers 1 KB; every request is traced. Both
pairs run all the time and take turns: off, strict, strict, off, and so on. Clients keep their
connections, and so do the Envoys.

What is measured is the processor time that both Envoys of a pair have used for a request, as other
work on the machine changes the time on the clock much more. `ratio` is that of the medians;
`ratios` are those of each two rounds that follow one another.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.mtls_pair import EnvoyPair, FixedServer, Senders, rendered_pair
from vmesh import artifacts
from vmesh.model.access_types import OFF, STRICT

MODES = (OFF, STRICT)
ANSWER_BYTES = 1024
CONNECTIONS = 8


@dataclass(frozen=True)
class Summary:
    """Microseconds of processor time for a request in each round, and how they compare."""

    rounds: Mapping[str, Sequence[float]]
    medians: Mapping[str, float]
    ratio: float
    ratios: Sequence[float]


def summary(rounds: Mapping[str, Sequence[float]]) -> Summary:
    """Compare the rounds of both modes; the first of one ran beside the first of the other."""
    medians = {mode: statistics.median(rounds[mode]) for mode in MODES}
    ratios = [strict / off for off, strict in zip(rounds[OFF], rounds[STRICT], strict=True)]
    return Summary(rounds, medians, medians[STRICT] / medians[OFF], sorted(ratios))


def measured(envoy: Path, root: Path, rounds: int, requests: int) -> Summary:
    """Run both pairs below `root`, and measure so many rounds of so many requests of each.

    Raises RuntimeError where an answer is not the expected one, or a pair speaks in another way
    than it should.
    """
    with ExitStack() as stack:
        app = stack.enter_context(FixedServer(200, b"x" * ANSWER_BYTES))
        collector = stack.enter_context(FixedServer(200, b""))
        pairs: dict[str, EnvoyPair] = {}
        for mode in MODES:
            made = rendered_pair(root / mode, mode, app.port, collector.port)
            pairs[mode] = stack.enter_context(EnvoyPair(envoy, made))
        senders = {
            mode: stack.enter_context(Senders(pair.port, CONNECTIONS, ANSWER_BYTES))
            for mode, pair in pairs.items()
        }
        for mode in MODES:  # fills caches, and is not counted
            _microseconds(pairs[mode], senders[mode], requests)
        found: dict[str, list[float]] = {mode: [] for mode in MODES}
        for number in range(rounds):
            for mode in MODES if number % 2 == 0 else MODES[::-1]:
                found[mode].append(_microseconds(pairs[mode], senders[mode], requests))
        for mode, pair in pairs.items():
            if pair.speaks_mtls() != (mode == STRICT):
                raise RuntimeError(f"the pair with mtls: {mode} speaks in another way")
        if not collector.answered:
            raise RuntimeError("no span was sent")
    return summary(found)


def _microseconds(pair: EnvoyPair, senders: Senders, requests: int) -> float:
    """Return the processor time of both Envoys for each of so many requests."""
    before = pair.processor_seconds()
    senders.send(requests)
    return 1e6 * (pair.processor_seconds() - before) / requests


def table(found: Summary) -> str:
    """Return the figures as a table in Markdown."""
    lines = [
        "| | CPU of caller and callee for a request | smallest and largest round |",
        "|---|---:|---|",
    ]
    for mode in MODES:
        rounds = found.rounds[mode]
        spread = f"{min(rounds):.1f} and {max(rounds):.1f} µs"
        lines.append(f"| `mtls: {mode}` | {found.medians[mode]:.1f} µs | {spread} |")
    spread = f"{min(found.ratios):.2f} and {max(found.ratios):.2f}"
    lines.append(f"| strict over off | **{found.ratio:.2f}** | {spread} |")
    return "\n".join(lines)


def record(found: Summary, requests: int, seconds: float) -> dict[str, Any]:
    """Return what to keep of a run."""
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    figures = {"requests_a_round": requests, "connections": CONNECTIONS, "seconds": round(seconds)}
    return {"machine": machine, **figures, "microseconds": _rounded(asdict(found))}


def _rounded(value: Any) -> Any:
    """Return figures with three digits after the point."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [round(each, 3) for each in value] if isinstance(value, list) else round(value, 3)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.mtls",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=10, help="of each pair (default: 10)")
    parser.add_argument("--requests", type=int, default=10_000, help="in a round (default: 10000)")
    parser.add_argument("-o", "--output", type=Path, help="write the figures to this file as JSON")
    options = parser.parse_args()
    if options.rounds < 1 or options.requests < 1:
        parser.error("take 1 round or more, of 1 request or more")
    return options


def main() -> None:
    options = _options()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="vmesh-mtls-") as root:
        try:
            envoy = artifacts.envoy_binary()
            found = measured(envoy, Path(root), options.rounds, options.requests)
        except (RuntimeError, OSError) as error:
            sys.exit(str(error))
    print(table(found))
    if options.output:
        kept = record(found, options.requests, time.monotonic() - began)
        options.output.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
