"""`./mesh plan`: what the inventory means, and what applying it would change on which host."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import functools
import json
import secrets as random
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from vmesh import artifacts
from vmesh.artifacts import bundles, envoy, jaeger, pins
from vmesh.base import paths
from vmesh.base.exits import FAILED, OK
from vmesh.base.problems import Problem, Problems
from vmesh.base.progress import Steps, new_log
from vmesh.cli import packages, problem_list, supplies
from vmesh.cli.output.graph import hosts_by_zone, shortened
from vmesh.compile.topology import Outside, Route, Service, Topology, topology
from vmesh.remote import playbook
from vmesh.remote.mesh import Mesh, read
from vmesh.render.renderer import Renderer
from vmesh.rollout import changes, history, record
from vmesh.rollout.drift import Drift, drift, environments
from vmesh.rollout.record import Described, State

REFRESH = "playbooks/refresh.yml"
MARKS = {
    changes.ADD: "+", changes.REMOVE: "-", changes.CHANGE: "~", changes.RESTART: "!",
    changes.NOTE: "i",
}  # fmt: skip
COLORS = {"+": "green", "-": "red", "~": "yellow", "!": "magenta", "i": "cyan"}
SERVICES = ("SERVICE", "PORT", "HOSTS", "APP", "CALLS", "CALLED BY")
ROUTES = ("EDGE", "FOR", "ROUTE", "TO", "WITH")


@dataclass
class Result:
    """All that there is to tell.

    drifts: None when the hosts were not asked
    silent: host -> why it did not answer
    """

    mesh: Topology
    warnings: tuple[Problem, ...]
    recorded: dict[str, State]
    wanted: dict[str, Described]
    found: list[changes.Change]
    drifts: list[Drift] | None = None
    silent: dict[str, str] = field(default_factory=dict)
    diffs: list[str] = field(default_factory=list)

    @property
    def pending(self) -> list[changes.Change]:
        return changes.pending(self.found)


def run(arguments: argparse.Namespace) -> int:
    """Print what the inventory means and what would change."""
    mesh = read(*arguments.inventory)
    place = record.folder(*arguments.inventory)
    try:
        recorded = record.read(place)
        renderer = Renderer()
        wanted = describe(mesh, recorded, renderer)
        result = compare(mesh, recorded, wanted, renderer)
        if arguments.diff:
            result.diffs = list(differences(result, renderer))
        if arguments.refresh:
            refresh(mesh, arguments, result)
    except Problems as found:
        # What the renderer cannot read is a mistake in the inventory, told as all others.
        print(problem_list(found.items), file=sys.stderr)
        return FAILED
    if arguments.json:
        print(json.dumps(as_data(result), indent=2))
    else:
        show(result, arguments)
    differs = bool(result.pending or result.drifts)
    failed = bool(result.silent) or (arguments.exit_code and differs)
    return FAILED if failed else OK


def describe(mesh: Mesh, recorded: Mapping[str, State], renderer: Renderer) -> dict[str, Described]:
    """Return host -> its state as the inventory has it now; nothing is built for it.

    Versions of bundles follow from the services' folders and from what a host said it is when it
    was recorded; a host without a record gets all of it new anyway.
    """
    hidden = record.Secrets.of(mesh.inventory)
    versions = functools.cache(functools.partial(_versions, mesh))
    bundle = functools.cache(bundles.version)  # many hosts have the same service
    found = {}
    for host, plan in mesh.plan.hosts.items():
        platform = (recorded.get(host) or {}).get("platform")
        arch = platform["arch"] if platform else artifacts.ARCHITECTURES[0]
        found[host] = record.describe(
            plan,
            hidden,
            renderer.files,
            versions=versions(arch),
            bundles={
                service.name: bundle(
                    (paths.PROJECT / service.source).resolve(), platform["python"], arch
                )
                for service in plan.flask_services
            }
            if platform
            else {},
            platform=platform,
            variables=mesh.variables(host),
        )
    return found


def _versions(mesh: Mesh, arch: str) -> dict[str, str]:
    """Return the versions of the binaries that site.yml would install."""
    committed = pins.load()
    named = mesh.plan.mesh.envoy_version
    versions = {"envoy": envoy.slot(committed, arch, named).version}
    if any(plan.jaeger for plan in mesh.plan.hosts.values()):
        release = supplies.jaeger_release(mesh)
        try:
            # Only the archive in the cache knows the whole version of one that the user named.
            there = artifacts.cached("jaeger", arch, release)
        except artifacts.ArtifactError:
            there = None
        slot = jaeger.slot(committed, arch, release)
        versions["jaeger"] = there.version if there else slot.version
    return versions


def compare(
    mesh: Mesh, recorded: dict[str, State], wanted: dict[str, Described], renderer: Renderer
) -> Result:
    """Return what would change since the states that were recorded."""

    def rerender(proxy: Mapping[str, Any]) -> dict[str, str] | None:
        texts = _old_texts(proxy, renderer)
        return None if texts is None else {p: record.digest(text) for p, text in texts.items()}

    return Result(
        topology({host: described.state["host"] for host, described in wanted.items()}),
        mesh.plan.warnings,
        recorded,
        wanted,
        changes.compare(
            recorded,
            {host: described.state for host, described in wanted.items()},
            rerender,
            mesh.inventory.hosts.keys(),
        ),
    )


def _old_texts(proxy: Mapping[str, Any], renderer: Renderer) -> dict[str, str] | None:
    """Return the files of a recorded proxy as today's templates write them, None if they cannot."""
    try:
        return renderer.files(record.proxy_from(proxy))
    except (Problems, jinja2.TemplateError, KeyError, TypeError, OSError):
        return None


