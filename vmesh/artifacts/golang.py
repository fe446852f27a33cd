"""Go programs, built from the modules that a go.sum in artifacts/ pins."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vmesh.artifacts import toolchain
from vmesh.artifacts.errors import ArtifactError
from vmesh.artifacts.pins import FOLDER, Pins
from vmesh.base.progress import CommandFailed, Progress, run

_STEP_SECONDS = 20.0


@dataclass(frozen=True)
class Program:
    """A program to build.

    title: its name and version, for people
    modules: those to fetch first; without a network this fails at once, not a thousand times
    linked: further options for the linker
    scratch_bytes: the disk that the build takes for a while
    takes: how long the build takes, for people
    instead: another way to get the program, for a user who cannot build it; "" for none
    pinned: the folder in artifacts/ whose go.mod and go.sum pin it
    go_minimum: the oldest Go that builds it, "" for the one that builds all others
    """

    title: str
    package: str
    modules: tuple[str, ...]
    scratch_bytes: int
    takes: str
    linked: str = ""
    instead: str = ""
    pinned: str = "jaeger"
    go_minimum: str = ""


@dataclass(frozen=True)
class Built:
    """A built program, and the folder with the modules that it was built from."""

    binary: Path
    go_version: str
    modules: Path

    def source(self, module: str, version: str) -> Path:
        """Return the folder with the source of a module."""
        return self.modules / f"{module}@{version}"


def build(program: Program, pins: Pins, arch: str, scratch: Path, progress: Progress) -> Built:
    """Build a program for `arch` in the folder `scratch`, and leave nothing elsewhere.

    Raises ArtifactError when there is no room, no Go, or a module that cannot be had.
    """
    _need_disk(program, scratch)
    module = scratch / "module"
    shutil.copytree(FOLDER / program.pinned, module)
    go = toolchain.find(
        pins,
        scratch,
        progress,
        title=program.title,
        instead=program.instead,
        minimum=program.go_minimum,
    )
    bench = _Workbench(go, module, toolchain.environment(arch, scratch), progress)
    binary = scratch / "program"
    try:
        _compile(program, bench, binary)
    except CommandFailed as error:
        raise _build_error(program, error) from error
    return Built(binary, go.version, scratch / "gopath" / "pkg" / "mod")


def _need_disk(program: Program, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < program.scratch_bytes:
        remedy = "Make room, or set XDG_CACHE_HOME to a folder on another disk"
        raise ArtifactError(
            f"Building {program.title} needs {program.scratch_bytes / 1e9:.0f} GB for a while, and"
            f" {folder} has {free / 1e9:.1f} GB",
            f"{remedy}, or {program.instead}" if program.instead else remedy,
        )


def _build_error(program: Program, error: CommandFailed) -> ArtifactError:
    lines = error.tail.strip().splitlines() or [f"exit code {error.code}"]
    mismatch = next((line for line in lines if "checksum mismatch" in line), None)
    if mismatch:
        return ArtifactError(
            f"{program.title}: {mismatch.strip()} (the pin is in"
            f" artifacts/{program.pinned}/go.sum). What was fetched has been deleted; nothing was"
            " installed",
            f"Check GOPROXY (`go env GOPROXY`); the full output is in {error.log_path}",
        )
    instead = f", or {program.instead}" if program.instead else ""
    return ArtifactError(
        f"{program.title} is not in the cache and could not be built: {lines[-1].strip()}",
        "Building fetches Go modules: check this machine's network and GOPROXY, then run the"
        f" command again{instead}; the full output is in {error.log_path}",
    )


@dataclass(frozen=True)
class _Workbench:
    """A Go toolchain at work on a module, in its own environment."""

    go: toolchain.Go
    module: Path
    env: Mapping[str, str]
    progress: Progress

    def run(self, *arguments: str) -> None:
        run([str(self.go.command), *arguments], self.progress, cwd=self.module, env=self.env)

    def lines(self, *arguments: str, each: Callable[[int], None] = lambda _: None) -> list[str]:
        """Run a Go command; return its standard output's lines and write all to the log.

        each: called with the number of lines so far, as they come
        """
        command = [str(self.go.command), *arguments]
        lines: list[str] = []
        with self.progress.log_path.open("ab") as log:
            log.write(f"$ {' '.join(command)}\n".encode())
            with subprocess.Popen(
                command,
                cwd=self.module,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            ) as process:
                assert process.stdout is not None
                try:
                    for line in process.stdout:
                        log.write(line)
                        lines.append(line.decode(errors="replace").rstrip())
                        each(len(lines))
                except BaseException:
                    process.terminate()
                    raise
        if process.returncode != 0:
            tail = "\n".join(lines[-20:])
            raise CommandFailed(command, process.returncode, tail, self.progress.log_path)
        return lines


def _compile(program: Program, bench: _Workbench, binary: Path) -> None:
    bench.progress.step(f"fetching the source of {program.title}")
    bench.run("mod", "download", *program.modules)
    listed = bench.lines("list", "-deps", program.package)
    total = sum(not line.startswith("go: ") for line in listed)
    what = f"building {program.title} with Go {bench.go.version}"
    bench.progress.step(f"{what}: {total} packages, {program.takes}")
    said = time.monotonic()

    def count(done: int) -> None:
        nonlocal said
        if time.monotonic() - said > _STEP_SECONDS:
            said = time.monotonic()
            bench.progress.step(f"{what}: {min(done, total)} of {total} packages")

    bench.lines(
        "build",
        "-v",
        "-trimpath",
        "-buildvcs=false",
        "-o",
        str(binary),
        # Without debugging tables: a third smaller; stack traces stay.
        f"-ldflags=-s -w {program.linked}".rstrip(),
        program.package,
        each=count,
    )
