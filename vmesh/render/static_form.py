"""The static form: one bootstrap that says the same as the watched files of a proxy.

`envoy --mode validate` opens no file that a path_config_source names, so faults in them would
pass; in this form it sees them all. It is put together from the very text that is shipped.

Replicas of a service share nearly all of that text, and a large mesh has thousands of
proxies, so every block of YAML and every resource is worked on once per StaticForms.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

# Whole documents are slow to read even with the C parser; the plain one is five times slower.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_KEY = re.compile(r'("[^"\\]*"|[^\s"#\[{-][^"\[{]*?):(?: (.*))?$')

BOOTSTRAP = "bootstrap.yaml"
LISTENERS = "listeners/listeners.yaml"
CLUSTERS = "clusters/clusters.yaml"


class Blocks:
    """Reads the YAML that the templates emit, each block of it once.

    A block that is a mapping or a list in block style is taken apart line by line, by
    indentation; whatever has another form (a value, a flow) is read by the YAML library. The
    result is shared between readers: do not change it.
    """

    def __init__(self) -> None:
        self._read: dict[str, Any] = {}
        self._values: dict[str, Any] = {}

    def read(self, text: str) -> Any:
        """Return what the YAML document `text` says."""
        if text not in self._read:
            lines = [line for line in text.split("\n") if not _is_empty(line)]
            self._read[text] = self._block(lines)
        return self._read[text]

    def _block(self, lines: list[str]) -> Any:
        """Return what `lines`, whose first one is not indented, say."""
        text = "\n".join(lines)
        if text not in self._read:
            if lines and lines[0].startswith("- "):
                value: Any = [self._item(part) for part in _parts(lines, "- ")]
            elif lines and _KEY.match(lines[0]):
                value = dict(self._entry(part) for part in _parts(lines, ""))
            else:
                value = self._value(text)
            self._read[text] = value
        return self._read[text]

    def _value(self, text: str) -> Any:
        """Return the value or the flow in `text`."""
        if text not in self._values:
            self._values[text] = yaml.load(text, _Loader)
        return self._values[text]

    def _item(self, lines: list[str]) -> Any:
        """Return the item of a list in `lines`, the first of which begins with a dash."""
        return self._block([line[2:] for line in lines])

    def _entry(self, lines: list[str]) -> tuple[str, Any]:
        """Return key and value of the entry of a mapping in `lines`."""
        found = _KEY.match(lines[0])
        if found is None:
            raise ValueError(f"not an entry of a mapping: {lines[0]}")
        key, value = found.groups()
        if value is None and len(lines) > 1:
            rest = lines[1:]
            depth = len(rest[0]) - len(rest[0].lstrip(" "))
            read = self._block([line[depth:] for line in rest])
        else:
            read = self._value("\n".join([value or "~", *lines[1:]]))
        return key.strip('"'), read


def _is_empty(line: str) -> bool:
    return not line or line.isspace() or line.lstrip(" ").startswith("#")


def _parts(lines: list[str], mark: str) -> Iterator[list[str]]:
    """Yield `lines` cut before each line that is not indented and begins with `mark`.

    A list may be as little indented as the key before it, hence the dash is no new part
    of a mapping.
    """
    part: list[str] = []
    for line in lines:
        begins = line.startswith(mark) if mark else line[0] not in " -"
        if begins and part:
            yield part
            part = []
        part.append(line)
    if part:
        yield part


class StaticForms:
    """Makes static forms, of as many proxies as there are."""

    def __init__(self) -> None:
        self.blocks = Blocks()
        self._made: dict[tuple[str, ...], str] = {}

    def text(self, files: Mapping[str, str]) -> str:
        """Return the static form of a proxy's `files` (path -> content) as JSON."""
        bootstrap = self.blocks.read(files[BOOTSTRAP])
        kept = {key: value for key, value in bootstrap.items() if key != "dynamic_resources"}
        listeners = [self._listener(text, files) for text in resources(files[LISTENERS])]
        clusters = [self._cluster(text, files) for text in resources(files[CLUSTERS])]
        static = f'{{"listeners": [\n{_lines(listeners)}\n], "clusters": [\n{_lines(clusters)}\n]}}'
        return f'{json.dumps(kept)[:-1]},\n"static_resources": {static}}}\n'

    def _listener(self, text: str, files: Mapping[str, str]) -> str:
        """Return a listener with its route tables in place, as JSON."""
        listener = self._resource(text)
        tables = {
            name: files[f"routes/{name}.yaml"]
            for chain in listener["filter_chains"]
            if (name := _manager(chain)["rds"]["route_config_name"])
        }
        key = (text, *tables.values())
        if key not in self._made:
            chains = [
                _with_route_table(
                    chain, self._only(tables[_manager(chain)["rds"]["route_config_name"]])
                )
                for chain in listener["filter_chains"]
            ]
            self._made[key] = json.dumps({**listener, "filter_chains": chains})
        return self._made[key]

    def _cluster(self, text: str, files: Mapping[str, str]) -> str:
        """Return a cluster with its endpoints in place, as JSON."""
        cluster = self._resource(text)
        watched = cluster["type"] == "EDS"
        endpoints = files[f"endpoints/{cluster['name']}.yaml"] if watched else ""
        key = (text, endpoints)
        if key not in self._made:
            if watched:
                cluster = {**cluster, "type": "STATIC", "load_assignment": self._only(endpoints)}
                del cluster["eds_cluster_config"]
            self._made[key] = json.dumps(_without_hosts_files(cluster))
        return self._made[key]

    def _only(self, file: str) -> dict[str, Any]:
        """Return the one resource of `file`."""
        (text,) = resources(file)
        return self._resource(text)

    def _resource(self, text: str) -> dict[str, Any]:
        """Return the resource in `text`, a list of one, without its @type."""
        (resource,) = self.blocks.read(text)
        return {key: value for key, value in resource.items() if key != "@type"}


