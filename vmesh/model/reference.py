"""The reference of the inventory, docs/reference.md, made from the schema.

`python -m vmesh.model.reference` writes it. What a key means is written in mesh.schema.json alone;
here is only the order in which a reader meets the keys, and what holds for several of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vmesh.base import paths
from vmesh.model import schema
from vmesh.model.schema import Schema

FILE = paths.PROJECT / "docs" / "reference.md"

HEAD = """\
<!-- Made from vmesh/model/mesh.schema.json by `python -m vmesh.model.reference`. -->
# The inventory, key by key

Variables that all hosts share describe the mesh, usually in
`inventory/<name>/group_vars/all/mesh.yml`. `./mesh validate` reports all mistakes in them, with the
remedies. [recipes.md](recipes.md) shows each policy in use.

Each key is listed with its allowed values, its default (in bold), the reason for the default, and
an example. A key that takes a group also takes the name of a single host. Times are in seconds;
fractions such as `0.25` are allowed.

Editors that use `yaml-language-server` complete and check these keys: the first line of
`inventory/lab/group_vars/all/mesh.yml` names the schema.
"""

TAIL = """\
## What an app finds

A Flask app gets these environment variables from vmesh. For an `external` app, vmesh writes them to
`/etc/vmesh/<service>.env` on its host.

| variable | what it is |
|---|---|
| `<NAME>_URL` | the URL of an upstream, one for each of its `calls`; `-` becomes `_` |
| `MESH_ADDRESS` | the mesh address of its host |
| `SERVICE_NAME` | its own name |

The URLs have loopback addresses that depend only on the names of caller and call, so other changes
of the mesh do not change them.

## What an app learns of a client

| request header | what it contains | set by |
|---|---|---|
| `x-envoy-external-address` | the client's address; inside the mesh the caller's | an Envoy |
| `x-forwarded-for` | addresses on the way, nearest last | trusted peers, then the edge |
| `x-forwarded-proto` | the client's scheme | a trusted peer, else the edge |
| `x-forwarded-host`, `x-forwarded-port` | the host and port of the client's request | a trusted peer only |

The edge removes all other headers from which apps take the client or the URL (`forwarded`,
`x-real-ip`, `x-forwarded-prefix`, `x-original-url` and similar ones), and Envoy's own
(`x-envoy-*`), which only peers in `control_cidrs` may set. So a client cannot forge them. If such a
header has a list, the last value counts.

A Flask app need not read these headers. The following are correct without code in the app, and
without `ProxyFix`:

- `request.remote_addr`: the client's address.
- `request.scheme`: `http` or `https`, as in the client's request.
- `request.host`, URLs of `url_for(..., _external=True)` and redirects: the name and port in the
  client's request.

gunicorn itself trusts no header, neither `X-Forwarded-Ssl` nor `SCRIPT_NAME`. A header whose name
has a `_` does not reach a Flask app, as WSGI cannot tell `_` from `-`; an `external` app gets it.

## Trace headers between hops

Envoy makes the spans, one for each HTTP hop: at the edge, into a service, out of a service. An
app only forwards the headers. It may use W3C or B3: an app gets the span of its Envoy as
`traceparent` and as `x-b3-traceid`, `x-b3-spanid`, `x-b3-sampled`, which always agree.

| sent by an app, or by a trusted peer of an edge | what Envoy does |
|---|---|
| a valid `traceparent`, of any version | joins that trace, sampled by the flags' lowest bit |
| no valid `traceparent`, but valid B3 | joins that trace; without a decision it is sampled |
| a decision alone: `b3: 0`, `x-b3-sampled: 0` | begins a trace that is not sampled |
| anything else, or nothing | begins a trace, sampled by the edge's share or `mesh_tracing`'s |
| `x-request-id`, of any form | keeps it; it decides nothing |

B3 is the header `b3`, or `x-b3-traceid`, `x-b3-spanid`, `x-b3-sampled`, `x-b3-flags`. Its ids may
lack leading zeros or be in capitals, and `true` and `false` are read as 1 and 0. Only an edge
decides what is sampled: the Envoys behind it follow the trace context. Between two Envoys only
`traceparent` goes along.

An edge accepts no trace context from peers that are not in its `trusted_cidrs`: it removes
`traceparent`, `tracestate`, `b3`, `x-b3-*` and `x-ot-span-context`, replaces `x-request-id`, and
begins a trace of its own.

## Variables of the roles

