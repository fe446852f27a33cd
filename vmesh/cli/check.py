"""`./mesh check`: what a contributor runs after every change; no VM."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from vmesh.base import paths
from vmesh.base.exits import FAILED, OK
from vmesh.base.progress import Steps, duration, new_log
from vmesh.cli import packages, supplies

# Where our own Python is; folders without any are left out.
PYTHON = ("vmesh", "plugins", "services", "tests", "molecule", "bench")
SHELL = ("mesh", ".ci/run", "vmesh/lab/guest-setup.sh", "vmesh/lab/guest/usr/local/sbin/lab-seed")
# Only code of these counts as covered or not.
COVERED = ("vmesh", "plugins")


@dataclass(frozen=True)
class Tool:
    """One check: its name, and its commands, run one after another."""

    name: str
    commands: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Verdict:
    """How a tool ended."""

    name: str
    code: int
    seconds: float
    output: str


def tools(
    python: Sequence[str], workers: int, *, every: bool, coverage: bool = False
) -> tuple[Tool, ...]:
    """Return the checks, the longest first.

    python: folders
    workers: pytest's processes
    every: the tests that are marked as slow as well
    coverage: record which lines the tests run
    """
    chosen = () if every else ("-m", "not slow")
    recorded = (*(f"--cov={name}" for name in COVERED), "--cov-report=") if coverage else ()
    folders = ("tests/unit", "tests/native")
    tests = ("pytest", "-q", "-n", str(workers), *recorded, *chosen, *folders)
    return (
        Tool("tests", (tests,)),
        Tool(
            "ansible-lint",
            (("ansible-lint", "--profile", "production", "--offline", "-q", "--nocolor"),),
        ),
        Tool("mypy", (("mypy", *python),)),
        Tool("yamllint", (("yamllint", "--strict", "."),)),
        Tool("ruff", (("ruff", "check", "."), ("ruff", "format", "--check", "."))),
        Tool("import-linter", (("lint-imports", "--no-logo"),)),
        Tool("shellcheck", (("shellcheck", *SHELL),)),
    )


def run(arguments: argparse.Namespace) -> int:
    """Run all checks; exit code 1 when one fails."""
    log = new_log("check")
    prepare(arguments, log)
    verdicts = check(log, every=arguments.all)
    return OK if all(verdict.code == 0 for verdict in verdicts) else FAILED


def prepare(arguments: argparse.Namespace, log: Path) -> None:
    """See to what the checks need: systemd-analyze, and the Envoy they show files to."""
    steps = Steps(1, log)
    lacking = packages.missing(packages.CHECK)
    if lacking or not supplies.has_envoy():
        with steps.phase("prepare", "seeing to what the checks need"):
            packages.install(lacking, steps, no_install=arguments.no_install)
            supplies.provide_envoy(steps)


def check(log: Path, *, every: bool, coverage: bool = False) -> list[Verdict]:
    """Run the checks, a line for each as it ends, then the output of those that failed.

    `every` is for the slow tests as well; `coverage` adds a line with the share of the lines that
    the tests run. It fails nothing, and takes half as much processor time again.
    Very long output is cut on the screen; `log` has all of it.
    """
    python = [name for name in PYTHON if any((paths.PROJECT / name).rglob("*.py"))]
    cores = os.cpu_count() or 1
    env = {**os.environ, "ANSIBLE_CONFIG": str(paths.PROJECT / "ansible.cfg")}
    began = time.monotonic()
    # As many at once as there are cores: the tools are busy, not waiting.
    with ThreadPoolExecutor(max_workers=cores) as pool:
        # Half of what tests do is waiting for servers, so there are two at work for each core.
        chosen = tools(python, 2 * cores, every=every, coverage=coverage)
        futures = [pool.submit(_run, tool, env) for tool in chosen]
        for future in futures:
            future.add_done_callback(_say)
        verdicts = [future.result() for future in futures]
    if coverage:
        _say_coverage()
    failed = [verdict for verdict in verdicts if verdict.code != 0]
    for verdict in failed:
        with log.open("a") as file:
            file.write(f"--- {verdict.name}\n{verdict.output}\n")
        print(f"\n--- {verdict.name}")
        print("\n".join(shortened(verdict.output.rstrip().splitlines(), log)))
    word = f"{len(failed)} failed" if failed else "all passed"
    print(f"check: {word}, {duration(time.monotonic() - began)}", flush=True)
    return verdicts


def shortened(lines: Sequence[str], log: Path, most: int = 200) -> list[str]:
    """Return at most `most` of `lines`, the last ones, after saying how many were left out."""
    if len(lines) <= most:
        return list(lines)
    return [f"... {len(lines) - most} lines before these are in {log}", *lines[-most:]]


def _run(tool: Tool, env: Mapping[str, str]) -> Verdict:
    began = time.monotonic()
    code, output = 0, ""
    for command in tool.commands:
        try:
            result = subprocess.run(
                command,
                cwd=paths.PROJECT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                check=False,
            )
        except FileNotFoundError:
            return Verdict(tool.name, 127, 0.0, f"{command[0]} is not installed")
        if result.returncode != 0:
            code = result.returncode
            output += f"$ {' '.join(command)}\n{result.stdout}"
    return Verdict(tool.name, code, time.monotonic() - began, output)


def _say(future: Future[Verdict]) -> None:
    if not future.cancelled() and future.exception() is None:
        verdict = future.result()
        word = "FAILED" if verdict.code else "ok"
        print(f"{verdict.name:<14}{word:<8}{verdict.seconds:5.1f} s", flush=True)
        sys.stdout.flush()


def _say_coverage() -> None:
    """Tell the share of the lines; what the tests run in other processes does not count."""
    total = subprocess.run(
        ["coverage", "report", "--format=total"],
        cwd=paths.PROJECT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if total.returncode == 0:
        print(f"{'coverage':<14}{total.stdout.strip()} % of {' and '.join(COVERED)}", flush=True)