# --diff


def differences(result: Result, renderer: Renderer) -> Iterator[str]:
    """Yield the unified diff of each file that changes; the same diff of several hosts once."""
    found: dict[tuple[str, str], list[str]] = {}
    for host, described in result.wanted.items():
        old = result.recorded.get(host)
        if old is None:
            continue
        before = {proxy["name"]: proxy for proxy in old["host"]["proxies"]}
        for proxy in described.state["host"]["proxies"]:
            name = proxy["name"]
            was = before.get(name)
            if was is None or old["files"].get(name) == described.state["files"][name]:
                continue
            old_texts = _old_texts(was, renderer)
            if old_texts is None:
                continue
            new_texts = renderer.files(record.proxy_from(proxy))
            for path in sorted(old_texts.keys() | new_texts.keys()):
                text = _unified(old_texts.get(path, ""), new_texts.get(path, ""), path)
                if text:
                    found.setdefault((name, text), []).append(host)
    for (name, text), hosts in found.items():
        yield f"{name} on {shortened(hosts, 2)}:\n{text}"


def _unified(old: str, new: str, path: str) -> str:
    """Return a diff without the version stamp, which changes with every line."""
    lines = difflib.unified_diff(
        _without_stamp(old), _without_stamp(new), f"before/{path}", f"after/{path}", lineterm=""
    )
    return "\n".join(lines)


def _without_stamp(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("version_info: ")]


# --refresh


def refresh(mesh: Mesh, arguments: argparse.Namespace, result: Result) -> None:
    """Ask the hosts what is there; put what differs from the recorded states into `result`."""
    steps = Steps(1, new_log("plan"))
    packages.install(packages.missing(packages.ANSIBLE), steps, no_install=arguments.no_install)
    asked = sorted(
        host
        for host in result.wanted.keys() | result.recorded.keys()
        if host in mesh.inventory.hosts
    )
    key = random.token_hex(16)
    with (
        steps.phase("refresh", f"asking {len(asked)} hosts what is there"),
        tempfile.TemporaryDirectory(prefix="vmesh-") as folder,
    ):
        answers, outcome = _ask(Path(folder), asked, key, arguments.inventory, mesh, steps)
    result.drifts = []
    for host in asked:
        answer = answers.get(host)
        if answer is None:
            result.silent[host] = _why(host, outcome)
            continue
        plan = mesh.plan.hosts.get(host)
        result.drifts += drift(
            host,
            result.recorded.get(host),
            result.wanted.get(host),
            answer,
            environments(plan) if plan else {},
            key=key,
        )