| variable | what it is |
|---|---|
| `jaeger_release` | an official archive, `{path or url, sha256}`; without it Jaeger is built |
| `jaeger_retention_hours`, `jaeger_memory_mib`, … | see [roles/jaeger](../roles/jaeger/README.md) |
| `envoy_concurrency`, `envoy_log_level`, … | see [roles/envoy](../roles/envoy/README.md) |
| `lab_*` | the lab's VMs; see [roles/lab](../roles/lab/README.md) |
"""  # noqa: E501


@dataclass(frozen=True)
class Section:
    """A heading, what holds for all of it, and the definition whose keys it lists."""

    anchor: str
    title: str
    about: str
    definition: str | None = None


SECTIONS = (
    Section(
        "services",
        "mesh_services: services by name",
        "A name becomes a DNS label, a systemd instance, a Linux user and a cluster: 1 to 26"
        " characters, a-z, 0-9 and `-`, beginning with a letter, not ending with `-`; not"
        " `envoy`, `jaeger` or `localhost`.",
        "service",
    ),
    Section("app", "app: what answers", "", "app"),
    Section(
        "calls",
        "calls: what is called, and how",
        "A mapping of names to policies; `{}` takes the defaults. A call with `host` and `port`"
        " leads to an address outside the mesh, and its name is the caller's own choice.",
        "call",
    ),
    Section(
        "policies",
        "policies: how it is called",
        "Set them at the upstream service (`policies`, for all its callers) or at one call"
        " (`calls.<name>`). A key of the call overrides the same key of the service.",
        "policies",
    ),
    Section("tls", "tls: TLS to an address outside", "", "tls"),
    Section(
        "edges",
        "mesh_edges: edges by name",
        "The Envoys that take requests from outside the mesh. Names follow the rules of services'"
        " names, and no edge has a service's name.",
        "edge",
    ),
    Section(
        "routes",
        "routes: what is answered by whom",
        "A list of mappings. Their order has no effect, except between regular expressions.",
        "route",
    ),
    Section(
        "header_match",
        "headers: conditions on request headers",
        "For each header in a route's `headers`: its exact value as a string, or one of these.",
        "header_match",
    ),
    Section(
        "filters",
        "require, rate_limit, max_request_bytes, cors, compression",
        "Set them at an edge, a virtual host or a route. A route's setting overrides the virtual"
        " host's, which overrides the edge's.",
    ),
    Section(
        "mesh_tracing",
        "mesh_tracing: where spans go",
        "",
        "mesh_tracing",
    ),
    Section(
        "tracing",
        "tracing: of an edge or a route",
        "Overrides `mesh_tracing` for an edge or a route.",
        "tracing",
    ),
    Section(
        "tags",
        "tags: what spans carry beside Envoy's own",
        "A mapping of names (letters, digits, `_`, `.` and `-`) to one of these.",
        "tag",
    ),
    Section(
        "mesh_security",
        "mesh_security: how proxies speak with each other",
        "[From plaintext to mTLS](operating.md#from-plaintext-to-mtls-and-back) tells what a run"
        " does.",
        "mesh_security",
    ),
    Section(
        "mesh_rollout",
        "mesh_rollout: how a change goes from host to host",
        "[Operating vmesh](operating.md) describes a rollout.",
        "mesh_rollout",
    ),
    Section(
        "mesh_firewall",
        "mesh_firewall: who may connect to the hosts",
        "The rules of the mesh itself follow from its services, calls and edges. `./mesh plan`"
        " tells what opens and closes. There is [a recipe](recipes.md#a-firewall-on-the-hosts).",
        "mesh_firewall",
    ),
    Section(
        "opening",
        "open: what else can be reached",
        "A list of mappings in `mesh_firewall`, for all hosts of the mesh.",
        "opening",
    ),
    Section(
        "mesh_patch",
        "mesh_patches: changes of Envoy's configuration that vmesh has no key for",
        "A list of mappings, applied in their order. A patch that matches nothing is an error, "
        "and so is one that changes what vmesh needs: a resource's name and type, how endpoints "
        "are found, the names of route tables and statistics, and of the bootstrap the admin "
        "interface, the node's id, cluster and `bootstrap_version`, and the watched files. The "
        "real Envoy validates the result before a host is touched. `./mesh plan` tells which "
        "patches are new, change or go.",
        "mesh_patch",
    ),
    Section(
        "variables",
        "Versions, addresses and zones",
        "All hosts share `mesh_envoy_version` and `mesh_operator_bind`, like the variables above."
        " The other two are variables of a host, in `hosts.yml` or `host_vars`.",
    ),
)

# What the sections without a definition of their own list.
FILTERS = ("require", "rate_limit", "max_request_bytes", "cors", "compression")
VARIABLES = ("mesh_envoy_version", "mesh_operator_bind", "mesh_address", "mesh_zone")
# References to these are links to their section.
LINKS = {
    "#/$defs/app": "app",
    "#/$defs/calls": "calls",
    "#/$defs/policies": "policies",
    "#/$defs/tls": "tls",
    "#/$defs/routes": "routes",
    "#/$defs/require": "require",
    "#/$defs/rate_limit": "rate_limit",
    "#/$defs/max_request_bytes": "max_request_bytes",
    "#/$defs/cors": "cors",
    "#/$defs/compression": "compression",
    "#/$defs/tracing": "tracing",
    "#/$defs/tags": "tags",
    **{
        f"#/$defs/policies/properties/{name}": f"policies.{name}"
        for name in (
            "timeout",
            "connect_timeout",
            "retries",
            "load_balancing",
            "hash_on",
            "circuit_breaker",
            "outlier_detection",
            "health_check",
        )
    },
}


def reference(model: Schema) -> str:
    """Return the text of docs/reference.md for `model`, the schema as `schema.load` returns it."""
    contents = "\n".join(f"- [{section.title}](#{section.anchor})" for section in SECTIONS)
    parts = [HEAD, contents + "\n", *(_section(model, section) for section in SECTIONS), TAIL]
    return "\n".join(parts)


def _section(model: Schema, section: Section) -> str:
    lines = [f'## <a id="{section.anchor}"></a>{section.title}', ""]
    if section.about:
        lines += [section.about, ""]
    if section.definition is not None:
        definition = model["$defs"][section.definition]
        lines += [f"{rule}\n" for rule in _rules(definition)]
        lines += _keys(definition, section.anchor, "")
    elif section.anchor == "filters":
        for name in FILTERS:
            lines += _key(name, model["$defs"][name], name, "", required=False)
            lines += _keys(model["$defs"][name], name, f"{name}.")
    else:
        for name in VARIABLES:
            lines += _key(name, model["properties"][name], name, "", required=False)
    return "\n".join(lines)


def _keys(rule: Schema, anchor: str, prefix: str) -> Iterator[str]:
    """Yield the lines of all keys of `rule`, those of the mappings inside it included."""
    for name, given in rule.get("properties", {}).items():
        required = name in rule.get("required", ())
        yield from _key(name, given, f"{anchor}.{name}", prefix, required=required)
        if given.get("$ref") in LINKS:
            continue
        inner = schema.resolved(given)
        dotted = f"{prefix}{name}."
        if (
            isinstance(given.get("additionalProperties"), Mapping)
            and "properties" in given["additionalProperties"]
        ):
            inner, dotted = given["additionalProperties"], f"{dotted}<name>."
        yield from _keys(inner, f"{anchor}.{name}", dotted)


def _key(name: str, given: Schema, anchor: str, prefix: str, *, required: bool) -> Iterator[str]:
    """Yield the lines of one key: what may be set, what it is, why, an example."""
    rule = schema.resolved(given)
    link = LINKS.get(given.get("$ref", ""))
    see = f"See [{link}](#{link})."
    begin = f'- <a id="{anchor}"></a>**`{prefix}{name}`**'
    if link is not None and "description" not in given:
        yield from (f"{begin}: {'**required**; ' if required else ''}see [{link}](#{link})", "")
        return
    facts = [str(rule["x-expected"])]
    if required:
        facts.append("**required**")
    elif _has_default(rule):
        facts.append(f"default **`{flow(rule['default'])}`**")
    lines = [
        f"{begin}: {'; '.join(facts)}",
        " ".join([rule["description"], *_rules(rule), *([see] if link else [])]),
    ]
    if "x-why" in rule:
        lines.append(f"*Why{' this default' if _has_default(rule) else ''}:* {rule['x-why']}")
    if examples := [f"`{name}: {flow(example)}`" for example in rule.get("examples", ())]:
        lines.append(f"*Example:* {' or '.join(examples)}")
    # A backslash at the end of a line is a line break.
    yield from "\\\n  ".join(lines).split("\n")
    yield ""


def _has_default(rule: Schema) -> bool:
    """Tell whether there is a default to show: an empty mapping says nothing by itself."""
    return "default" in rule and rule["default"] != {}


def _rules(rule: Schema) -> Iterator[str]:
    """Yield what holds between the keys of a mapping, as sentences."""
    alternatives = [rule, *rule.get("allOf", ())]
    for each in alternatives:
        for word, kind in (("Exactly one", "oneOf"), ("At least one", "anyOf")):
            if kind in each:
                choices = ", ".join(f"`{choice['required'][0]}`" for choice in each[kind])
                yield f"{word} of {choices} must be set."
    together: dict[tuple[str, ...], list[str]] = {}
    for name, others in rule.get("dependentRequired", {}).items():
        together.setdefault(tuple(others), []).append(name)
    for others, names in together.items():
        listed = ", ".join(f"`{name}`" for name in names)
        yield f"{listed}: only together with {', '.join(f'`{other}`' for other in others)}."


def flow(value: Any) -> str:
    """Return `value` as YAML in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{flow(key)}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, str):
        return value if _is_plain(value) else json.dumps(value, ensure_ascii=False)
    return json.dumps(value)


def _is_plain(text: str) -> bool:
    """Tell whether YAML, 1.1 as Ansible reads it, takes the bare `text` for itself in a flow."""
    try:
        return bool(yaml.safe_load(f"[{text}]") == [text])
    except yaml.YAMLError:
        return False


def write(file: Path = FILE) -> None:
    """Write the reference of the schema to `file`."""
    file.write_text(reference(schema.load()))


if __name__ == "__main__":
    write()