def resources(file: str) -> list[str]:
    """Return the text of each resource of a rendered `file`.

    Each begins with `- "@type"` in the first column; the module envoy_config counts on that.
    """
    body = file.partition("resources:\n")[2]
    starts = [found.start() for found in re.finditer(r'^- "@type"', body, re.MULTILINE)]
    return [body[start:end] for start, end in zip(starts, [*starts[1:], len(body)], strict=True)]


def _lines(texts: list[str]) -> str:
    return ",\n".join(texts)


def _manager(chain: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a filter chain's HTTP connection manager."""
    manager: dict[str, Any] = chain["filters"][0]["typed_config"]
    return manager


def _with_route_table(chain: Mapping[str, Any], table: dict[str, Any]) -> dict[str, Any]:
    manager = {key: value for key, value in _manager(chain).items() if key != "rds"}
    network_filter = {**chain["filters"][0], "typed_config": {**manager, "route_config": table}}
    return {**chain, "filters": [network_filter]}


def _without_hosts_files(cluster: Mapping[str, Any]) -> dict[str, Any]:
    """Return `cluster` without the authorities' file of the host, which the controller may lack.

    A certificate's name cannot be checked without authorities, so that check goes as well.
    """
    socket = cluster.get("transport_socket")
    if socket is None:
        return dict(cluster)
    config = socket["typed_config"]
    common = config["common_tls_context"]
    if "filename" not in common.get("validation_context", {}).get("trusted_ca", {}):
        return dict(cluster)
    common = {key: value for key, value in common.items() if key != "validation_context"}
    config = {**config, "common_tls_context": common}
    return {**cluster, "transport_socket": {**socket, "typed_config": config}}


def static_form(files: Mapping[str, str]) -> dict[str, Any]:
    """Return the static form of one proxy's `files` (path -> content)."""
    form: dict[str, Any] = json.loads(StaticForms().text(files))
    return form