def _ask(  # noqa: PLR0913, PLR0917 - a run of Ansible
    folder: Path,
    hosts: Sequence[str],
    key: str,
    inventory: Sequence[Path],
    mesh: Mesh,
    steps: Steps,
) -> tuple[dict[str, dict[str, Any]], playbook.Outcome]:
    """Run the playbook; return host -> what it answered."""
    variables, limit = folder / "variables.json", folder / "hosts"
    variables.write_text(json.dumps({"vmesh_key": key, "vmesh_answers": str(folder)}))
    limit.write_text("".join(f"{host}\n" for host in hosts))
    outcome = playbook.apply(
        inventory,
        steps,
        fast=mesh.has_lab,
        playbook=REFRESH,
        extra=(f"--limit=@{limit}", f"--extra-vars=@{variables}"),
    )
    found = {}
    for host in hosts:
        path = folder / f"{quote(host, safe='')}.json"
        if path.is_file():
            found[host] = json.loads(path.read_text())
    return found, outcome


def _why(host: str, outcome: playbook.Outcome) -> str:
    reasons = [failure.message for failure in outcome.failures if failure.host == host]
    text = outcome.unreachable.get(host) or "".join(reasons) or "no answer"
    return text.strip().splitlines()[0] if text.strip() else "no answer"


# What is printed


def as_data(result: Result) -> dict[str, Any]:
    """Return the result as what --json prints."""
    mesh = result.mesh
    return {
        "services": [dataclasses.asdict(service) for service in mesh.services.values()],
        "edges": [dataclasses.asdict(edge) for edge in mesh.edges.values()],
        "spans": mesh.spans,
        "warnings": [dataclasses.asdict(problem) for problem in result.warnings],
        "recorded": sorted(result.recorded),
        "changes": [dataclasses.asdict(change) for change in result.found],
        "diffs": result.diffs,
        "drifts": None
        if result.drifts is None
        else [dataclasses.asdict(drift) for drift in result.drifts],
        "silent": result.silent,
    }


def show(result: Result, arguments: argparse.Namespace) -> None:
    """Print the result for people."""
    for title, header, rows in tables(result.mesh):
        table(title, header, rows)
        if not sys.stdout.isatty():
            print()
    if result.warnings:
        print(problem_list(result.warnings), file=sys.stderr)
    _lines(told(result))
    for text in result.diffs:
        print()
        _lines(text.splitlines())
    if arguments.diff and not result.diffs:
        print("No file of a recorded Envoy would change in what the inventory says.")


def tables(mesh: Topology) -> Iterator[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """Yield title, header and rows of each table of what the inventory means."""
    yield "", SERVICES, [_service_row(service) for service in mesh.services.values()]
    rows = []
    for edge in mesh.edges.values():
        address, port = edge.listens
        name = f"{edge.name} ({shortened([place.host for place in edge.places])}; {address}:{port})"
        rows += [(name, *_route_cells(route)) for route in edge.routes]
    if rows:
        yield "", ROUTES, _without_repeats(rows)


def _service_row(service: Service) -> tuple[str, ...]:
    return (
        service.name,
        str(service.port),
        "; ".join(hosts_by_zone(service.places)),
        service.app,
        ", ".join(map(_called, service.calls)) or "-",
        ", ".join(service.called_by) or "-",
    )


def _called(call: str | Outside) -> str:
    return call if isinstance(call, str) else f"{call.name} ({call.address}:{call.port})"


def _route_cells(route: Route) -> tuple[str, ...]:
    targets = [
        _called(target.to) + ("" if target.share is None else f" {target.share:.3g} %")
        for target in route.targets
    ]
    domains = "*" if route.domains == ("*",) else shortened(route.domains, 2)
    return (domains, route.match, ", ".join(targets) or route.answer, ", ".join(route.more))


def _without_repeats(rows: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Blank the first cells of a row where they say the same as those above."""
    found: list[tuple[str, ...]] = []
    above: tuple[str, ...] = ()
    for row in rows:
        same = 0
        if row[:1] == above[:1]:
            same = 2 if row[:2] == above[:2] else 1
        found.append(("",) * same + row[same:])
        above = row
    return found


def told(result: Result) -> list[str]:
    """Return the lines that tell what would change and what has drifted."""
    lines = [f"Traced: {result.mesh.spans}." if result.mesh.spans else "Nothing is traced.", ""]
    fresh = sorted(result.wanted.keys() - result.recorded.keys())
    notes = [change for change in result.found if change.kind == changes.NOTE]
    if not result.recorded:
        lines.append("Never applied from this controller: everything is new.")
    elif fresh:
        lines.append(f"Never applied from this controller: {shortened(fresh, 8)}.")
    if result.pending:
        hosts = len({change.host for change in result.pending})
        lines.append(f"Would change on {hosts} {'host' if hosts == 1 else 'hosts'}:")
        lines += grouped(result.pending)
    else:
        lines.append("Nothing would change.")
    if notes:
        lines += ["", "Left behind:", *grouped(notes)]
        lines.append("  (its record stays until you delete it from applied/)") if any(
            note.host not in result.wanted for note in notes
        ) else None
    lines += unrecorded(result.recorded)
    if result.drifts is not None:
        lines += ["", *drifted(result)]
    return lines


def unrecorded(recorded: Mapping[str, State]) -> list[str]:
    """Return the lines that tell what was rolled back to a state that is not recorded here."""
    marked = {host: state[history.UNRECORDED] for host, state in recorded.items()
              if state.get(history.UNRECORDED)}  # fmt: skip
    if not marked:
        return []
    lines = ["", "Rolled back, not recorded: what differs from what is there now is not known."]
    lines += [f"  i {host}: {', '.join(parts)}" for host, parts in marked.items()]
    return [*lines, "  (the next site.yml brings what the inventory says, and records it)"]


def grouped(found: Iterable[changes.Change]) -> list[str]:
    """Return the changes below the hosts they are for; what many hosts share, once."""
    blocks: dict[tuple[str, ...], list[str]] = {}
    for each in changes.group(found):
        line = f"  {MARKS[each.kind]} {each.part}: {each.text}"
        blocks.setdefault(each.hosts, []).append(line)
    lines = []
    for hosts, block in blocks.items():
        lines += [f"{shortened(hosts, 2)}:", *block]
    return lines


def drifted(result: Result) -> list[str]:
    """Return the lines of what was found on the hosts."""
    lines = []
    drifts = [
        changes.Change(each.host, each.part, changes.RESTART, each.text)
        for each in result.drifts or ()
    ]
    if drifts:
        lines += ["Other than applied:", *grouped(drifts)]
    elif not result.silent:
        lines.append("No drift: every host is as it was applied.")
    if result.silent:
        lines.append("Not known, as these did not answer:")
        lines += [f"  {host}: {reason}" for host, reason in result.silent.items()]
    return lines


def _lines(lines: Iterable[str]) -> None:
    """Print lines, in colour on a terminal."""
    if not sys.stdout.isatty():
        for line in lines:
            print(line)
        return
    from rich.console import Console  # noqa: PLC0415 - only for a terminal
    from rich.text import Text  # noqa: PLC0415

    console = Console(highlight=False)
    for line in lines:
        console.print(Text(line, style=_style(line)), soft_wrap=True)


def _style(line: str) -> str:
    """Return the colour of a change, or of a line of a diff."""
    if line.startswith("  ") and line[3:4] == " ":
        return COLORS.get(line[2], "")
    return COLORS.get(line[:1], "") if line[:1] in {"+", "-"} else ""


def table(title: str, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table: fitted to a terminal, of full width into a pipe."""
    if not sys.stdout.isatty():
        print("\n".join(plain_table(header, rows)))
        return
    from rich import box  # noqa: PLC0415 - only for a terminal
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    drawn = Table(*header, title=title or None, box=box.SIMPLE_HEAD, pad_edge=False)
    drawn.columns[0].min_width = max(len(row[0].partition(" ")[0]) for row in rows)
    for row in rows:
        # Rather more lines than a name that is cut.
        drawn.add_row(*(Text(cell, overflow="fold") for cell in row))
    Console().print(drawn)


def plain_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return a table's lines."""
    cells = [header, *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
