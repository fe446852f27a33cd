"""The topology as a picture: Mermaid text for Markdown, DOT text for Graphviz.

Pure, and the same text for the same mesh. Services of a name are one node, with their hosts in
it; arrows lead from who calls to who is called.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from vmesh.base.words import shortened
from vmesh.compile.topology import Edge, Outside, Place, Route, Service, Topology

MOST_HOSTS = 3  # a node names so many hosts of a zone, and counts the others
MOST_ROUTES = 3  # an arrow names so many routes, and counts the others

# Kind -> fill, border, text: readable on white and on dark pages, and in black and white print.
COLORS = {
    "client": ("#ffffff", "#57606a", "#24292f"),
    "edge": ("#ddf4ff", "#0969da", "#0a3069"),
    "service": ("#dafbe1", "#1a7f37", "#0f3d1c"),
    "outside": ("#fff8c5", "#9a6700", "#4d3300"),
    "jaeger": ("#fbefff", "#8250df", "#3e1f79"),
}
ARROW = "#57606a"


@dataclass(frozen=True)
class Node:
    """A box: its kind (a key of COLORS), its name, and smaller lines below."""

    id: str
    kind: str
    name: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Arrow:
    """An arrow between two nodes; `dashed` for copies of requests."""

    source: str
    target: str
    label: tuple[str, ...] = ()
    dashed: bool = False


@dataclass(frozen=True)
class Picture:
    """What is drawn."""

    nodes: tuple[Node, ...]
    arrows: tuple[Arrow, ...]


def picture(mesh: Topology) -> Picture:
    """Return the nodes and arrows of the mesh, in the order of their names."""
    nodes: dict[str, Node] = {}
    arrows: list[Arrow] = []

    def node_of(to: str | Outside) -> str:
        """Return the id of what is called; an address outside gets its node here."""
        if isinstance(to, str):
            return _id("s", to)
        where = f"{to.address}:{to.port}"
        key = _id("x", f"{to.name} {where}")
        lines = (where, "TLS") if to.tls else (where,)
        nodes.setdefault(key, Node(key, "outside", to.name, lines))
        return key

    if mesh.edges:
        nodes["clients"] = Node("clients", "client", "clients")
    for edge in mesh.edges.values():
        node = Node(_id("e", edge.name), "edge", edge.name, tuple(_edge_lines(edge)))
        nodes[node.id] = node
        arrows.append(Arrow("clients", node.id))
    for service in mesh.services.values():
        nodes[_id("s", service.name)] = Node(
            _id("s", service.name), "service", service.name, tuple(_service_lines(service))
        )
    for edge in mesh.edges.values():
        arrows += _edge_arrows(edge, node_of)
    for service in mesh.services.values():
        arrows += [Arrow(_id("s", service.name), node_of(call)) for call in service.calls]
    if mesh.jaeger:
        takes = "takes the spans of every Envoy"
        lines = (mesh.jaeger.host, f"{takes}, behind an Envoy" if mesh.guarded else takes)
        nodes["jaeger"] = Node("jaeger", "jaeger", "Jaeger", lines)
    return Picture(tuple(nodes.values()), tuple(arrows))


def _id(kind: str, name: str) -> str:
    return f"{kind}_{re.sub(r'[^A-Za-z0-9]', '_', name)}"


def _edge_lines(edge: Edge) -> Iterator[str]:
    yield f"port {edge.listens[1]}"
    yield from hosts_by_zone(edge.places)


def _service_lines(service: Service) -> Iterator[str]:
    yield f"port {service.port}"
    yield from hosts_by_zone(service.places)


def hosts_by_zone(places: Sequence[Place]) -> Iterator[str]:
    """Yield the texts that name the hosts: one for each zone, where there are zones."""
    zones: dict[str, list[str]] = {}
    for place in places:
        zones.setdefault(place.zone or "", []).append(place.host)
    for zone, hosts in sorted(zones.items()):
        yield f"{zone}: {shortened(hosts, MOST_HOSTS)}" if zone else shortened(hosts, MOST_HOSTS)


def _edge_arrows(edge: Edge, node_of: Callable[[str | Outside], str]) -> Iterator[Arrow]:
    """Yield one arrow to each upstream, with the routes that lead there, and those of mirrors."""
    labels: dict[tuple[str, bool], list[str]] = {}
    for route in edge.routes:
        for target in route.targets:
            share = "" if target.share is None else f" {target.share:.3g} %"
            label = f"{_where(route)}{share}"
            labels.setdefault((node_of(target.to), False), []).append(label)
        if route.mirror:
            to, percent = route.mirror
            label = f"copies of {_where(route)} {percent:g} %"
            labels.setdefault((node_of(to), True), []).append(label)
    for (target_id, dashed), texts in labels.items():
        unique = list(dict.fromkeys(texts))
        shown = tuple(unique[:MOST_ROUTES] if len(unique) > MOST_ROUTES + 1 else unique)
        if len(unique) > len(shown):
            shown = (*shown, f"and {len(unique) - len(shown)} more")
        yield Arrow(_id("e", edge.name), target_id, shown, dashed)


def _where(route: Route) -> str:
    if route.domains in {("*",), ()}:
        return route.match
    return f"{route.domains[0]}{route.match}"


# The shapes: Mermaid's brackets, and Graphviz's attributes.
_BRACKETS = {
    "client": ("([", "])"),
    "edge": ("{{", "}}"),
    "service": ("[", "]"),
    "outside": ("[/", "/]"),
    "jaeger": ("[(", ")]"),
}
_SHAPES = {
    "client": 'shape=oval style="filled"',
    "edge": 'shape=box style="filled,rounded" penwidth=2',
    "service": 'shape=box style="filled,rounded"',
    "outside": 'shape=box style="filled,dashed"',
    "jaeger": 'shape=box style="filled,rounded" peripheries=2',
}


def mermaid(drawn: Picture) -> str:
    """Return the picture as Mermaid text, to stand in a Markdown file between ```mermaid lines."""
    lines = ["flowchart LR"]
    for node in drawn.nodes:
        begin, end = _BRACKETS[node.kind]
        text = "<br/>".join([f"<b>{_entities(node.name)}</b>", *map(_entities, node.lines)])
        lines.append(f'  {node.id}{begin}"{text}"{end}:::{node.kind}')
    for arrow in drawn.arrows:
        line = "-.->" if arrow.dashed else "-->"
        label = f'|"{"<br/>".join(map(_entities, arrow.label))}"|' if arrow.label else ""
        lines.append(f"  {arrow.source} {line}{label} {arrow.target}")
    used = {node.kind for node in drawn.nodes}
    for kind, (fill, border, text) in COLORS.items():
        if kind in used:
            lines.append(f"  classDef {kind} fill:{fill},stroke:{border},color:{text}")
    return "\n".join(lines) + "\n"


def _entities(text: str) -> str:
    """Write what Mermaid or HTML would take for their own as Mermaid's entity codes."""
    line = " ".join(text.split())
    return re.sub(r"[^\w /:.,()%*=~+\[\]-]", lambda found: f"#{ord(found[0])};", line)


def dot(drawn: Picture) -> str:
    """Return the picture as DOT text, which `dot -Tsvg` draws."""
    font = 'fontname="Helvetica,Arial,sans-serif"'
    lines = [
        'digraph "mesh" {',
        f'  graph [rankdir=LR nodesep=0.35 ranksep=1.1 pad=0.3 bgcolor="#ffffff" {font}]',
        f'  node [{font} fontsize=14 margin="0.18,0.1"]',
        f'  edge [{font} fontsize=11 color="{ARROW}" fontcolor="{ARROW}" arrowsize=0.8]',
    ]
    for node in drawn.nodes:
        fill, border, text = COLORS[node.kind]
        lines.append(
            f'  "{node.id}" [{_SHAPES[node.kind]} fillcolor="{fill}" color="{border}"'
            f' fontcolor="{text}" label=<{_label(node)}>]'
        )
    # Edges stand in one column, and what nobody calls does not get into the way.
    edges = [f'"{node.id}"' for node in drawn.nodes if node.kind == "edge"]
    lines += [f"  {{rank=same; {' '.join(edges)}}}"] if edges else []
    lines += [f'  {{rank=max; "{node.id}"}}' for node in drawn.nodes if node.kind == "jaeger"]
    for arrow in drawn.arrows:
        attributes = ["style=dashed"] if arrow.dashed else []
        if arrow.label:
            attributes.append(f"label=<{'<BR/>'.join(f' {html.escape(t)} ' for t in arrow.label)}>")
        lines.append(f'  "{arrow.source}" -> "{arrow.target}" [{" ".join(attributes)}]')
    return "\n".join([*lines, "}"]) + "\n"


def _label(node: Node) -> str:
    rows = [f"<B>{html.escape(node.name)}</B>"]
    rows += [f'<FONT POINT-SIZE="11">{html.escape(line)}</FONT>' for line in node.lines]
    return "<BR/>".join(rows)
