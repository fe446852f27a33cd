"""The command line: its exit codes, and how mistakes are shown.

Only the standard library is imported here, so that `./mesh --help` works before anything
is installed; each command's module is imported when it runs. Its words are in `options`.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from vmesh.base import paths
from vmesh.base.exits import FAILED, INTERRUPTED, USAGE, CliError
from vmesh.base.problems import ERROR, WARNING, Problem, Problems
from vmesh.base.words import plural
from vmesh.cli.options import NEED_CHECKOUT, PROGRAM, parser


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP: ends a command as Ctrl-C does, so that clean-up runs."""


def find_inventory(given: Path) -> Path:
    """Return the inventory's path: relative to the working folder, else to the project.

    A list of hosts, which is no path, is returned as it is. Raises CliError when there is no such
    file or folder.
    """
    for path in (given, paths.PROJECT / given):
        if path.exists():
            return path.resolve()
    if paths.is_host_list(given):
        return given
    raise CliError(f"There is no inventory at {given}. Name one with -i.", USAGE)


def named(inventory: Sequence[Path]) -> str:
    """Return what to call an inventory that is made of these sources: as a user would write it."""
    return ", ".join(map(_short, inventory))


def _short(path: Path) -> str:
    """Return a path below the project as it is written there, any other as it is."""
    return str(path.relative_to(paths.PROJECT) if path.is_relative_to(paths.PROJECT) else path)


def problem_list(problems: Sequence[Problem]) -> str:
    """Lay out mistakes for reading: variable and value, what is wrong, what to do.

    Errors come first, then warnings, each kind with its number.
    """
    parts = []
    for severity, kind in ((ERROR, "problem"), (WARNING, "warning")):
        found = [problem for problem in problems if problem.severity == severity]
        if found:
            parts.append(f"{len(found)} {plural(kind, len(found))}:")
            parts += [_laid_out(number, problem) for number, problem in enumerate(found, 1)]
    return "\n".join(parts)


def _laid_out(number: int, problem: Problem) -> str:
    return f"{number:>3}. {problem.place}\n     {problem.message}\n     -> {problem.remedy}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code. No traceback reaches the user unasked."""
    arguments = parser().parse_args(argv)
    _environment()
    try:
        if arguments.command in NEED_CHECKOUT and paths.CHECKOUT is None:
            raise CliError(
                f"`{arguments.command}` works on the source of vmesh and needs a checkout of it."
                f" Run `./mesh {arguments.command}` there.",
                USAGE,
            )
        arguments.inventory = tuple(map(find_inventory, arguments.inventory))
        module = importlib.import_module(f"vmesh.cli.{arguments.command}")
        return int(module.run(arguments))
    except Problems as found:
        print(problem_list(found.items), file=sys.stderr)
        return FAILED
    except CliError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # `./mesh logs x | head`: the reader has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        return _unexpected(error, arguments.command, debug=arguments.debug)


def _unexpected(error: Exception, command: str, *, debug: bool) -> int:
    told = getattr(error, "remedy", None)
    if told is not None:
        # The parts' own errors carry a sentence and what to do about it.
        print(
            f"{PROGRAM}: {error}" + (f"\n  -> {told}" if told not in str(error) else ""),
            file=sys.stderr,
        )
        return FAILED
    if debug:
        traceback.print_exc()
        return FAILED
    log = paths.log_dir() / "errors.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        file.write(f"--- mesh {command}\n{traceback.format_exc()}")
    first = (str(error).splitlines() or [""])[0]
    print(
        f"{PROGRAM}: {type(error).__name__}: {first}\n  details: {log} (or --debug)",
        file=sys.stderr,
    )
    return FAILED


def _environment() -> None:
    """Let all that starts from here find the virtual environment's programs and our settings.

    Ansible's library looks for its settings when it is imported; without a word of ours it would
    take those of the working folder. What the user exported themselves wins.
    """
    os.environ.setdefault("ANSIBLE_CONFIG", str(paths.DATA / "ansible.cfg"))
    own = str(Path(sys.executable).parent)
    if own not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = own + os.pathsep + os.environ.get("PATH", os.defpath)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminate)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated
