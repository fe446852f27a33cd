"""What can be said on the command line: the commands, and the options of each.

Only the standard library is imported here, as `./mesh --help` works before anything is installed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vmesh.base import paths

PROGRAM = Path(paths.COMMAND).name

EPILOG = """\
exit codes:
  0    done; for ps: everything runs
  1    failed, or not as it should be: a task failed, something does not run, a test
       failed, the inventory has mistakes
  2    not begun: wrong usage, or something this machine must have first (a package with
       --no-install, a free port, disk, memory, an inventory that exists)
  130  interrupted; the same command again carries on
"""

# name, help; in the order of a first day with vmesh.
COMMANDS = (
    ("up", "start the lab's VMs, apply the inventory, send one traced request"),
    ("ps", "show what runs: every Envoy, gunicorn and Jaeger on every VM"),
    ("trace", "send one request and show its trace as a waterfall"),
    (
        "certs",
        "show, renew, verify or revoke identities of proxies; 1 when one needs attention",
    ),
    ("jaeger", "open Jaeger's web pages through ssh, on a port of this machine"),
    ("logs", "show the journal of a proxy, a service, Jaeger or a VM"),
    ("ssh", "open a shell on a VM, or run a command there"),
    ("plan", "say what the inventory means, and what applying it would change on which host"),
    ("history", "show what was applied and rolled back: when, by whom, to which hosts"),
    ("rollback", "bring a service, a host or the whole mesh back to what an earlier run left"),
    ("remove", "take everything of vmesh off the hosts"),
    ("graph", "draw the topology: SVG, or Mermaid text for Markdown"),
    ("render", "write every proxy's Envoy configuration to a folder, touching no VM"),
    ("validate", "report everything that is wrong with the inventory"),
    ("password", "make a password for a user of an edge, and print it with its hash"),
    ("fetch", "make or fetch the artifacts (Envoy, Jaeger) into the cache"),
    ("check", "lint, types, unit and native tests: about a minute, no VM"),
    ("test", "check, then the molecule scenarios on VMs of their own"),
    ("bench", "make every change under load, count what fails, record it"),
    ("down", "stop the lab's VMs"),
)

# They run the tests and the benchmarks, which are not in the package.
NEED_CHECKOUT = ("check", "test", "bench")


class _Sources(argparse.Action):
    """Collects the inventories that are named; the first one replaces the default."""

    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        _option: str | None = None,
    ) -> None:
        """Add one, in the order of the command line."""
        before = getattr(namespace, self.dest)
        kept = () if before is self.default else before
        setattr(namespace, self.dest, (*kept, Path(values)))


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog=PROGRAM,
        description="A traced service mesh on plain Linux VMs: Envoy, Jaeger, systemd, Ansible.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in COMMANDS:
        command = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument(
            "-i",
            "--inventory",
            action=_Sources,
            default=(Path("inventory/lab"),),
            metavar="INVENTORY",
            help="inventory folder or file, or hosts with a comma as in `web1,`; may be repeated:"
            " of what several say, the last one's counts (default: inventory/lab)",
        )
        command.add_argument(
            "--no-install",
            action="store_true",
            help="install no system package: print the command that would, and exit with 2",
        )
        command.add_argument(
            "--debug", action="store_true", help="show Python's traceback when vmesh itself fails"
        )
        _OPTIONS.get(name, lambda _: None)(command)
    return top


def _up(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--plain", action="store_true", help="apply with Ansible's own strategy, in the lab too"
    )
    command.add_argument(
        "--offline", action="store_true", help="fetch nothing: use what the cache holds"
    )


def _ps(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print JSON")


def _trace(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "path",
        nargs="?",
        metavar="PATH",
        help="what to request (default: the edge's first route below /trace, or its first)",
    )
    command.add_argument("--edge", metavar="NAME", help="the edge to ask (default: the first)")
    command.add_argument(
        "-H",
        "--header",
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="send this header too; may be repeated",
    )
    command.add_argument(
        "--wait",
        type=float,
        default=15.0,
        metavar="SECONDS",
        help="how long to wait for the trace to be stored (default: 15)",
    )


def _certs(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "what",
        nargs="?",
        choices=("renew", "verify", "rollover", "revoke"),
        help="renew: have leaves renewed now, whatever is left. verify A B: have A's hosts make a"
        " request by mTLS to each instance of B, and say who refuses whom, and why. rollover: give"
        " hosts other anchors, by a run of site.yml, which applies what else the inventory has."
        " revoke HOST: have all who trust a host refuse it, at once",
    )
    command.add_argument(
        "name", nargs="?", metavar="HOST|PROXY", help="only these; who asks, of verify"
    )
    command.add_argument("other", nargs="?", metavar="B", help="who is asked, of verify")
    command.add_argument(
        "--now", action="store_true", help="revoke a host that the inventory does not say to revoke"
    )
    command.add_argument("--json", action="store_true", help="print JSON")


def _jaeger(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--port",
        type=int,
        metavar="N",
        help="the port on 127.0.0.1 (default: 16686, or a free one where that is in use)",
    )
    command.add_argument("--browser", action="store_true", help="show them in the web browser")


def _logs(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "name", metavar="NAME", help="service, proxy, envoy@NAME, flask@NAME, jaeger or a VM"
    )
    command.add_argument("-f", "--follow", action="store_true", help="go on with new lines")
    command.add_argument(
        "-n", "--lines", type=int, default=50, metavar="N", help="lines to show (default: 50)"
    )
    command.add_argument("--on", metavar="VM", help="only on this VM")


def _ssh(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", metavar="NAME", help="a VM, or a service, proxy or jaeger on one")
    command.add_argument(
        "remote", nargs=argparse.REMAINDER, metavar="COMMAND", help="run this instead of a shell"
    )


def _plan(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--diff", action="store_true", help="also show what changes in the Envoys' files, by line"
    )
    command.add_argument(
        "--refresh",
        action="store_true",
        help="also ask the hosts, and tell what there differs from what was applied",
    )
    command.add_argument("--json", action="store_true", help="print JSON")
    command.add_argument(
        "--exit-code",
        action="store_true",
        help="end with 1 when anything would change or has drifted (without it, with 0)",
    )


def _history(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-n",
        "--lines",
        type=int,
        default=20,
        metavar="N",
        help="runs to show, the last ones; 0 for all (default: 20)",
    )
    command.add_argument("--host", metavar="NAME", help="only runs that changed this host")
    command.add_argument("--json", action="store_true", help="print JSON")


def _rollback(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "name",
        nargs="?",
        metavar="SERVICE|HOST",
        help="a service, an edge, jaeger or a host (default: the whole mesh)",
    )
    command.add_argument(
        "--to",
        type=int,
        metavar="N",
        help="the run whose state comes back (default: the one before the last change)",
    )
    command.add_argument(
        "--check", action="store_true", help="only tell what would be done on which host"
    )


def _remove(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--host", action="append", metavar="NAME", help="only this host (may be repeated)"
    )
    command.add_argument(
        "--traces", action="store_true", help="also remove the traces that Jaeger has stored"
    )
    command.add_argument(
        "--drain",
        type=float,
        default=60,
        metavar="SECONDS",
        help="how long Envoys may finish requests and streams (default: 60)",
    )
    command.add_argument("--check", action="store_true", help="only tell what would be removed")
    command.add_argument("--yes", action="store_true", help="do not ask")


def _graph(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="write to this file; its ending tells the format: .svg, .md, .mmd (or .mermaid), .dot",
    )
    command.add_argument(
        "--format",
        choices=("svg", "mermaid", "markdown", "dot"),
        help="whatever the file is called (default without a file: mermaid)",
    )


def _render(command: argparse.ArgumentParser) -> None:
    command.add_argument("dir", type=Path, metavar="DIR", help="where <host>/<proxy>/ folders go")


def _validate(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print the problems as JSON")
    command.add_argument(
        "--no-envoy", action="store_true", help="only compile; do not ask the Envoy binary"
    )


def _password(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", metavar="NAME", help="the user")


def _fetch(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--arch", default="x86_64", choices=("x86_64", "aarch64"), help="of the VMs' processors"
    )
    command.add_argument(
        "--envoy-version",
        metavar="VERSION",
        help="one of those in artifacts/pins.yml (default: the default there)",
    )
    command.add_argument("--jaeger-archive", metavar="PATH|URL", help="a Jaeger release archive")
    command.add_argument("--jaeger-sha256", metavar="HEX", help="the SHA-256 of that archive")


def _check(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--all", action="store_true", help="also run the tests that are slow, as `mesh test` does"
    )


def _test(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--alongside", action="store_true", help="leave a running lab running meanwhile"
    )
    command.add_argument(
        "-s",
        "--scenario",
        action="append",
        metavar="NAME",
        help="only this molecule scenario (may be repeated; default: all)",
    )


def _bench(command: argparse.ArgumentParser) -> None:
    command.set_defaults(inventory=(Path("inventory/example-change"),))
    command.add_argument(
        "what",
        choices=("change",),
        help="what to measure; on inventory/example-change unless -i names another",
    )
    command.add_argument(
        "-n",
        "--times",
        type=int,
        metavar="N",
        help="how often each row (default: 5; with --scale 1)",
    )
    command.add_argument(
        "--only", action="append", metavar="ROW", help="only this row (may be repeated)"
    )
    command.add_argument(
        "--kills",
        type=int,
        default=30,
        metavar="N",
        help="at how many moments runs are killed, in all turns together (default: 30)",
    )
    command.add_argument("--seed", type=int, metavar="N", help="which moments (default: by chance)")
    command.add_argument(
        "--scale",
        action="store_true",
        help="seconds and task executions with 1, 4 and 12 instances instead",
    )
    for name, rate, to in (("kept", 1.0, "kept"), ("new", 0.5, "new"), ("back", 0.5, "both")):
        command.add_argument(
            f"--{name}",
            type=float,
            default=rate,
            metavar="RATE",
            help=f"requests a second to {'streams-back' if name == 'back' else 'streams'}"
            f" on {to} connections (default: {rate:g})",
        )
    command.add_argument(
        "--streams",
        type=int,
        default=2,
        metavar="N",
        help="WebSockets, and slow downloads, held meanwhile (default: 2)",
    )
    command.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write the figures to this file as JSON"
    )
    command.add_argument(
        "--continue",
        action="store_true",
        dest="go_on",
        help="go on from what that file has: only what is missing is made",
    )


def _down(command: argparse.ArgumentParser) -> None:
    command.add_argument("--purge", action="store_true", help="also remove the VMs' disks")


_OPTIONS = {
    "up": _up, "ps": _ps, "trace": _trace, "certs": _certs, "jaeger": _jaeger, "logs": _logs,
    "ssh": _ssh, "plan": _plan, "history": _history, "rollback": _rollback, "remove": _remove,
    "graph": _graph, "render": _render, "validate": _validate, "password": _password,
    "fetch": _fetch, "check": _check, "test": _test, "bench": _bench, "down": _down,
}  # fmt: skip
